//! An error group: tasks that end together.

use std::any::Any;
use std::panic;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Tasks that end together.
#[derive(Debug)]
pub struct Group<E> {
    tasks: Vec<Task<E>>,
    token: CancellationToken,
}

/// Aborted on drop.
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

/// Cancels the token unless its task ends well.
struct Alarm {
    token: CancellationToken,
    is_well: bool,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if !self.is_well {
            self.token.cancel();
        }
    }
}

impl<E: Send + Sync + 'static> Group<E> {
    /// A group below `parent`.
    pub fn new(parent: &CancellationToken) -> Self {
        let token = parent.child_token();
        Self { tasks: Vec::new(), token }
    }

    /// Is cancelled when the tasks should stop.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts `task`.
    pub fn spawn<F>(&mut self, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let token = self.token.clone();
        let task = async move {
            let mut alarm = Alarm { token, is_well: false };
            let ended = task.await;
            alarm.is_well = ended.is_ok();
            ended
        };
        self.tasks.push(Task(tokio::spawn(task)));
    }

    /// Waits until no task is left.
    pub async fn wait(mut self) -> Result<(), E> {
        let mut panicked: Option<Box<dyn Any + Send>> = None;
        let mut first = Ok(());
        for Task(task) in &mut self.tasks {
            match task.await {
                Ok(ended) => first = first.and(ended),
                Err(error) => {
                    panicked = panicked.or(error.try_into_panic().ok())
                }
            }
        }
        if let Some(payload) = panicked {
            panic::resume_unwind(payload);
        }
        first
    }
}
