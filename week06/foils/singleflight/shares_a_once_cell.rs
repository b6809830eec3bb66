//! Each key has a `OnceCell`, which the waiters initialise in turn.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::model_checked::shuttle_tasks::{Arc, Mutex, MutexGuard, OnceCell};

/// Merges concurrent calls of equal keys. A clone shares the flights.
#[derive(Debug)]
pub struct Group<K, V, E> {
    flights: Arc<Mutex<HashMap<K, Arc<Flight<V, E>>>>>,
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

type Flight<V, E> = OnceCell<Outcome<V, E>>;

type Outcome<V, E> = Result<V, Failed<E>>;

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
        let cell = {
            let mut flights = lock(&self.flights);
            match flights.get(&key) {
                Some(cell) => Arc::clone(cell),
                None => {
                    let cell = Arc::new(OnceCell::new());
                    flights.insert(key.clone(), Arc::clone(&cell));
                    cell
                }
            }
        };
        let outcome = cell.get_or_init(|| outcome_of(async { f().await }));
        let outcome = outcome.await.clone();
        let mut flights = lock(&self.flights);
        let entry = flights.get(&key);
        let is_own = entry.is_some_and(|entry| Arc::ptr_eq(entry, &cell));
        let _removed = is_own.then(|| flights.remove_entry(&key));
        drop(flights);
        outcome
    }

    /// Makes the next call of `key` start a new flight. The waiters of the
    /// current one still get its result.
    pub fn forget(&self, key: &K) {
        let forgotten = lock(&self.flights).remove_entry(key);
        // Not in the line above, where the lock is held to the end.
        drop(forgotten);
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
