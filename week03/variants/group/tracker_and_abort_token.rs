//! An error group: tasks that fail as one. A tracker counts the tasks, a second
//! token aborts them, and each task catches its own panic.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

type Panic = Box<dyn Any + Send>;

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
    panic: Option<Panic>,
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
            let Some(ended) =
                abort.run_until_cancelled(catch_panic(task)).await
            else {
                return;
            };
            let mut failures = failures.lock().expect("no panic while locked");
            match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => drop(failures.error.get_or_insert(error)),
                Err(panic) => drop(failures.panic.get_or_insert(panic)),
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
            resume_unwind(panic);
        }
        failures.error.take().map_or(Ok(()), Err)
    }
}

/// Returns the output of `future`, or the payload of its panic.
async fn catch_panic<F: Future>(future: F) -> Result<F::Output, Panic> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let poll = || future.as_mut().poll(context);
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}
