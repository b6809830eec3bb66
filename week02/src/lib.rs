//! Week 2: an error that tells the caller what to do.
//!
//! | Exercise | Question |
//! |----------|----------|
//! | [`no_rows`] | What does a read return when there is no row? |
//! | [`context`] | What does each layer add to an error, and what not? |
//! | [`report`] | Who logs an error, and what may the client see of it? |
//! | [`classify`] | What can the caller do about the other failures? |

#![forbid(unsafe_code)]

pub mod classify;
pub mod context;
pub mod no_rows;
pub mod report;

pub mod db;
