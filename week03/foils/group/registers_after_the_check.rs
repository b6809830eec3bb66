//! An error group: tasks that fail as one.

use std::any::Any;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

type Payload = Box<dyn Any + Send>;

/// A group of tasks that fail as one.
#[derive(Debug)]
pub struct Group<E> {
    /// Aborts the tasks when the group is dropped.
    tasks: JoinSet<()>,
    shared: Arc<Shared<E>>,
    _cancel_on_drop: DropGuard,
}

#[derive(Debug)]
struct Shared<E> {
    state: Mutex<State<E>>,
    all_ended: Notify,
    token: CancellationToken,
}

#[derive(Debug)]
struct State<E> {
    running: usize,
    error: Option<E>,
    panic: Option<Payload>,
}

/// A task that runs until this value is dropped.
struct Running<E>(Arc<Shared<E>>);

impl<E> Drop for Running<E> {
    fn drop(&mut self) {
        let Self(shared) = self;
        let mut state = shared.state.lock().expect("no panic while locked");
        state.running -= 1;
        let was_last = state.running == 0;
        drop(state);
        if was_last {
            shared.all_ended.notify_waiters();
        }
    }
}

impl<E: Send + Sync + 'static> Group<E> {
    /// Creates an empty group that is cancelled when `parent` is.
    pub fn new(parent: &CancellationToken) -> Self {
        let token = parent.child_token();
        let _cancel_on_drop = token.clone().drop_guard();
        let state = State { running: 0, error: None, panic: None };
        let state = Mutex::new(state);
        let shared = Shared { state, all_ended: Notify::new(), token };
        let shared = Arc::new(shared);
        Self { tasks: JoinSet::new(), shared, _cancel_on_drop }
    }

    /// Returns the token of the group.
    pub fn token(&self) -> CancellationToken {
        self.shared.token.clone()
    }

    /// Spawns `task`, even if the group is already cancelled.
    pub fn spawn<F>(&mut self, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        self.shared.state.lock().expect("no panic while locked").running += 1;
        let running = Running(Arc::clone(&self.shared));
        self.tasks.spawn(async move {
            let Running(shared) = &running;
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            let mut state = shared.state.lock().expect("no panic while locked");
            match ended {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    state.error.get_or_insert(error);
                }
                Err(payload) => {
                    state.panic.get_or_insert(payload);
                }
            }
            drop(state);
            shared.token.cancel();
        });
    }

    /// Waits until every task has ended.
    pub async fn wait(self) -> Result<(), E> {
        let running = || {
            let state = self.shared.state.lock();
            state.expect("no panic while locked").running
        };
        while running() > 0 {
            self.shared.all_ended.notified().await;
        }
        let mut state =
            self.shared.state.lock().expect("no panic while locked");
        if let Some(payload) = state.panic.take() {
            drop(state);
            resume_unwind(payload);
        }
        state.error.take().map_or(Ok(()), Err)
    }
}
