//! An error group with a limit on how many tasks run at a time. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - No more than `limit` tasks run at any time. `limit` may be as large as
//!   tokio's `Semaphore::MAX_PERMITS`; with a larger one, `new` may panic. A
//!   task counts as running until the task, with every value that it holds, is
//!   dropped, also after a panic.
//! - `spawn` starts the task as soon as a slot is free. A released slot is
//!   assigned to the `spawn` that has waited longest; no later call of `spawn`
//!   or `try_spawn` overtakes it, also not by a member. A slot that is assigned
//!   to a waiting `spawn` is not free: the next poll of this `spawn` starts the
//!   task in it.
//! - Every task releases its slot, whether it returns, fails, panics, or is
//!   dropped, for instance with its runtime.
//! - The group keeps no memory for tasks that have ended, except for the first
//!   error and one panic.
//! - If a `spawn` is dropped while it waits, no slot leaks: if a slot was
//!   assigned to it, the slot goes to the next waiting `spawn`. This is also
//!   true if thousands of waiting spawns are dropped.
//! - A *member* is a task of this group. A member never waits in `spawn`: if no
//!   slot is free, `spawn` returns `Full`. A member of another group waits like
//!   any other caller.
//! - Once the group is cancelled, by its parent, a caller or a failed task,
//!   every `spawn` returns `Cancelled`: calls that already wait, later calls,
//!   and calls by members, even if no slot is free. A waiting `spawn` returns
//!   at once, even if a slot is released at the same moment.
//! - A task that fails or panics cancels the group before its slot is released.
//! - After a cancellation, `try_spawn` still starts a task if a slot is free,
//!   so that tasks can clean up.
//! - The group ends when `wait` finds no running task, or when the group is
//!   dropped. Once it has ended, `spawn` and `try_spawn` return `Cancelled`.
//!   Every task is either refused, or `wait` waits for it.
//! - `Full` and `Cancelled` give the task back.
//! - As in `group`: `wait` returns the first error in time, and a task records
//!   its error before it cancels the group. A panic cancels the group, too, and
//!   `wait` raises one of the panics again, with the same payload, even if
//!   another task failed before or after it. This is also true of a panic after
//!   a cancellation. When the group is dropped, each task ends at its next
//!   `.await`. The group never cancels its parent.
//! - These rules hold in every interleaving of the tasks: the last group of
//!   tests (rung) runs your file under shuttle. There, the names `tokio`,
//!   `tokio_util`, `std::sync` and `crate::model_checked::shuttle_tasks` mean
//!   shuttle's tasks, locks, channels and tokens. They have the common methods,
//!   except for the blocking ones. Timers never fire. A `JoinHandle` returns
//!   the panic of its task, as in tokio.
//!
//! `Group`, `wait` and the count of tasks are given. You write the slots,
//! `spawn`, `try_spawn`, and the future that wraps each task. This wrapper
//! holds a `Running` until its task has ended: `wait` waits until every
//! `Running` is dropped. You may use tokio's `select!`.

#![allow(dead_code, reason = "you will use it")]

use std::fmt;
use std::num::NonZero;

use crate::model_checked::shuttle_tasks::{
    Arc, CancellationToken, DropGuard, Mutex, Notify,
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
    /// A panic of a task. `Payload::new` takes what `catch_unwind` returns.
    panic: Option<Payload>,
}

impl<E: Send + 'static> Group<E> {
    /// Creates an empty group that runs at most `limit` tasks at a time.
    ///
    /// It is cancelled when `parent` is, and never cancels `parent`.
    pub fn new(parent: &CancellationToken, _limit: NonZero<usize>) -> Self {
        let (token, abort) = (parent.child_token(), CancellationToken::new());
        let _cancel_on_drop =
            [token.clone().drop_guard(), abort.clone().drop_guard()];
        let tasks =
            Tasks { running: 0, closed: false, error: None, panic: None };
        let shared = Arc::new(Shared {
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
    pub async fn spawn<F>(&self, _task: F) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        todo!("which callers never wait? What ends the wait of other callers?")
    }

    /// Starts `task` if a slot is free, even if the group is cancelled.
    ///
    /// # Errors
    ///
    /// Returns `Full` when no slot is free, and `Cancelled` when the group has
    /// ended.
    pub fn try_spawn<F>(&self, _task: F) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        todo!("what does the task hold while it runs? What releases it?")
    }
}

impl<E> Shared<E> {
    fn is_closed(&self) -> bool {
        self.tasks.lock().expect("no panic while locked").closed
    }

    fn close_if_idle(&self) -> bool {
        let mut tasks = self.tasks.lock().expect("no panic while locked");
        tasks.closed |= tasks.running == 0;
        tasks.closed
    }
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
