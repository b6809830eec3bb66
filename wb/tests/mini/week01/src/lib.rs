//! A week as small as a week can be.

pub mod backoff;
pub mod pause;

mod sync;
