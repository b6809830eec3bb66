//! An error group with a limit on how many tasks run at a time.
//!
//! *Question.* A thousand files are to be fetched, and no more than ten at a
//! time. What happens to the 990 waiting files when one fetch fails? And what
//! if a fetch starts another fetch?
//!
//! *Idea.* A [group](crate::group) with **slots**. `spawn` waits for a slot,
//! and the task holds the slot until the task is dropped, however it ends. The
//! wait ends when the group is cancelled. A *member*, which is a task of the
//! group, must not wait for a slot, because it already holds one: if every slot
//! is held by a member that waits for a slot, the group deadlocks. So `spawn`
//! refuses a member when no slot is free.
//!
//! *Guarantee.* No more than `limit` tasks run at any time. Waiting spawns get
//! a slot in order of arrival, and none after the group is cancelled. Every
//! task releases its slot, whether it returns, fails, panics, or is dropped. A
//! refused task is given back. [`wait`](Group::wait) returns when every task
//! has ended and no further task can start.
//!
//! *Cost.* A lock and a semaphore at the start and the end of each task. A task
//! that a member starts outside of the group is no member: if the member waits
//! for that task, and that task waits for a slot, they can deadlock.
//!
//! ```
//! use std::num::NonZero;
//!
//! use tokio_util::sync::CancellationToken;
//! use week03::limit::{Group, Refused};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let one = NonZero::new(1).unwrap();
//! let group = Group::<&str>::new(&CancellationToken::new(), one);
//! let (spawner, members) = (group.spawner(), group.spawner());
//! let member = async move {
//!     // This member holds the only slot.
//!     let refused = members.spawn(async { Ok(()) }).await;
//!     assert!(matches!(refused, Err(Refused::Full(_))));
//!     Err("no such file")
//! };
//! assert!(spawner.spawn(member).await.is_ok());
//! assert_eq!(group.wait().await, Err("no such file"));
//! # }
//! ```

use std::fmt;
use std::num::NonZero;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use crate::model_checked::shuttle_tasks::{
    Arc, CancellationToken, DropGuard, Mutex, Notify, OwnedSemaphorePermit,
    Semaphore, spawn, task_local,
};
use crate::payload::Payload;

/// A group of tasks that fail as one, with a limit on how many run at a time.
///
/// Dropping the group cancels its token, aborts its tasks at their next
/// `.await`, and refuses every waiting `spawn`.
pub struct Group<E> {
    spawner: Spawner<E>,
    _cancel_on_drop: [DropGuard; 2],
}

/// Spawns tasks into a [`Group`].
///
/// A member of the group may hold a spawner, and a spawner may outlive the
/// group.
pub struct Spawner<E> {
    shared: Arc<Shared<E>>,
}

/// A task that was not started, given back to the caller.
pub enum Refused<F> {
    /// No slot is free, and the caller must not wait for one.
    Full(F),
    /// The group was cancelled before a slot was free, or has ended.
    Cancelled(F),
}

struct Shared<E> {
    slots: Arc<Semaphore>,
    /// One lock, because "no task is running" and "no task may start" have to
    /// be decided in one step.
    tasks: Mutex<Tasks<E>>,
    /// Notified when the last task has ended.
    idle: Notify,
    token: CancellationToken,
    /// Cancelled when the group is dropped, to abort its tasks.
    abort: CancellationToken,
}

struct Tasks<E> {
    running: usize,
    /// Set when the group has ended: no task may start any more.
    closed: bool,
    /// The first error.
    error: Option<E>,
    panic: Option<Payload>,
}

task_local! {
    /// The address of the group that the task is a member of.
    static MEMBER_OF: usize;
}

