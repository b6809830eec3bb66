//! Like `loom.rs`, for a week with the module `tokio_under_shuttle`. Here,
//! `tokio` and `tokio_util` mean shuttle's types. `std` does so, too, unless loom
//! runs a model of a subject. The generated file cannot contain these lines:
//! rustc rejects them in an included file.

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
