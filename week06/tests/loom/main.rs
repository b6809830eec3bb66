//! Compiles the same sources a second time, against model checkers: loom runs
//! threads, and shuttle runs tasks, in many orders. A plain `cargo test` runs
//! both.

#![allow(unused_imports, reason = "an answer uses only some of them")]

mod common;
mod model_checked;

use week06::hot;

#[path = "../../src/local_cache.rs"]
pub mod local_cache;
#[path = "../../src/singleflight.rs"]
pub mod singleflight;

mod models {
    mod local_cache;
    mod singleflight;
}
