//! The same sources, compiled a second time against loom, so that a plain
//! `cargo test` checks every interleaving.

#![allow(unused_imports, reason = "an answer uses what it needs")]

mod common;
mod in_loom;
mod machines;
mod stress;
mod sync;
mod tasks;

use week03::memory_model;

#[path = "../../src/limit.rs"]
pub mod limit;
#[path = "../../src/machine.rs"]
pub mod machine;
#[path = "../../src/swap.rs"]
pub mod swap;

mod models {
    mod limit;
    mod swap;
}
