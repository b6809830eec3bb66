//! Atomics, `Arc` and `Mutex`. `tests/loom` replaces them with loom's.

#![allow(unused_imports, reason = "an attempt may need more than the answers")]

pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
