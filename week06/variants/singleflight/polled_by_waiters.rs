//! The flight has no task: whichever waiter wakes polls it.
//!
//! The future of the flight is shared, and its waker wakes all waiters. So a
//! waiter that is dropped, or not polled, is replaced by any other. The last
//! waiter drops the future at once, and no runtime is needed. In return, each
//! step of the flight wakes all its waiters, and the flight runs in the
//! waiters' tasks: a thousand waiters poll a query with ten awaits ten thousand
//! times.

use std::any::Any;
use std::collections::HashMap;
use std::hash::Hash;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::ptr;
use std::task::{Context, Poll, Wake};

use crate::model_checked::shuttle_tasks::{
    Arc, Mutex, MutexGuard, Notify, Weak,
};

/// Merges concurrent calls of equal keys. A clone shares the flights.
#[derive(Debug)]
pub struct Group<K: Eq + Hash, V, E> {
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
    /// The runtime of the flight has shut down. Not used here.
    #[error("the runtime of the call has shut down")]
    Cancelled,
}

type Flights<K, V, E> = HashMap<K, Weak<Flight<K, V, E>>>;

/// Owned by the waiters.
struct Flight<K: Eq + Hash, V, E> {
    flights: Arc<Mutex<Flights<K, V, E>>>,
    key: K,
    progress: Mutex<Progress<V, E>>,
    changed: Arc<Changed>,
}

enum Progress<V, E> {
    Running(Pin<Box<dyn Future<Output = Result<V, E>> + Send>>),
    Ended(Arc<Result<V, Failed<E>>>),
}

/// Wakes all waiters, for the next poll or because the flight has ended.
#[derive(Default)]
struct Changed(Notify);

impl Wake for Changed {
    fn wake(self: Arc<Self>) {
        self.0.notify_waiters();
    }
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
        loop {
            let mut changed = pin!(flight.changed.0.notified());
            // Before the poll, so that no change between the two is lost.
            changed.as_mut().enable();
            if let Poll::Ready(result) = flight.poll() {
                return (*result).clone();
            }
            changed.await;
        }
    }

    /// Makes the next call of `key` start a new flight. The waiters of the
    /// current one still get its result.
    pub fn forget(&self, key: &K) {
        let forgotten = lock(&self.flights).remove_entry(key);
        drop(forgotten);
    }

    fn join<F, Fut>(&self, key: K, f: F) -> Arc<Flight<K, V, E>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight {
            flights: Arc::clone(&self.flights),
            key: key.clone(),
            progress: Mutex::new(Progress::Running(Box::pin(async {
                f().await
            }))),
            changed: Arc::default(),
        });
        let dropped = flights.remove_entry(&key);
        flights.insert(key, Arc::downgrade(&flight));
        drop(flights);
        drop(dropped);
        flight
    }
}

impl<K: Eq + Hash, V, E> Flight<K, V, E> {
    /// Polls the future, one waiter at a time.
    fn poll(&self) -> Poll<Arc<Result<V, Failed<E>>>> {
        let mut progress = lock(&self.progress);
        let future = match &mut *progress {
            Progress::Running(future) => future,
            Progress::Ended(result) => return Poll::Ready(Arc::clone(result)),
        };
        let waker = Arc::clone(&self.changed).into();
        let mut context = Context::from_waker(&waker);
        let poll = AssertUnwindSafe(|| future.as_mut().poll(&mut context));
        let result = match catch_unwind(poll) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result.map_err(Failed::Error),
            Err(panic) => Err(Failed::Panicked(message(&*panic))),
        };
        let result = Arc::new(result);
        // Before any waiter sees the result.
        let removed = self.remove_entry();
        let ended = Progress::Ended(Arc::clone(&result));
        let future = mem::replace(&mut *progress, ended);
        drop(progress);
        self.changed.0.notify_waiters();
        drop((removed, future));
        Poll::Ready(result)
    }

    fn remove_entry(&self) -> Option<(K, Weak<Self>)> {
        let mut flights = lock(&self.flights);
        let entry = flights.get(&self.key);
        let is_own = entry.is_some_and(|entry| ptr::eq(entry.as_ptr(), self));
        if is_own { flights.remove_entry(&self.key) } else { None }
    }
}

impl<K: Eq + Hash, V, E> Drop for Flight<K, V, E> {
    fn drop(&mut self) {
        self.remove_entry();
    }
}

impl<K: Eq + Hash, V, E> Default for Group<K, V, E> {
    fn default() -> Self {
        Self { flights: Arc::default() }
    }
}

impl<K: Eq + Hash, V, E> Clone for Group<K, V, E> {
    fn clone(&self) -> Self {
        Self { flights: Arc::clone(&self.flights) }
    }
}

impl<K: Eq + Hash, V, E> std::fmt::Debug for Flight<K, V, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flight").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics with the lock held")
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref().map(String::as_str));
    text.unwrap_or("unknown").to_owned()
}