impl<E: Send + 'static> Group<E> {
    /// Creates an empty group that runs at most `limit` tasks at a time.
    ///
    /// It is cancelled when `parent` is, and never cancels `parent`. A limit of
    /// [`NonZero::MAX`] is no limit:
    ///
    /// ```
    /// # use std::num::NonZero;
    /// # use tokio_util::sync::CancellationToken;
    /// # use week03::limit::Group;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let parent = CancellationToken::new();
    /// let group = Group::<&str>::new(&parent, NonZero::<usize>::MAX);
    /// assert!(group.spawner().try_spawn(async { Ok(()) }).is_ok());
    /// assert_eq!(group.wait().await, Ok(()));
    /// # }
    /// ```
    pub fn new(parent: &CancellationToken, limit: NonZero<usize>) -> Self {
        let (token, abort) = (parent.child_token(), CancellationToken::new());
        let _cancel_on_drop =
            [token.clone().drop_guard(), abort.clone().drop_guard()];
        let tasks =
            Tasks { running: 0, closed: false, error: None, panic: None };
        // A semaphore with more permits panics. No machine has the memory for so
        // many tasks.
        let permits = limit.get().min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            slots: Arc::new(Semaphore::new(permits)),
            tasks: Mutex::new(tasks),
            idle: Notify::new(),
            token,
            abort,
        });
        Self { spawner: Spawner { shared }, _cancel_on_drop }
    }

    /// Returns the token of the group.
    ///
    /// The token is cancelled when a task fails or panics, when the parent is
    /// cancelled, and when the group has ended.
    pub fn token(&self) -> CancellationToken {
        self.spawner.shared.token.clone()
    }

    /// Returns a spawner for this group, which can be moved into other tasks.
    pub fn spawner(&self) -> Spawner<E> {
        self.spawner.clone()
    }

    /// Waits until every task has ended. From then on, every task is refused.
    ///
    /// # Errors
    ///
    /// Returns the error that occurred first in time.
    ///
    /// # Panics
    ///
    /// Raises the panic of a task again, even if another task failed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the group, which aborts its tasks.
    pub async fn wait(self) -> Result<(), E> {
        let shared = &self.spawner.shared;
        loop {
            let idle = shared.idle.notified();
            if shared.close_if_idle() {
                break;
            }
            idle.await;
        }
        let mut tasks = shared.tasks.lock().expect("no panic while locked");
        let (error, panic) = (tasks.error.take(), tasks.panic.take());
        drop(tasks);
        if let Some(payload) = panic {
            payload.resume();
        }
        error.map_or(Ok(()), Err)
    }
}

impl<E: Send + 'static> Spawner<E> {
    /// Waits for a slot, and starts `task` in it.
    ///
    /// A member, which is a task of this group, never waits.
    ///
    /// # Errors
    ///
    /// Returns `Full` to a member if no slot is free. Returns `Cancelled` if
    /// the group has ended, or is cancelled before or during the wait.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the task and leaks no slot.
    pub async fn spawn<F>(&self, task: F) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let slot = if self.is_member() {
            Arc::clone(&self.shared.slots).try_acquire_owned().ok()
        } else {
            tokio::select! {
                biased;
                () = self.shared.token.cancelled() => None,
                slot = Arc::clone(&self.shared.slots).acquire_owned() => slot.ok(),
            }
        };
        // Checked after the slot: a task that fails cancels the group first,
        // and releases its slot second.
        if self.shared.token.is_cancelled() {
            return Err(Refused::Cancelled(task));
        }
        match slot {
            Some(slot) => self.start(slot, task),
            None => Err(Refused::Full(task)),
        }
    }

    /// Starts `task` if a slot is free, even if the group is cancelled: to
    /// clean up, for example.
    ///
    /// # Errors
    ///
    /// Returns `Full` when no slot is free, and `Cancelled` when the group has
    /// ended.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn try_spawn<F>(&self, task: F) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        match Arc::clone(&self.shared.slots).try_acquire_owned() {
            Ok(slot) => self.start(slot, task),
            // The tasks that hold the slots are about to be dropped.
            Err(_) if self.shared.is_closed() => Err(Refused::Cancelled(task)),
            Err(_) => Err(Refused::Full(task)),
        }
    }

    fn is_member(&self) -> bool {
        let id = self.shared.id();
        MEMBER_OF.try_with(|group| *group == id).unwrap_or(false)
    }

    fn start<F>(
        &self,
        slot: OwnedSemaphorePermit,
        task: F,
    ) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let Some(running) = Running::begin(&self.shared) else {
            return Err(Refused::Cancelled(task));
        };
        let member = Member { task, slot, running };
        spawn(MEMBER_OF.scope(self.shared.id(), async move {
            // Dropped in reverse order: the task, its slot, its count.
            let Member { running, slot: _slot, task } = member;
            let shared = &running.0;
            // The block drops the task and a rejected error, so that a panic in
            // one of their destructors is caught, too.
            let work = AssertUnwindSafe(async {
                let ended = task.await;
                ended.map_err(|error| shared.record_error(error)).is_ok()
            });
            let ended = tokio::select! {
                biased;
                () = shared.abort.cancelled() => return,
                ended = work.catch_unwind() => ended,
            };
            match ended {
                Ok(true) => return,
                Ok(false) => {}
                Err(payload) => shared.record_panic(Payload::new(payload)),
            }
            // Cancelled after the record: an error that the cancellation causes
            // comes later.
            shared.token.cancel();
        }));
        Ok(())
    }
}

