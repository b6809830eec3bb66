//! Single flight: concurrent reads of one key become one read.
//!
//! *Question.* A hot key expires, and a thousand requests miss the cache in the
//! same millisecond. How does the database get one query and not a thousand? And
//! what do 999 requests get if the first one is cancelled?
//!
//! *Idea.* The first caller of a key, the **leader**, starts a **flight**: a
//! call of its function, in a task of its own. Callers that come before the
//! flight has ended are **followers**. They wait for the same result, and their
//! functions are never called. All waiters own the flight together, through an
//! `Arc`, and the map has only a `Weak`. So the last waiter that leaves drops
//! the flight and aborts its task. A new caller either gets an `Arc` of a flight
//! that has waiters, or starts a flight.
//!
//! *Guarantee.* A key has at most one flight that can be joined. Every waiter
//! gets the flight's result, error or panic, even if other waiters are dropped
//! or not polled. If the runtime shuts down, it gets an error. A flight removes
//! its entry from the map before it wakes a waiter, and removes no other
//! flight's entry. So no flight is joined after its end.
//!
//! *Cost.* A task, a channel and an allocation for each flight. A lock at its
//! start and its end, and for each waiter. A slow flight delays all its
//! waiters, and its error reaches all of them. A follower can get a value that
//! was read before its own call: after a write, call
//! [`forget`](Group::forget). A flight that waits for its own key never ends.
//!
//! ```
//! use week06::singleflight::{Failed, Group};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let group = Group::<&str, u32, &str>::default();
//! let query = || async {
//!     tokio::task::yield_now().await;
//!     Ok(7)
//! };
//! let unused = || async { Err("the function of a follower is not called") };
//! let (leader, follower) =
//!     tokio::join!(group.run("key", query), group.run("key", unused));
//! assert_eq!((leader, follower), (Ok(7), Ok(7)));
//!
//! // Nothing is remembered.
//! let next = group.run("key", || async { Err("timeout") }).await;
//! assert_eq!(next, Err(Failed::Error("timeout")));
//! # }
//! ```

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
