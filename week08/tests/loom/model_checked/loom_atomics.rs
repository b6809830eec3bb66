//! `loom_atomics` under loom, which runs threads in every order.

pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
