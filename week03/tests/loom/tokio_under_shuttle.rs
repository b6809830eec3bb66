//! The names of tokio and tokio-util, for code that shuttle runs.
//!
//! In this crate, `tokio` and `tokio_util` are names of the crate itself, and
//! so `tokio::sync::Notify` is the one in [`sync`].

#![allow(dead_code, unused_imports, reason = "an attempt uses only some names")]

pub(crate) use real_tokio::{join, pin, try_join};
pub(crate) use shuttle_tokio_impl::{select, task_local};

pub(crate) use crate::model_checked::shuttle_tasks::spawn;

pub(crate) mod sync {
    pub(crate) use shuttle_tokio_impl::sync::{
        AcquireError, Mutex, MutexGuard, OnceCell, OwnedMutexGuard, RwLock,
        RwLockReadGuard, RwLockWriteGuard, SemaphorePermit, TryAcquireError,
        broadcast, futures, mpsc, oneshot,
    };
    pub(crate) use shuttle_tokio_util_impl::sync::{
        WaitForCancellationFuture, WaitForCancellationFutureOwned,
    };

    pub(crate) use crate::model_checked::shuttle_tasks::{
        CancellationToken, DropGuard, DropGuardRef, Notify,
        OwnedSemaphorePermit, Semaphore, watch,
    };
}

pub(crate) mod task {
    pub(crate) use shuttle_tokio_impl::task::{
        consume_budget, coop, unconstrained, yield_now,
    };

    pub(crate) use crate::model_checked::shuttle_tasks::{
        AbortHandle, AbortOnDropHandle, Id, JoinError, JoinHandle, JoinSet,
        TaskTracker, id, spawn, spawn_blocking, try_id,
    };
}

/// The real timers. They never fire, since time stands still in a model.
pub(crate) mod time {
    pub(crate) use real_tokio::time::*;
}

pub(crate) mod runtime {
    pub(crate) use crate::model_checked::shuttle_tasks::Handle;
}
