//! An error group: tasks that end together.

use std::panic;
use std::sync::{Arc, OnceLock};

use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Tasks that end together. Dropping it aborts them at their next `.await`, and
/// cancels the token: a task on a blocking thread can only be told.
#[derive(Debug)]
pub struct Group<E> {
    tasks: JoinSet<()>,
    shared: Arc<Shared<E>>,
    /// Cancels the token when the group is gone, however it goes.
    _gone: DropGuard,
}

/// What a task tells the others.
#[derive(Debug)]
struct Shared<E> {
    /// The error that came first. Written before the token is cancelled.
    first: OnceLock<E>,
    token: CancellationToken,
}

impl<E: Send + Sync + 'static> Group<E> {
    /// A group that is told to stop when `parent` is cancelled. What happens in
    /// it does not reach the parent.
    pub fn new(parent: &CancellationToken) -> Self {
        let token = parent.child_token();
        let _gone = token.clone().drop_guard();
        let shared = Arc::new(Shared { first: OnceLock::new(), token });
        Self { tasks: JoinSet::new(), shared, _gone }
    }

    /// Is cancelled as soon as a task fails or panics, the parent is cancelled,
    /// or the group has ended.
    pub fn token(&self) -> CancellationToken {
        self.shared.token.clone()
    }

    /// Starts `task`, also when the group is cancelled by now.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn<F>(&mut self, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            if let Err(error) = task.await {
                let _ = shared.first.set(error);
            }
        });
    }

    /// Waits until no task is left.
    ///
    /// # Errors
    ///
    /// The error that came first in time.
    ///
    /// # Panics
    ///
    /// With what a task panicked with, also when another task failed: a bug is
    /// not hidden by an error.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped drops the group.
    pub async fn wait(mut self) -> Result<(), E> {
        let mut panicked = None;
        while let Some(ended) = self.tasks.join_next().await {
            if ended.is_err() || self.shared.first.get().is_some() {
                self.shared.token.cancel();
            }
            if let Err(error) = ended {
                panicked = panicked.or(error.try_into_panic().ok());
            }
        }
        if let Some(payload) = panicked {
            panic::resume_unwind(payload);
        }
        let shared = Arc::into_inner(self.shared).expect("no task is left");
        shared.first.into_inner().map_or(Ok(()), Err)
    }
}
