//! An error group: tasks that end together. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - `wait` returns when every task has ended, also after an error. Without
//!   tasks it returns at once.
//! - It returns the error that came first in time, whatever the order in which
//!   tasks were started. What the others fail with once they are told to stop
//!   came later. Without an error it returns `Ok`.
//! - The token is cancelled as soon as a task fails or panics: while the others
//!   run, and whether or not somebody waits by then. A task that ends well
//!   cancels nothing.
//! - It is cancelled with the parent, too, also one that was cancelled before. By
//!   itself that is no error; what a task fails with then is one. What happens in
//!   the group does not cancel the parent.
//! - Once the group has ended, or is dropped, its token is cancelled.
//! - A task can be started after a failure. It runs, and is waited for.
//! - What a task panics with is raised again from `wait`, as it was, once all
//!   tasks have ended. It is raised also where another task failed, before or
//!   after it.
//! - When the group is dropped, or the future of `wait` is, each task ends at
//!   its next `.await`.

use std::marker::PhantomData;

use tokio_util::sync::CancellationToken;

/// Tasks that end together.
#[derive(Debug)]
pub struct Group<E> {
    _yours_to_choose: PhantomData<E>,
}

impl<E: Send + Sync + 'static> Group<E> {
    /// A group that is told to stop when `parent` is cancelled. What happens in
    /// it does not reach the parent.
    pub fn new(_parent: &CancellationToken) -> Self {
        todo!("what do the tasks share, and who ends them when it is dropped?")
    }

    /// Is cancelled as soon as a task fails or panics, the parent is cancelled,
    /// or the group has ended.
    pub fn token(&self) -> CancellationToken {
        todo!("which token do the tasks look at?")
    }

    /// Starts `task`, also when the group is cancelled by now.
    pub fn spawn<F>(&mut self, _task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        todo!("what must happen when the task ends, in each of three ways?")
    }

    /// Waits until no task is left. Returns the error that came first in time,
    /// or panics as a task has.
    pub async fn wait(self) -> Result<(), E> {
        todo!("when has the last task ended, and what came first?")
    }
}
