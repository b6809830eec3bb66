//! Compiles the same sources a second time, against model checkers. loom runs
//! threads in every order that it distinguishes; `machines.rs` shows the orders
//! that it does not distinguish. shuttle runs tasks, and threads with locks, in
//! many orders. A plain `cargo test` runs both.

#![allow(unused_imports, reason = "an answer uses only some of them")]

// `crate::group` imports from tokio, tokio-util and `std::sync` directly. In
// this crate, these names mean shuttle's types.
extern crate self as tokio;
extern crate self as tokio_util;
extern crate std_under_shuttle as std;
extern crate tokio as real_tokio;

mod common;
mod in_loom;
mod machines;
mod model_checked;
mod stand_ins;
mod stress;
mod tokio_under_shuttle;

pub(crate) use tokio_under_shuttle::*;
use week03::{layers, memory_model, payload};

#[path = "../../src/config.rs"]
pub mod config;
#[path = "../../src/epoch.rs"]
pub mod epoch;
#[path = "../../src/group.rs"]
pub mod group;
#[path = "../../src/limit.rs"]
pub mod limit;
#[path = "../../src/machine.rs"]
pub mod machine;
#[path = "../../src/swap.rs"]
pub mod swap;

mod models {
    mod config;
    mod epoch;
    mod group;
    mod limit;
    mod swap;
}
