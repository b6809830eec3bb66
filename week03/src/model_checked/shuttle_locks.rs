//! Threads, locks and atomics. `tests/loom` replaces them with shuttle's.

#![allow(unused_imports, reason = "an attempt may need more than the answer")]

pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering,
};
pub(crate) use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
    RwLockWriteGuard, Weak, mpsc,
};
pub(crate) use std::{thread, thread_local};

pub(crate) use arc_swap::{ArcSwap, ArcSwapOption};
