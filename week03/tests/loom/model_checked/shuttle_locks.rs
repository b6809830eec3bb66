//! `shuttle_locks` under shuttle, which runs threads in random orders.

#![allow(dead_code, reason = "an attempt may need more than the answer")]

use std::ops::Deref;

pub(crate) use shuttle::sync::atomic::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering,
};
pub(crate) use shuttle::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
    RwLockWriteGuard, Weak, mpsc,
};
pub(crate) use shuttle::{thread, thread_local};

/// The real `ArcSwap`. Shuttle may switch threads before each use.
#[derive(Debug, Default)]
pub(crate) struct ArcSwap<T>(arc_swap::ArcSwap<T>);

/// The real `ArcSwapOption`. Shuttle may switch threads before each use.
#[derive(Debug, Default)]
pub(crate) struct ArcSwapOption<T>(arc_swap::ArcSwapOption<T>);

impl<T> ArcSwap<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self(arc_swap::ArcSwap::new(value))
    }

    pub(crate) fn from_pointee(value: T) -> Self {
        Self(arc_swap::ArcSwap::from_pointee(value))
    }
}

impl<T> ArcSwapOption<T> {
    pub(crate) fn new(value: Option<Arc<T>>) -> Self {
        Self(arc_swap::ArcSwapOption::new(value))
    }

    pub(crate) fn empty() -> Self {
        Self::new(None)
    }

    pub(crate) fn from_pointee(value: impl Into<Option<T>>) -> Self {
        Self(arc_swap::ArcSwapOption::from_pointee(value))
    }
}

impl<T> Deref for ArcSwap<T> {
    type Target = arc_swap::ArcSwap<T>;

    fn deref(&self) -> &Self::Target {
        switch_point();
        &self.0
    }
}

impl<T> Deref for ArcSwapOption<T> {
    type Target = arc_swap::ArcSwapOption<T>;

    fn deref(&self) -> &Self::Target {
        switch_point();
        &self.0
    }
}

/// Lets shuttle switch threads: it can do so at each access to an atomic.
fn switch_point() {
    AtomicBool::new(false).load(Ordering::SeqCst);
}
