//! What threads share with.

#![allow(unused_imports, reason = "an attempt may need it")]

pub(crate) use std::sync::atomic::AtomicU32;
