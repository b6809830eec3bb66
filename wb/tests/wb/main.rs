//! Runs the real command in a copy of a small workbook.

mod terminal;
mod test_workbook;

mod errors;
mod exercises;
mod language;
mod tools;
mod verify;
mod watch;