impl<E> Shared<E> {
    fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// Records `error` if it is the first one.
    fn record_error(&self, error: E) {
        let mut tasks = self.tasks.lock().expect("no panic while locked");
        let rejected = match tasks.error {
            Some(_) => Some(error),
            None => tasks.error.replace(error),
        };
        // Dropped without the lock: a destructor may run any code.
        drop(tasks);
        drop(rejected);
    }

    /// Records `panic` if it is the first one.
    fn record_panic(&self, panic: Payload) {
        let mut tasks = self.tasks.lock().expect("no panic while locked");
        let rejected = match tasks.panic {
            Some(_) => Some(panic),
            None => tasks.panic.replace(panic),
        };
        drop(tasks);
        drop(rejected);
    }

    fn is_closed(&self) -> bool {
        self.tasks.lock().expect("no panic while locked").closed
    }

    fn close_if_idle(&self) -> bool {
        let mut tasks = self.tasks.lock().expect("no panic while locked");
        tasks.closed |= tasks.running == 0;
        tasks.closed
    }
}

/// A task that has not been polled yet.
///
/// Its fields are dropped in this order, even if it is never polled: first the
/// task, then its slot, and last its entry in the count of running tasks.
struct Member<F, E> {
    task: F,
    slot: OwnedSemaphorePermit,
    running: Running<E>,
}

/// Counts one running task until it is dropped.
struct Running<E>(Arc<Shared<E>>);

impl<E> Running<E> {
    fn begin(shared: &Arc<Shared<E>>) -> Option<Self> {
        let mut tasks = shared.tasks.lock().expect("no panic while locked");
        if tasks.closed {
            return None;
        }
        tasks.running += 1;
        Some(Self(Arc::clone(shared)))
    }
}

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        let mut tasks = self.0.tasks.lock().expect("no panic while locked");
        tasks.running -= 1;
        if tasks.running == 0 {
            self.0.idle.notify_one();
        }
    }
}

impl<E> Drop for Group<E> {
    fn drop(&mut self) {
        let tasks = self.spawner.shared.tasks.lock();
        // Not `expect`: this may run while a panic unwinds.
        if let Ok(mut tasks) = tasks {
            tasks.closed = true;
        }
    }
}

impl<E> Clone for Spawner<E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<E> fmt::Debug for Group<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").finish_non_exhaustive()
    }
}

impl<E> fmt::Debug for Spawner<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for Refused<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Full(_) => "Full",
            Self::Cancelled(_) => "Cancelled",
        };
        f.debug_tuple(name).finish_non_exhaustive()
    }
}
