//! The workbook's notes: the pages stand in `pages`, and are held here to what
//! they say. Their Rust fences are doc tests; `tests/pages.rs` follows their
//! links and includes.

#![forbid(unsafe_code)]

#[cfg(doctest)]
mod pages {
    include!(concat!(env!("OUT_DIR"), "/pages.rs"));
}
