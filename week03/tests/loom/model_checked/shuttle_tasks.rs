//! `shuttle_tasks` under shuttle, which runs async code in random orders. The
//! wrappers add methods of tokio that shuttle's types lack.

#![allow(dead_code, reason = "an attempt may need more than the answers")]

// In `tests/loom`, the name `std` may mean another crate.
extern crate std as real_std;

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use shuttle_tokio_impl::{sync, task};
use shuttle_tokio_util_impl::{sync as util, task as util_task};

pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};
pub(crate) use shuttle_tokio_impl::runtime::TryCurrentError;
pub(crate) use shuttle_tokio_impl::sync::{
    AcquireError, SemaphorePermit, TryAcquireError, oneshot,
};
pub(crate) use shuttle_tokio_impl::task_local;

task_local! {
    static ID: Id;
}

/// The id of a task. An id is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id(u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(crate) fn try_id() -> Option<Id> {
    ID.try_with(|id| *id).ok()
}

pub(crate) fn id() -> Id {
    try_id().expect("called in a task")
}

type Payload = Box<dyn Any + Send>;

/// Spawns `future`. As under tokio, a panic ends only this task: its handle
/// returns the payload.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = Id(NEXT.fetch_add(1, Relaxed));
    let future = AssertUnwindSafe(ID.scope(id, future)).catch_unwind();
    JoinHandle { task: Box::pin(shuttle_tokio_impl::spawn(future)), id }
}

pub(crate) fn spawn_blocking<F, R>(work: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    spawn(async { work() })
}

#[derive(Debug)]
pub(crate) struct JoinHandle<T> {
    task: Pin<Box<task::JoinHandle<Result<T, Payload>>>>,
    id: Id,
}

impl<T> JoinHandle<T> {
    pub(crate) fn id(&self) -> Id {
        self.id
    }

