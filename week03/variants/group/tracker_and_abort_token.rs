//! An error group: tasks that fail as one. A tracker counts the tasks, a second
//! token aborts them, and each task catches its own panic.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::payload::Payload;

/// A group of tasks that fail as one.
#[derive(Debug)]
pub struct Group<E> {
    tasks: TaskTracker,
    failures: Arc<Mutex<Failures<E>>>,
    token: DropGuard,
    /// Aborts the tasks at their next `.await`.
    abort: DropGuard,
}

#[derive(Debug)]
struct Failures<E> {
    error: Option<E>,
    panic: Option<Payload>,
}

impl<E: Send + Sync + 'static> Group<E> {
    /// Creates an empty group that is cancelled when `parent` is.
    pub fn new(parent: &CancellationToken) -> Self {
        let failures = Failures { error: None, panic: None };
        Self {
            tasks: TaskTracker::new(),
            failures: Arc::new(Mutex::new(failures)),
            token: parent.child_token().drop_guard(),
            abort: CancellationToken::new().drop_guard(),
        }
    }

    /// Returns the token that cancels the tasks.
    pub fn token(&self) -> CancellationToken {
        self.token.token().clone()
    }

    /// Spawns `task`.
    pub fn spawn<F>(&mut self, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let (token, abort) = (self.token(), self.abort.token().clone());
        let failures = Arc::clone(&self.failures);
        self.tasks.spawn(async move {
            // The block drops the task and a rejected error, so that a panic in
            // one of their destructors is caught, too.
            let work = async {
                let Err(error) = task.await else { return true };
                let rejected = {
                    let mut failures =
                        failures.lock().expect("no panic while locked");
                    match failures.error {
                        Some(_) => Some(error),
                        None => failures.error.replace(error),
                    }
                };
                drop(rejected);
                false
            };
            let work = AssertUnwindSafe(work).catch_unwind();
            match abort.run_until_cancelled(work).await {
                None | Some(Ok(true)) => return,
                Some(Ok(false)) => {}
                Some(Err(panic)) => {
                    let mut failures =
                        failures.lock().expect("no panic while locked");
                    failures.panic.get_or_insert(Payload::new(panic));
                }
            }
            token.cancel();
        });
    }

    /// Waits until every task has ended.
    pub async fn wait(self) -> Result<(), E> {
        self.tasks.close();
        self.tasks.wait().await;
        let mut failures = self.failures.lock().expect("no panic while locked");
        if let Some(panic) = failures.panic.take() {
            drop(failures);
            panic.resume();
        }
        failures.error.take().map_or(Ok(()), Err)
    }
}
