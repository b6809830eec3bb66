//! Each flight has a task, also if its leader is alone.
//!
//! The waiters get the result through a `watch` channel, and do not poll the
//! flight. This is less code: there is one way in which a flight runs, and one
//! place in which it ends. In return, a call that is never merged, as most are,
//! takes more than twice as long, and the leader waits until the scheduler runs
//! the task.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;

use crate::model_checked::shuttle_tasks::{
    AbortHandle, Arc, Mutex, MutexGuard, Weak, spawn, watch,
};

/// Merges concurrent calls of equal keys. A clone shares the flights.
#[derive(Debug)]
pub struct Group<K, V, E> {
    flights: Arc<Mutex<Flights<K, V, E>>>,
}

/// The flight has no result. Every waiter gets the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed<E> {
    /// The function has returned this error.
    #[error(transparent)]
    Error(E),
    /// The function has panicked with this message.
    #[error("the call panicked: {0}")]
    Panicked(String),
    /// The runtime of the flight has shut down.
    #[error("the runtime of the call has shut down")]
    Cancelled,
}

/// The flights that can be joined. With the lock held, only `Hash`, `Eq` and
/// `Clone` of keys run, and no destructors.
type Flights<K, V, E> = HashMap<K, Weak<Flight<V, E>>>;

type Outcome<V, E> = Result<V, Failed<E>>;

/// Owned by the waiters of a flight.
#[derive(Debug)]
struct Flight<V, E> {
    outcome: watch::Receiver<Option<Outcome<V, E>>>,
    /// Set by the leader, which spawns the task.
    task: OnceLock<AbortHandle>,
}

/// Owned by the task of a flight. Its drop ends the flight, however the task
/// ends.
struct Landing<K: Eq + Hash, V, E> {
    flights: Arc<Mutex<Flights<K, V, E>>>,
    key: K,
    flight: Weak<Flight<V, E>>,
    waiters: watch::Sender<Option<Outcome<V, E>>>,
    /// `None` in a task that is dropped before it completes.
    outcome: Option<Outcome<V, E>>,
}

impl<K, V, E> Group<K, V, E>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Waits for the result of the flight of `key`. If no flight can be joined,
    /// starts one, which calls `f`.
    ///
    /// # Errors
    ///
    /// Returns [`Failed`] if the flight has failed, whoever has started it.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// The first poll joins or starts the flight. Dropping the future leaves
    /// it, which cancels the flight if no other waiter is left.
    pub async fn run<F, Fut>(&self, key: K, f: F) -> Result<V, Failed<E>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        let flight = self.join(key, f);
        let mut outcome = flight.outcome.clone();
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("`wait_for` has checked it"),
            Err(_) => Err(Failed::Cancelled),
        }
    }

    /// Makes the next call of `key` start a new flight. The waiters of the
    /// current one still get its result.
    pub fn forget(&self, key: &K) {
        let forgotten = lock(&self.flights).remove_entry(key);
        // Not in the line above, where the lock is held to the end.
        drop(forgotten);
    }

    fn join<F, Fut>(&self, key: K, f: F) -> Arc<Flight<V, E>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let (waiters, outcome) = watch::channel(None);
        let flight = Arc::new(Flight { outcome, task: OnceLock::new() });
        // An aborted flight is in the map until its task is dropped.
        let aborted = flights.remove_entry(&key);
        flights.insert(key.clone(), Arc::downgrade(&flight));
        drop(flights);
        drop(aborted);

        let landing = Landing {
            flights: Arc::clone(&self.flights),
            key,
            flight: Arc::downgrade(&flight),
            waiters,
            outcome: None,
        };
        // Without the lock: in a runtime that shuts down, `spawn` drops the
        // task at once.
        let task = spawn(async move {
            let outcome = outcome_of(async { f().await }).await;
            landing.complete(outcome);
        });
        flight.task.get_or_init(|| task.abort_handle());
        flight
    }
}

impl<K: Eq + Hash, V, E> Landing<K, V, E> {
    fn complete(mut self, outcome: Outcome<V, E>) {
        self.outcome = Some(outcome);
    }
}

impl<K: Eq + Hash, V, E> Drop for Landing<K, V, E> {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights);
        // After `forget` or an abort, the entry may be of another flight.
        let entry = flights.get(&self.key);
        let is_own = entry.is_some_and(|entry| entry.ptr_eq(&self.flight));
        let _removed = is_own.then(|| flights.remove_entry(&self.key));
        drop(flights);
        // After the removal: a waiter that wakes may call again at once.
        let _no_waiters = self.waiters.send(self.outcome.take());
    }
}

impl<V, E> Drop for Flight<V, E> {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl<K, V, E> Default for Group<K, V, E> {
    fn default() -> Self {
        Self { flights: Arc::default() }
    }
}

impl<K, V, E> Clone for Group<K, V, E> {
    fn clone(&self) -> Self {
        Self { flights: Arc::clone(&self.flights) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics with the lock held")
}

/// Waits for `future`, and returns a panic as an error.
async fn outcome_of<V, E>(
    future: impl Future<Output = Result<V, E>>,
) -> Outcome<V, E> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let poll = AssertUnwindSafe(|| future.as_mut().poll(context));
        match catch_unwind(poll) {
            Ok(poll) => poll.map_err(Failed::Error),
            Err(panic) => Poll::Ready(Err(Failed::Panicked(message(&*panic)))),
        }
    })
    .await
}

/// Returns the message of a panic, or "unknown" if its payload is no text.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref().map(String::as_str));
    text.unwrap_or("unknown").to_owned()
}