    pub(crate) fn abort(&self) {
        self.task.abort();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    pub(crate) fn abort_handle(&self) -> AbortHandle {
        AbortHandle { task: self.task.abort_handle(), id: self.id }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Self::Output> {
        let id = self.id;
        self.task.as_mut().poll(context).map(|ended| match ended {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(payload)) => Err(JoinError {
                payload: Some(real_std::sync::Mutex::new(payload)),
                id,
            }),
            Err(_cancelled) => Err(JoinError { payload: None, id }),
        })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct AbortHandle {
    task: task::AbortHandle,
    id: Id,
}

impl AbortHandle {
    pub(crate) fn id(&self) -> Id {
        self.id
    }

    pub(crate) fn abort(&self) {
        self.task.abort();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

/// A task was aborted or, if there is a payload, panicked.
#[derive(Debug)]
pub(crate) struct JoinError {
    payload: Option<real_std::sync::Mutex<Payload>>,
    id: Id,
}

impl JoinError {
    pub(crate) fn id(&self) -> Id {
        self.id
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.payload.is_none()
    }

    pub(crate) fn is_panic(&self) -> bool {
        self.payload.is_some()
    }

    fn resume(self) -> ! {
        match self.try_into_panic() {
            Ok(payload) => resume_unwind(payload),
            Err(cancelled) => panic!("{cancelled}"),
        }
    }

    pub(crate) fn into_panic(self) -> Payload {
        self.try_into_panic().expect("the task panicked")
    }

    pub(crate) fn try_into_panic(self) -> Result<Payload, Self> {
        match self.payload {
            Some(payload) => {
                Ok(payload.into_inner().expect("no panic while locked"))
            }
            None => Err(self),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = if self.is_panic() { "panicked" } else { "was cancelled" };
        write!(f, "task {} {ended}", self.id)
    }
}

impl Error for JoinError {}

/// Aborts its task on drop.
#[derive(Debug)]
pub(crate) struct AbortOnDropHandle<T>(Option<JoinHandle<T>>);

impl<T> AbortOnDropHandle<T> {
    pub(crate) fn new(handle: JoinHandle<T>) -> Self {
        Self(Some(handle))
    }

    pub(crate) fn detach(mut self) -> JoinHandle<T> {
        self.0.take().expect("taken only when it is dropped")
    }
}

impl<T> Deref for AbortOnDropHandle<T> {
    type Target = JoinHandle<T>;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("taken only when it is dropped")
    }
}

impl<T> Future for AbortOnDropHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Self::Output> {
        let handle = self.0.as_mut().expect("taken only when it is dropped");
        Pin::new(handle).poll(context)
    }
}

impl<T> Drop for AbortOnDropHandle<T> {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

/// Aborts its tasks on drop.
#[derive(Debug)]
pub(crate) struct JoinSet<T>(FuturesUnordered<JoinHandle<T>>);

impl<T> Default for JoinSet<T> {
    fn default() -> Self {
        Self(FuturesUnordered::new())
    }
}

impl<T> JoinSet<T> {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn abort_all(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }

    pub(crate) fn detach_all(&mut self) {
        self.0.clear();
    }
}

impl<T: Send + 'static> JoinSet<T> {
    pub(crate) fn spawn<F>(&mut self, future: F) -> AbortHandle
    where
        F: Future<Output = T> + Send + 'static,
    {
        let handle = spawn(future);
        let abort = handle.abort_handle();
        self.0.push(handle);
        abort
    }

    pub(crate) fn spawn_on<F>(
        &mut self,
        future: F,
        _runtime: &Handle,
    ) -> AbortHandle
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.spawn(future)
    }

    pub(crate) async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        self.0.next().await
    }

    pub(crate) fn poll_join_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<T, JoinError>>> {
        self.0.poll_next_unpin(context)
    }

    pub(crate) async fn join_next_with_id(
        &mut self,
    ) -> Option<Result<(Id, T), JoinError>> {
        let id = |handle: &JoinHandle<T>| handle.id;
        let before: Vec<_> = self.0.iter().map(id).collect();
        let ended = self.0.next().await?;
        let after: Vec<_> = self.0.iter().map(id).collect();
        let id = before.into_iter().find(|id| !after.contains(id));
        Some(ended.map(|output| (id.expect("one has ended"), output)))
    }

    pub(crate) async fn join_all(mut self) -> Vec<T> {
        let mut outputs = Vec::new();
        while let Some(ended) = self.join_next().await {
            outputs.push(ended.unwrap_or_else(|error| error.resume()));
        }
        outputs
    }

    pub(crate) fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
        self.0.next().now_or_never().flatten()
    }

    pub(crate) async fn shutdown(&mut self) {
        self.abort_all();
        while self.join_next().await.is_some() {}
    }
}

impl<T> Drop for JoinSet<T> {
    fn drop(&mut self) {
        self.abort_all();
    }
}

/// shuttle's only runtime.
#[derive(Debug, Clone)]
pub(crate) struct Handle;

impl Handle {
    pub(crate) fn current() -> Self {
        Self
    }

    pub(crate) fn try_current() -> Result<Self, TryCurrentError> {
        Ok(Self)
    }

    pub(crate) fn spawn_blocking<F, R>(&self, work: F) -> JoinHandle<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        spawn_blocking(work)
    }

    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn(future)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct TaskTracker(util_task::TaskTracker);

impl TaskTracker {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        spawn(self.0.track_future(future))
    }
}

impl Deref for TaskTracker {
    type Target = util_task::TaskTracker;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

#[derive(Debug, Default)]
pub(crate) struct Notify(sync::Notify);

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// shuttle notifies any of the waiting tasks, also in `notify_one`.
    pub(crate) fn notify_last(&self) {
        self.0.notify_one();
    }
}

impl Deref for Notify {
    type Target = sync::Notify;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// `watch` with `Sender::new`.
pub(crate) mod watch {
    use std::ops::Deref;

    use shuttle_tokio_impl::sync::watch;

    pub(crate) use watch::{Receiver, Ref, error};

    #[derive(Debug)]
    pub(crate) struct Sender<T>(watch::Sender<T>);

    pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = watch::channel(value);
        (Sender(sender), receiver)
    }

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            channel(value).0
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Deref for Sender<T> {
        type Target = watch::Sender<T>;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }
}

#[derive(Debug)]
pub(crate) struct Semaphore(sync::Semaphore);

impl Semaphore {
    pub(crate) const MAX_PERMITS: usize = sync::Semaphore::MAX_PERMITS;

    pub(crate) fn new(permits: usize) -> Self {
        assert!(
            permits <= Self::MAX_PERMITS,
            "a semaphore may not have more than MAX_PERMITS permits"
        );
        Self(sync::Semaphore::new(permits))
    }

