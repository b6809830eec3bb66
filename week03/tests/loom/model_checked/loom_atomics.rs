//! `loom_atomics` under loom, which runs threads in every order.

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::Arc;
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicIsize, AtomicPtr, AtomicU8,
    AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
