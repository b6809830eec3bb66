//! The same sources, compiled a second time: against loom, which runs threads in
//! each order that it tells apart (`machines.rs` shows which it does not), and
//! against shuttle, which runs tasks, and threads with locks, in many. So a plain
//! `cargo test` does both.

#![allow(unused_imports, reason = "an answer uses what it needs")]

mod common;
mod in_loom;
mod machines;
mod model_checked;
mod stress;

use week03::{layers, memory_model};

#[path = "../../src/config.rs"]
pub mod config;
#[path = "../../src/epoch.rs"]
pub mod epoch;
#[path = "../../src/limit.rs"]
pub mod limit;
#[path = "../../src/machine.rs"]
pub mod machine;
#[path = "../../src/swap.rs"]
pub mod swap;

mod models {
    mod config;
    mod epoch;
    mod limit;
    mod swap;
}
