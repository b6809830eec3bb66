//! `shuttle_tasks` under shuttle, which runs async code in random orders.

pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};
pub(crate) use shuttle_tokio_impl::sync::{
    AcquireError, Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError,
    oneshot,
};
pub(crate) use shuttle_tokio_impl::task::{Id, JoinHandle, try_id};
pub(crate) use shuttle_tokio_impl::{spawn, task_local};
pub(crate) use shuttle_tokio_util_impl::sync::{CancellationToken, DropGuard};