    /// Removes up to `n` free permits, and returns their number.
    pub(crate) fn forget_permits(&self, n: usize) -> usize {
        let most = self.0.available_permits().min(n);
        // Another task may take some of them, or wait for all of them.
        for n in (1..=most).rev() {
            let many = u32::try_from(n).expect("a model has few permits");
            if let Ok(permits) = self.0.try_acquire_many(many) {
                permits.forget();
                return n;
            }
        }
        0
    }

    pub(crate) async fn acquire_owned(
        self: Arc<Self>,
    ) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.acquire_many_owned(1).await
    }

    pub(crate) async fn acquire_many_owned(
        self: Arc<Self>,
        permits: u32,
    ) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.0.acquire_many(permits).await?.forget();
        Ok(OwnedSemaphorePermit { semaphore: self, permits })
    }

    pub(crate) fn try_acquire_owned(
        self: Arc<Self>,
    ) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        self.try_acquire_many_owned(1)
    }

    pub(crate) fn try_acquire_many_owned(
        self: Arc<Self>,
        permits: u32,
    ) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        self.0.try_acquire_many(permits)?.forget();
        Ok(OwnedSemaphorePermit { semaphore: self, permits })
    }
}

impl Deref for Semaphore {
    type Target = sync::Semaphore;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

#[must_use]
#[derive(Debug)]
pub(crate) struct OwnedSemaphorePermit {
    semaphore: Arc<Semaphore>,
    permits: u32,
}

impl OwnedSemaphorePermit {
    pub(crate) fn forget(mut self) {
        self.permits = 0;
    }

    pub(crate) fn merge(&mut self, mut other: Self) {
        assert!(
            Arc::ptr_eq(&self.semaphore, &other.semaphore),
            "merging permits from different semaphore instances"
        );
        self.permits += other.permits;
        other.permits = 0;
    }

    pub(crate) fn split(&mut self, n: usize) -> Option<Self> {
        let permits = u32::try_from(n).ok()?;
        self.permits = self.permits.checked_sub(permits)?;
        Some(Self { semaphore: Arc::clone(&self.semaphore), permits })
    }

    pub(crate) fn semaphore(&self) -> &Arc<Semaphore> {
        &self.semaphore
    }

    pub(crate) fn num_permits(&self) -> usize {
        self.permits as usize
    }
}

impl Drop for OwnedSemaphorePermit {
    fn drop(&mut self) {
        if self.permits > 0 {
            self.semaphore.add_permits(self.num_permits());
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct CancellationToken(util::CancellationToken);

impl CancellationToken {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn child_token(&self) -> Self {
        Self(self.0.child_token())
    }

    pub(crate) fn cancelled_owned(
        self,
    ) -> util::WaitForCancellationFutureOwned {
        self.0.clone().cancelled_owned()
    }

    pub(crate) fn drop_guard(self) -> DropGuard {
        DropGuard(Some(self))
    }

    pub(crate) fn drop_guard_ref(&self) -> DropGuardRef<'_> {
        DropGuardRef(Some(self))
    }

    pub(crate) async fn run_until_cancelled_owned<F: Future>(
        self,
        future: F,
    ) -> Option<F::Output> {
        self.0.run_until_cancelled(future).await
    }
}

impl Deref for CancellationToken {
    type Target = util::CancellationToken;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Cancels its token on drop.
#[derive(Debug)]
pub(crate) struct DropGuard(Option<CancellationToken>);

impl DropGuard {
    pub(crate) fn token(&self) -> &CancellationToken {
        self.0.as_ref().expect("taken only when it is dropped")
    }

    pub(crate) fn disarm(mut self) -> CancellationToken {
        self.0.take().expect("taken only when it is dropped")
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        if let Some(token) = &self.0 {
            token.cancel();
        }
    }
}

/// Cancels its token on drop.
#[derive(Debug)]
pub(crate) struct DropGuardRef<'a>(Option<&'a CancellationToken>);

impl<'a> DropGuardRef<'a> {
    pub(crate) fn token(&self) -> &CancellationToken {
        self.0.expect("taken only when it is dropped")
    }

    pub(crate) fn disarm(mut self) -> &'a CancellationToken {
        self.0.take().expect("taken only when it is dropped")
    }
}

impl Drop for DropGuardRef<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.0 {
            token.cancel();
        }
    }
}
