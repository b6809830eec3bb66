//! An error group with a bound on how many of its tasks run at a time. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - No more than `limit` tasks run at any time, and a task runs until it and all
//!   that it holds is dropped.
//! - `spawn` starts the task as soon as there is a slot. Of those who wait, the
//!   first is served first. `try_spawn` never waits.
//! - A slot comes back from each task: from one that returns, fails, panics, or
//!   is dropped. Whoever goes away waiting takes none along, also if its turn had
//!   just come.
//! - A member of the group that spawns never waits: if no slot is free, it is
//!   refused with `Full`. A member of another group waits like everybody else.
//! - Once the group is cancelled, `spawn` refuses with `Cancelled`: whoever
//!   waits, at once, even if a slot comes free in the same moment; and whoever
//!   comes later, members as well. A task that fails or panics cancels it before
//!   its slot is free. `try_spawn` still gives a slot that is free, to clean up.
//! - When the group has ended, by `wait` or by being dropped, `spawn` and
//!   `try_spawn` refuse with `Cancelled`. A task is either refused or waited for.
//! - What is refused is given back.
//! - As in `group`: the first error in time is what `wait` returns, and it is kept
//!   before the others are told; a panic tells the others, too, and `wait` raises
//!   it, also when another task has failed before; a group that is dropped drops
//!   its tasks; what happens in it does not cancel the parent.
//! - All that holds in whichever order the steps of tasks come: the last rung
//!   runs your file under shuttle. So take what tasks are made of from
//!   `crate::model_checked::shuttle_tasks`: `Semaphore` and its permits, `spawn`, `task_local`,
//!   `try_id`, `Mutex`, `Notify`, `oneshot`, and tokens. tokio's own are not seen
//!   there, or find no runtime.
//!
//! `Group`, `wait` and the count of tasks are here already. What is missing are
//! the slots, `spawn`, `try_spawn`, and what a task does around its own work: it
//! is in a `Running`, which `wait` waits for. `select!` may be tokio's own.

#![allow(dead_code, reason = "you will use it")]

use std::any::Any;
use std::fmt;
use std::num::NonZero;
use std::panic;

use crate::model_checked::shuttle_tasks::{
    Arc, CancellationToken, DropGuard, Mutex, Notify,
};

/// Tasks that end together, so many at a time. Dropping it aborts them at their
/// next `.await`, cancels the token, and refuses whoever still waits.
pub struct Group<E> {
    spawner: Spawner<E>,
    _gone: [DropGuard; 2],
}

/// Starts tasks in a [`Group`]. Members may keep one; it may outlive the group.
pub struct Spawner<E> {
    shared: Arc<Shared<E>>,
}

/// A task that was not started.
pub enum Refused<F> {
    /// All slots are taken, and who asks must not wait.
    Full(F),
    /// The group was cancelled before there was a slot, or has ended.
    Cancelled(F),
}

struct Shared<E> {
    /// A lock, since one decision needs all of it: whether this was the last
    /// task, and whether another one may begin.
    tasks: Mutex<Tasks<E>>,
    /// Told when no task is left.
    idle: Notify,
    token: CancellationToken,
    /// Cancelled when the group is gone: then members are dropped.
    gone: CancellationToken,
}

struct Tasks<E> {
    running: usize,
    has_ended: bool,
    /// The error that came first.
    error: Option<E>,
    panic: Option<Box<dyn Any + Send>>,
}

impl<E: Send + 'static> Group<E> {
    /// A group of `limit` tasks at a time, that is told to stop when `parent` is
    /// cancelled.
    pub fn new(parent: &CancellationToken, _limit: NonZero<usize>) -> Self {
        let (token, gone) = (parent.child_token(), CancellationToken::new());
        let _gone = [token.clone().drop_guard(), gone.clone().drop_guard()];
        let tasks =
            Tasks { running: 0, has_ended: false, error: None, panic: None };
        let shared = Arc::new(Shared {
            tasks: Mutex::new(tasks),
            idle: Notify::new(),
            token,
            gone,
        });
        Self { spawner: Spawner { shared }, _gone }
    }

    /// Is cancelled as soon as a task fails or panics, the parent is cancelled,
    /// or the group has ended.
    pub fn token(&self) -> CancellationToken {
        self.spawner.shared.token.clone()
    }

    /// Starts tasks in this group, from wherever it is taken to.
    pub fn spawner(&self) -> Spawner<E> {
        self.spawner.clone()
    }

    /// Waits until no task is left. From then on all are refused.
    ///
    /// # Errors
    ///
    /// The error that came first in time.
    ///
    /// # Panics
    ///
    /// With what a task panicked with, also when another task failed.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped drops the group.
    pub async fn wait(self) -> Result<(), E> {
        let shared = &self.spawner.shared;
        loop {
            let idle = shared.idle.notified();
            if shared.end_if_idle() {
                break;
            }
            idle.await;
        }
        let mut tasks = shared.tasks.lock().expect("nobody panics with it");
        let (error, panic) = (tasks.error.take(), tasks.panic.take());
        drop(tasks);
        if let Some(payload) = panic {
            panic::resume_unwind(payload);
        }
        error.map_or(Ok(()), Err)
    }
}

impl<E: Send + 'static> Spawner<E> {
    /// Waits for a slot, and starts `task` in it. A member of the group never
    /// waits.
    ///
    /// # Errors
    ///
    /// `Full` to a member when no slot is free, `Cancelled` when the group is
    /// cancelled, before or meanwhile, or has ended.
    pub async fn spawn<F>(&self, _task: F) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        todo!("who must not wait? What ends the wait of the others?")
    }

    /// Starts `task` if there is a slot, also when the group is cancelled.
    ///
    /// # Errors
    ///
    /// `Full` when no slot is free, `Cancelled` when the group has ended.
    pub fn try_spawn<F>(&self, _task: F) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        todo!("what does the task hold while it runs, and who takes it back?")
    }
}

impl<E> Shared<E> {
    fn has_ended(&self) -> bool {
        self.tasks.lock().expect("nobody panics with it").has_ended
    }

    fn end_if_idle(&self) -> bool {
        let mut tasks = self.tasks.lock().expect("nobody panics with it");
        tasks.has_ended |= tasks.running == 0;
        tasks.has_ended
    }
}

/// One of those that run.
struct Running<E>(Arc<Shared<E>>);

impl<E> Running<E> {
    fn begin(shared: &Arc<Shared<E>>) -> Option<Self> {
        let mut tasks = shared.tasks.lock().expect("nobody panics with it");
        if tasks.has_ended {
            return None;
        }
        tasks.running += 1;
        Some(Self(Arc::clone(shared)))
    }
}

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        let mut tasks = self.0.tasks.lock().expect("nobody panics with it");
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
            tasks.has_ended = true;
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
