//! `shuttle_tasks` under shuttle, which runs async code in random orders.

pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard, Weak};
pub(crate) use shuttle_tokio_impl::sync::{
    AcquireError, Notify, OnceCell, OwnedSemaphorePermit, Semaphore,
    TryAcquireError, oneshot, watch,
};
pub(crate) use shuttle_tokio_impl::task::{
    AbortHandle, Id, JoinHandle, try_id,
};
pub(crate) use shuttle_tokio_impl::{spawn, task_local};
pub(crate) use shuttle_tokio_util_impl::sync::{CancellationToken, DropGuard};
