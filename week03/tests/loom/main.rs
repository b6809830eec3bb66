//! The same sources, compiled a second time against loom, so that a plain
//! `cargo test` checks every interleaving.

#![allow(unused_imports, reason = "an answer uses what it needs")]

mod common;
mod sync;

#[path = "../../src/swap.rs"]
pub mod swap;

mod models {
    mod swap;
}
