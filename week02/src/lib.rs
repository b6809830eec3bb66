//! Week 2: an error that tells the caller what to do.
//!
//! | Exercise | Topic | Question |
//! |----------|-------|----------|
//! | [`no_rows`] | No rows: return a domain error | What does a read return if there is no row? |
//! | [`context`] | Error context: one fact per layer | Which fact does each layer add to an error? |
//! | [`report`] | Error reporting and status codes | Which layer logs an error, and what may the client see of it? |
//! | [`classify`] | Error classification: retry or not | What can the caller do about each kind of failure? |

#![forbid(unsafe_code)]

pub mod classify;
pub mod context;
pub mod no_rows;
pub mod report;

pub mod db;
