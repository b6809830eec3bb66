//! Compiles the same sources a second time, against loom, which runs threads in
//! every order that it distinguishes. A plain `cargo test` runs the models.

#![allow(unused_imports, reason = "an answer uses only some of them")]

mod common;
mod model_checked;

use week05::window;

#[path = "../../src/bulkhead.rs"]
pub mod bulkhead;
#[path = "../../src/criticality.rs"]
pub mod criticality;
#[path = "../../src/gcra.rs"]
pub mod gcra;
#[path = "../../src/gutter.rs"]
pub mod gutter;
#[path = "../../src/sre_breaker.rs"]
pub mod sre_breaker;
#[path = "../../src/striped.rs"]
pub mod striped;

mod models {
    mod bulkhead;
    mod criticality;
    mod gcra;
    mod gutter;
    mod sre_breaker;
    mod striped;
}
