//! An error group: tasks that fail as one. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - `wait` returns when every task has ended, even after an error. Without
//!   tasks it returns at once.
//! - `wait` returns the error that occurred first in time, in whatever order
//!   the tasks were spawned. An error that a task returns because another task
//!   has failed comes later, so `wait` does not return it. If no task fails,
//!   `wait` returns `Ok`.
//! - A task that fails or panics cancels the token at once: while the other
//!   tasks still run, and even if `wait` has not been called yet. A task that
//!   returns `Ok` cancels nothing.
//! - The token is cancelled when the parent is, and from the start if the
//!   parent already was. This alone is not an error. An error that a task
//!   returns after it is one.
//! - The group never cancels its parent.
//! - The token is cancelled once the group has ended or is dropped.
//! - A task can be spawned after a failure. It runs, and `wait` waits for it.
//! - If a task panics, `wait` raises the panic again with the same payload,
//!   once every task has ended. It does so even if another task failed, before
//!   or after the panic.
//! - When the group or the future of `wait` is dropped, each task ends at its
//!   next `.await`.

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
        todo!("which state do the tasks share? What aborts them on drop?")
    }

    /// Returns the token of the group.
    ///
    /// It is cancelled as soon as a task fails or panics, the parent is
    /// cancelled, or the group has ended.
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
