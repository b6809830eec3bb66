//! Compiles the same sources a second time, against model checkers. loom runs
//! threads in every order that it distinguishes; `machines.rs` shows the orders
//! that it does not distinguish. shuttle runs tasks, and threads with locks, in
//! many orders. A plain `cargo test` runs both.

#![allow(unused_imports, reason = "an answer uses only some of them")]

mod common;
mod in_loom;
mod machines;
mod model_checked;
mod stand_ins;
mod stress;

use week03::{layers, memory_model, payload};

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
