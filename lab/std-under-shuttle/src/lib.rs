//! `std` with shuttle's atomics and locks in [`sync`].
//!
//! A crate of models declares `extern crate std_under_shuttle as std;`. Then
//! `std::sync::Mutex` is shuttle's in each of its files, and shuttle runs the
//! other tasks while one of them holds a lock. With the real lock, the first
//! task that waits would block the only thread for ever.
//!
//! Everything else is the real `std`, also under the name [`real`]. `OnceLock`,
//! `LazyLock` and `thread` are std's, so an initializer must not yield. The types
//! of [`sync`] panic outside of a shuttle model: use `core::sync` or `real::sync`
//! there.

pub extern crate std as real;

pub use real::*;

/// `std::sync` with shuttle's atomics and locks.
pub mod sync {
    pub use real::sync::*;
    pub use shuttle::sync::{
        Barrier, BarrierWaitResult, Condvar, Mutex, MutexGuard, Once,
        OnceState, RwLock, RwLockReadGuard, RwLockWriteGuard,
        WaitTimeoutResult, atomic, mpsc,
    };
}
