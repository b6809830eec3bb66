//! Compiles the same sources a second time, against model checkers: loom runs
//! threads, and shuttle runs tasks, in many orders. A plain `cargo test` runs
//! both.

#![allow(unused_imports, reason = "an answer uses only some of them")]

mod common;
mod model_checked;

#[path = "../../src/segment.rs"]
pub mod segment;
#[path = "../../src/snowflake.rs"]
pub mod snowflake;

mod models {
    mod segment;
    mod snowflake;
}
