//! An error group: tasks that fail as one.

use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::payload::Payload;

/// A group of tasks that fail as one.
#[derive(Debug)]
pub struct Group<E> {
    tasks: Vec<Task>,
    first: Arc<Mutex<Option<E>>>,
    token: CancellationToken,
}

/// Aborts its task on drop.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
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
        Self { tasks: Vec::new(), first: Arc::default(), token }
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
        let first = Arc::clone(&self.first);
        let mut guard =
            CancelOnFailure { token: self.token.clone(), succeeded: false };
        let task = async move {
            match task.await {
                Ok(()) => guard.succeeded = true,
                Err(error) => {
                    let mut first =
                        first.lock().expect("no panic while locked");
                    first.get_or_insert(error);
                }
            }
        };
        self.tasks.push(Task(tokio::spawn(task)));
    }

    /// Waits until every task has ended.
    pub async fn wait(mut self) -> Result<(), E> {
        let mut panicked = None;
        for Task(task) in &mut self.tasks {
            if let Err(error) = task.await {
                let payload = error.try_into_panic().ok();
                panicked = panicked.or(payload.map(Payload::new));
            }
        }
        if let Some(payload) = panicked {
            payload.resume();
        }
        let mut first = self.first.lock().expect("no panic while locked");
        first.take().map_or(Ok(()), Err)
    }
}
