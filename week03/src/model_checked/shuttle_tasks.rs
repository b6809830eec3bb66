//! Tasks and what synchronises them. `tests/loom` replaces them with shuttle's.

#![allow(unused_imports, reason = "an attempt may need more than the answers")]

pub(crate) use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) use tokio::sync::{
    AcquireError, Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit,
    TryAcquireError, oneshot,
};
pub(crate) use tokio::task::{
    AbortHandle, Id, JoinError, JoinHandle, id, try_id,
};
pub(crate) use tokio::{spawn, task_local};
pub(crate) use tokio_util::sync::{CancellationToken, DropGuard, DropGuardRef};
