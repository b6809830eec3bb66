//! The real command in a copy of a miniature workbook.

mod mini;

mod readers;
mod troubles;
mod verify;
