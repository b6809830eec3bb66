//! The real command in a copy of a miniature workbook.

mod mini;
mod tty;

mod helpers;
mod readers;
mod troubles;
mod verify;
mod watch;
