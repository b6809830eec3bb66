//! Week 5: stay available under overload: count, limit, shed, break, retry.
//!
//! | Exercise | Topic | Question |
//! |----------|-------|----------|
//! | [`window`] | Sliding window in a ring of buckets | How many requests came in the last ten seconds, also after an idle hour? |
//! | [`gcra`] | Rate limit: GCRA | How do threads share a rate limit without a lock, and how are idle keys forgotten? |
//! | [`sre_breaker`] | Circuit breaker: adaptive throttling | How does a client send less to a backend that fails, and notice that it works again? |
//!
//! [`layer`] puts any of these policies around a tower service.

#![forbid(unsafe_code)]

pub mod gcra;
pub mod layer;
pub mod sre_breaker;
pub mod window;

mod model_checked;
mod policies;
