//! Renders the notes of the workbook as a book, and serves the book.
//!
//! The folder `pages` has the notes as plain markdown, which readers can also
//! read in an editor. The book adds to the page of each exercise the question of
//! the exercise, and its foils as diffs of the answer.
//!
//! | Module | Purpose |
//! |--------|---------|
//! | [`book`] | Renders the pages into a folder of HTML. |
//! | [`serve`] | Serves that folder to browsers on this machine. |
//!
//! The Rust code blocks of the pages are doc tests. `tests/` checks the pages and
//! the rendered book.

#![forbid(unsafe_code)]

pub mod book;
mod exercise;
mod foils;
pub mod serve;

#[cfg(doctest)]
mod pages {
    include!(concat!(env!("OUT_DIR"), "/pages.rs"));
}
