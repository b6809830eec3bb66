//! crossbeam-epoch. `tests/loom` replaces it with a model that loom can check.

#![allow(unused_imports, reason = "an attempt may need more than the answer")]

pub(crate) use crossbeam_epoch::{
    Atomic, Collector, CompareExchangeError, Guard, LocalHandle, Owned,
    Pointer, Shared, default_collector, pin, unprotected,
};
