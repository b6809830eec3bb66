//! What each exercise promises.

mod backoff;
mod pause;
