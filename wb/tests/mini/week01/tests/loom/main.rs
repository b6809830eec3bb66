//! The same sources, in the place of a model checker.

#[path = "../../src/backoff.rs"]
pub mod backoff;

mod models {
    mod backoff;
}
