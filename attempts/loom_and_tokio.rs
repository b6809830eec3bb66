//! As `loom.rs`, for a week with the module `tokio_under_shuttle`: the names
//! `tokio`, `tokio_util` and `std` mean types of shuttle, `std` only if loom runs
//! no subject. The compiler accepts these lines only outside of the generated
//! file.

#![allow(
    dead_code,
    unused_imports,
    reason = "a subject may use only some types, and have only one kind of model"
)]

extern crate self as tokio;
extern crate self as tokio_util;
#[cfg(std_under_shuttle)]
extern crate std_under_shuttle as std;
extern crate tokio as real_tokio;

include!(concat!(env!("OUT_DIR"), "/loom.rs"));
