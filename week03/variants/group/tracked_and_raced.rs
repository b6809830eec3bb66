//! An error group: tasks that end together. Here a tracker counts them, each
//! races a token that ends it, and a panic is caught where it happens.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

type Panic = Box<dyn Any + Send>;

/// Tasks that end together.
#[derive(Debug)]
pub struct Group<E> {
    tasks: TaskTracker,
    failures: Arc<Mutex<Failures<E>>>,
    token: DropGuard,
    /// Ends the tasks where they wait.
    end: DropGuard,
}

#[derive(Debug)]
struct Failures<E> {
    error: Option<E>,
    panic: Option<Panic>,
}

impl<E: Send + Sync + 'static> Group<E> {
    /// A group below `parent`.
    pub fn new(parent: &CancellationToken) -> Self {
        let failures = Failures { error: None, panic: None };
        Self {
            tasks: TaskTracker::new(),
            failures: Arc::new(Mutex::new(failures)),
            token: parent.child_token().drop_guard(),
            end: CancellationToken::new().drop_guard(),
        }
    }

    /// Is cancelled when the tasks should stop.
    pub fn token(&self) -> CancellationToken {
        self.token.token().clone()
    }

    /// Starts `task`.
    pub fn spawn<F>(&mut self, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let (token, end) = (self.token(), self.end.token().clone());
        let failures = Arc::clone(&self.failures);
        self.tasks.spawn(async move {
            let Some(ended) = end.run_until_cancelled(caught(task)).await
            else {
                return;
            };
            let mut failures = failures.lock().expect("nobody panics in it");
            match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => drop(failures.error.get_or_insert(error)),
                Err(panic) => drop(failures.panic.get_or_insert(panic)),
            }
            token.cancel();
        });
    }

    /// Waits until no task is left.
    pub async fn wait(self) -> Result<(), E> {
        self.tasks.close();
        self.tasks.wait().await;
        let mut failures = self.failures.lock().expect("nobody panics in it");
        if let Some(panic) = failures.panic.take() {
            drop(failures);
            resume_unwind(panic);
        }
        failures.error.take().map_or(Ok(()), Err)
    }
}

/// What a future returns, or panics with.
async fn caught<F: Future>(future: F) -> Result<F::Output, Panic> {
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
