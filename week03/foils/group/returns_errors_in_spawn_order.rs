//! An error group: tasks that fail as one.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::payload::Payload;

/// A group of tasks that fail as one.
#[derive(Debug)]
pub struct Group<E> {
    tasks: Vec<Task<E>>,
    token: CancellationToken,
}

/// Aborts its task on drop.
#[derive(Debug)]
struct Task<E>(JoinHandle<Result<(), E>>);

impl<E> Drop for Task<E> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<E> Drop for Group<E> {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// Cancels the token on drop, unless the task has succeeded.
struct CancelOnFailure {
    token: CancellationToken,
    succeeded: bool,
}

impl Drop for CancelOnFailure {
    fn drop(&mut self) {
        if !self.succeeded {
            self.token.cancel();
        }
    }
}

impl<E: Send + Sync + 'static> Group<E> {
    /// Creates an empty group that is cancelled when `parent` is.
    pub fn new(parent: &CancellationToken) -> Self {
        let token = parent.child_token();
        Self { tasks: Vec::new(), token }
    }

    /// Returns the token that cancels the tasks.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Spawns `task`.
    pub fn spawn<F>(&mut self, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let token = self.token.clone();
        let task = async move {
            let mut guard = CancelOnFailure { token, succeeded: false };
            let ended = task.await;
            guard.succeeded = ended.is_ok();
            ended
        };
        self.tasks.push(Task(tokio::spawn(task)));
    }

    /// Waits until every task has ended.
    pub async fn wait(mut self) -> Result<(), E> {
        let mut panicked = None;
        let mut first = Ok(());
        for Task(task) in &mut self.tasks {
            match task.await {
                Ok(ended) => first = first.and(ended),
                Err(error) => {
                    let payload = error.try_into_panic().ok();
                    panicked = panicked.or(payload.map(Payload::new))
                }
            }
        }
        if let Some(payload) = panicked {
            payload.resume();
        }
        first
    }
}
