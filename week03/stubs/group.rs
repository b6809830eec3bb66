//! An error group: tasks that fail as one. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - `spawn` starts the task at once, even if `wait` has not been called yet.
//! - `wait` returns when every task has ended. It waits for all tasks, also
//!   after an error, and without a time limit. A task has ended when its future
//!   has been dropped. If the group has no tasks, `wait` returns at once.
//! - `wait` returns the error that occurred first in time, in whatever order
//!   the tasks were spawned. If no task fails, `wait` returns `Ok`.
//! - An error occurs when the task returns it. Record it before you await
//!   anything else, and before you cancel the token: an error caused by this
//!   cancellation is never returned.
//! - A task that fails or panics cancels the group's token at once: while the
//!   other tasks still run, and even if `wait` has not been called yet. The
//!   destructor of the task's future may run before the cancellation. A task
//!   that returns `Ok` cancels nothing.
//! - The token is cancelled at once when its parent is cancelled. If the parent
//!   is cancelled before the group is created, the token is cancelled from the
//!   start. A caller may cancel the token, too. The cancellation by the parent
//!   or a caller is not an error. But an error or a panic of a task counts as
//!   usual, even after this cancellation.
//! - The group never cancels its parent.
//! - The token is already cancelled when `wait` returns. It is also cancelled
//!   when the group, or the future of `wait`, is dropped.
//! - A task can be spawned after a failure or another cancellation. This task
//!   runs, and `wait` waits for it.
//! - If a task panics, `wait` raises the panic again with the same payload,
//!   once every task has ended. `wait` does this even if another task failed,
//!   before or after the panic. If several tasks panic, `wait` raises one of
//!   these panics.
//! - When the group or the future of `wait` is dropped, each task ends at its
//!   next `.await`. Both may be dropped outside of the runtime. The tasks keep
//!   tokio's cooperative budget, so that a busy task yields, and can end.
//! - When `wait` has returned or raised a panic, or when the tasks of a dropped
//!   group have ended, neither a task of the group nor a task that the group
//!   started for itself stays in the runtime.
//! - The future of `wait` is `Send`, so that a task of another group can await
//!   it.
//!
//! The last rung, `models`, runs this file under shuttle, in many orders of the
//! tasks' steps. There, the names `tokio`, `tokio_util` and `std::sync` mean
//! shuttle's tasks, locks, channels and tokens. They have the common methods,
//! except for the blocking ones. Timers never fire.

use std::marker::PhantomData;

use tokio_util::sync::CancellationToken;

/// A group of tasks that fail as one.
#[derive(Debug)]
pub struct Group<E> {
    _yours_to_choose: PhantomData<E>,
}

impl<E: Send + Sync + 'static> Group<E> {
    /// Creates an empty group that is cancelled when `parent` is.
    ///
    /// The group never cancels `parent`.
    pub fn new(_parent: &CancellationToken) -> Self {
        todo!("which state do the tasks share? What aborts the tasks on drop?")
    }

    /// Returns the token of the group.
    ///
    /// The token is cancelled when a task fails or panics, when the parent is
    /// cancelled, and when the group has ended.
    pub fn token(&self) -> CancellationToken {
        todo!("which token do the tasks of the group share?")
    }

    /// Spawns `task`, even if the group is already cancelled.
    pub fn spawn<F>(&mut self, _task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        todo!("what must happen when the task returns Ok, fails, or panics?")
    }

    /// Waits until every task has ended.
    ///
    /// Returns the error that occurred first in time, or raises the panic of a
    /// task again.
    pub async fn wait(self) -> Result<(), E> {
        todo!("when has the last task ended? Which failure came first?")
    }
}
