//! What crossbeam-epoch has. `tests/loom` swaps it for one that loom can see.

#![allow(unused_imports, reason = "an attempt may need more than the answer")]

pub(crate) use crossbeam_epoch::{
    Atomic, Collector, CompareExchangeError, Guard, LocalHandle, Owned,
    Pointer, Shared, default_collector, pin, unprotected,
};
