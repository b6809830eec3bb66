//! An error group: tasks that fail as one.
//!
//! *Question.* A server, its metrics port and a signal handler run side by
//! side. One of them fails. How are the others cancelled, and how does the
//! process wait for them before it exits?
//!
//! *Idea.* Structured concurrency: each task belongs to a scope, and the scope
//! ends when its last task has ended. The first task that fails cancels a token
//! that all tasks share, and its error becomes the error of the group. (In Go:
//! `errgroup`.)
//!
//! *Guarantee.* [`wait`](Group::wait) returns when every task has ended, with
//! the error that occurred first in time. A panic counts as a failure, also in
//! the destructor of a task: `wait` raises it again once every task has ended.
//! When a group is dropped, each of its tasks ends at its next `.await`.
//!
//! *Cost.* Cancellation is cooperative: `wait` waits for a task that ignores
//! its token, however long that task runs. Errors after the first are dropped.
//! Code that blocks a thread cannot be stopped at all.
//!
//! ```
//! use tokio_util::sync::CancellationToken;
//! use week03::group::Group;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let mut group = Group::new(&CancellationToken::new());
//! let token = group.token();
//! group.spawn(async move {
//!     token.cancelled().await; // until another task fails
//!     Ok(())
//! });
//! group.spawn(async { Err("no such port") });
//! assert_eq!(group.wait().await, Err("no such port"));
//! # }
//! ```

use std::sync::{Arc, OnceLock};

use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::payload::Payload;

/// A group of tasks that fail as one.
///
/// Dropping the group cancels its token and aborts its tasks at their next
/// `.await`. A task on a blocking thread cannot be aborted: it can only check
/// the token.
#[derive(Debug)]
pub struct Group<E> {
    tasks: JoinSet<()>,
    shared: Arc<Shared<E>>,
    /// Cancels the token when the group is dropped, and so when `wait` ends.
    _cancel_on_drop: DropGuard,
}

/// The state that the tasks of a group share.
#[derive(Debug)]
struct Shared<E> {
    /// The first error. It is set before the token is cancelled.
    first: OnceLock<E>,
    token: CancellationToken,
}

impl<E: Send + Sync + 'static> Group<E> {
    /// Creates an empty group that is cancelled when `parent` is.
    ///
    /// The group never cancels `parent`.
    pub fn new(parent: &CancellationToken) -> Self {
        let token = parent.child_token();
        let _cancel_on_drop = token.clone().drop_guard();
        let shared = Arc::new(Shared { first: OnceLock::new(), token });
        Self { tasks: JoinSet::new(), shared, _cancel_on_drop }
    }

    /// Returns the token of the group.
    ///
    /// The token is cancelled when a task fails or panics, when the parent is
    /// cancelled, and when the group has ended.
    pub fn token(&self) -> CancellationToken {
        self.shared.token.clone()
    }

    /// Spawns `task`, even if the group is already cancelled.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn spawn<F>(&mut self, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            // Cancels the token unless the task returns `Ok`, so a panic needs
            // no code of its own.
            let guard = shared.token.drop_guard_ref();
            match task.await {
                Ok(()) => drop(guard.disarm()),
                // Recorded before `guard` cancels the token. An error that the
                // cancellation causes comes later, and `set` rejects it.
                Err(error) => drop(shared.first.set(error)),
            }
        });
    }

    /// Waits until every task has ended.
    ///
    /// # Errors
    ///
    /// Returns the error that occurred first in time.
    ///
    /// # Panics
    ///
    /// Raises the panic of a task again, even if another task failed: an error
    /// does not hide a bug.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the group, which aborts its tasks.
    pub async fn wait(mut self) -> Result<(), E> {
        // If several tasks panic, the other payloads are dropped in the loop:
        // a plain payload whose destructor panics would end the loop.
        let mut panicked = None;
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                let payload = error.try_into_panic().ok();
                panicked = panicked.or(payload.map(Payload::new));
            }
        }
        if let Some(payload) = panicked {
            payload.resume();
        }
        let shared = Arc::into_inner(self.shared).expect("all tasks ended");
        shared.first.into_inner().map_or(Ok(()), Err)
    }
}
