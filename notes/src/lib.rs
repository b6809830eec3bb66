//! The workbook's notes: the pages stand in `pages`, and become a book here.
//!
//! The pages are plain markdown, and are read in an editor as well. What the
//! book adds to an exercise's page comes from the exercise itself: its question,
//! and its foils as diffs of the answer.
//!
//! | Module | |
//! |--------|-|
//! | [`book`] | From the pages to a folder of HTML. |
//! | [`serve`] | That folder in a browser, on this machine alone. |
//!
//! The pages' Rust fences are doc tests; `tests/` holds the pages and the
//! rendered book to what they promise.

#![forbid(unsafe_code)]

pub mod book;
mod exercise;
mod foils;
pub mod serve;

#[cfg(doctest)]
mod pages {
    include!(concat!(env!("OUT_DIR"), "/pages.rs"));
}
