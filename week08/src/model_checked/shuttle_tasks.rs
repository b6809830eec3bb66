//! Tasks and what synchronises them. `tests/loom` replaces them with shuttle's.

#![allow(unused_imports, reason = "an attempt may need more than the answers")]

pub(crate) use std::sync::{Arc, Mutex, MutexGuard, Weak};

pub(crate) use tokio::sync::{
    AcquireError, Notify, OnceCell, OwnedSemaphorePermit, Semaphore,
    TryAcquireError, oneshot, watch,
};
pub(crate) use tokio::task::{AbortHandle, Id, JoinHandle, try_id};
pub(crate) use tokio::{spawn, task_local};
pub(crate) use tokio_util::sync::{CancellationToken, DropGuard};
