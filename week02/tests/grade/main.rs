//! What each exercise promises, one sentence a test.

mod common;

mod classify;
mod context;
mod no_rows;
mod report;
