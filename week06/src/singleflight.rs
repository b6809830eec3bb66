//! Single flight: concurrent reads of one key become one read.
//!
//! *Question.* A hot key expires, and a thousand requests miss the cache in the
//! same millisecond. How does the database get one query and not a thousand? And
//! what do 999 requests get if the first one is cancelled?
//!
//! *Idea.* The first caller of a key, the **leader**, starts a **flight**: a
//! call of its function. Callers that come before the flight has ended are
//! **followers**. They wait for the same result, and their functions are never
//! called. As long as the leader is alone, it polls the flight itself. The first
//! follower moves the flight into a task, so that no waiter depends on another.
//! All waiters own the flight together, through an `Arc`, and the map has only a
//! `Weak`. So the last waiter that leaves drops the flight and aborts its task.
//! A new caller either gets an `Arc` of a flight that has waiters, or starts a
//! flight.
//!
//! *Guarantee.* A key has at most one flight that can be joined. Every waiter
//! gets the flight's result, error or panic, even if other waiters are dropped
//! or not polled. If the leader's runtime shuts down, it may get an error. A
//! flight removes its entry from the map before it wakes a waiter, and removes
//! no other flight's entry. So no flight is joined after its end.
//!
//! *Cost.* Two allocations for each flight, and a task if it has followers. A
//! lock of the group at its start and its end, and for each waiter. A slow
//! flight delays all its waiters, and its error reaches all of them. A follower
//! can get a value that was read before its own call: after a write, call
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
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use crate::model_checked::shuttle_tasks::{
    AbortHandle, Arc, Handle, Mutex, MutexGuard, Notify, Weak,
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
type Flights<K, V, E> = HashMap<K, Weak<Flight<K, V, E>>>;

type Entry<K, V, E> = (K, Weak<Flight<K, V, E>>);

type Outcome<V, E> = Result<V, Failed<E>>;

/// Owned by its waiters.
struct Flight<K, V, E> {
    flights: Arc<Mutex<Flights<K, V, E>>>,
    key: K,
    /// Removes the entry of this flight. `drop` cannot call it by its name:
    /// only `run` requires that keys can be compared.
    remove_entry: fn(&Self) -> Option<Entry<K, V, E>>,
    call: Mutex<Call<V, E>>,
    /// The runtime of the leader.
    runtime: Handle,
    /// The task that polls the call, once there is a follower.
    task: OnceLock<AbortHandle>,
    outcome: OnceLock<Outcome<V, E>>,
    /// Wakes the waiters when the outcome is known.
    landed: Notify,
}

/// The call, until it has a task.
struct Call<V, E> {
    /// `None` while the leader polls the future. So the lock is not held then.
    alone: Option<(CallFuture<V, E>, Waker)>,
    /// Makes the leader give the future to a task after its poll.
    has_follower: bool,
}

type CallFuture<V, E> = Pin<Box<dyn Future<Output = Outcome<V, E>> + Send>>;

/// Owned by the task of a flight. Its drop ends the flight, however the task
/// ends.
struct Landing<K, V, E> {
    flight: Weak<Flight<K, V, E>>,
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
        // Created first, so that it misses no notification.
        let landed = flight.landed.notified();
        poll_fn(|context| flight.poll_alone(context)).await;
        if flight.outcome.get().is_none() {
            landed.await;
        }
        flight.outcome.get().expect("the flight has landed").clone()
    }

    /// Makes the next call of `key` start a new flight. The waiters of the
    /// current one still get its result.
    pub fn forget(&self, key: &K) {
        let forgotten = lock(&self.flights).remove_entry(key);
        // Not in the line above, where the lock is held to the end.
        drop(forgotten);
    }

    fn join<F, Fut>(&self, key: K, f: F) -> Arc<Flight<K, V, E>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        let mut flights = lock(&self.flights);
        let entry = flights.get(&key);
        if let Some(flight) = entry.and_then(Weak::upgrade) {
            drop(flights);
            flight.move_to_task();
            return flight;
        }
        // The last waiter of this flight has left, and is about to remove it.
        let left = entry.is_some().then(|| flights.remove_entry(&key));
        let Ok(runtime) = Handle::try_current() else {
            drop(flights);
            panic!("`run` was called outside of a tokio runtime");
        };
        let future: CallFuture<V, E> =
            Box::pin(outcome_of(async { f().await }));
        let alone = Some((future, Waker::noop().clone()));
        let flight = Arc::new(Flight {
            flights: Arc::clone(&self.flights),
            key: key.clone(),
            remove_entry: Flight::remove_entry,
            call: Mutex::new(Call { alone, has_follower: false }),
            runtime,
            task: OnceLock::new(),
            outcome: OnceLock::new(),
            landed: Notify::new(),
        });
        flights.insert(key, Arc::downgrade(&flight));
        drop(flights);
        drop(left);
        flight
    }
}

impl<K, V, E> Flight<K, V, E>
where
    K: Send + Sync + 'static,
    V: Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// Polls the call until it has ended, or has a task.
    fn poll_alone(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some((mut future, mut leader)) = self.take(false) else {
            return Poll::Ready(());
        };
        if let Poll::Ready(outcome) = future.as_mut().poll(context) {
            self.land(outcome);
            return Poll::Ready(());
        }
        leader.clone_from(context.waker());
        let mut call = lock(&self.call);
        if !call.has_follower {
            call.alone = Some((future, leader));
            return Poll::Pending;
        }
        drop(call);
        self.spawn(future);
        Poll::Ready(())
    }

    /// Called by each follower: the leader may be dropped, or not polled.
    fn move_to_task(self: &Arc<Self>) {
        if let Some((future, leader)) = self.take(true) {
            self.spawn(future);
            leader.wake();
        }
    }

    fn take(&self, is_follower: bool) -> Option<(CallFuture<V, E>, Waker)> {
        // Most followers come when there is a task, and need no lock.
        if self.task.get().is_some() {
            return None;
        }
        let mut call = lock(&self.call);
        call.has_follower |= is_follower;
        call.alone.take()
    }

    /// Called without a lock: a runtime that shuts down drops the task at once.
    fn spawn(self: &Arc<Self>, future: CallFuture<V, E>) {
        let landing = Landing { flight: Arc::downgrade(self), outcome: None };
        let task = self.runtime.spawn(async { landing.complete(future.await) });
        self.task.get_or_init(|| task.abort_handle());
    }
}

impl<K, V, E> Flight<K, V, E> {
    /// Ends the flight.
    fn land(&self, outcome: Outcome<V, E>) {
        let _removed = (self.remove_entry)(self);
        // After the removal: a waiter that wakes may call again at once.
        self.outcome.get_or_init(|| outcome);
        self.landed.notify_waiters();
    }
}

impl<K: Eq + Hash, V, E> Flight<K, V, E> {
    fn remove_entry(&self) -> Option<Entry<K, V, E>> {
        let mut flights = lock(&self.flights);
        // After `forget`, the entry may be of another flight.
        let entry = flights.get(&self.key)?;
        let is_own = std::ptr::eq(entry.as_ptr(), self);
        is_own.then(|| flights.remove_entry(&self.key))?
    }
}

impl<K, V, E> Landing<K, V, E> {
    fn complete(mut self, outcome: Outcome<V, E>) {
        self.outcome = Some(outcome);
    }
}

impl<K, V, E> Drop for Landing<K, V, E> {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.upgrade() {
            let outcome = self.outcome.take();
            flight.land(outcome.unwrap_or(Err(Failed::Cancelled)));
        }
    }
}

impl<K, V, E> Drop for Flight<K, V, E> {
    fn drop(&mut self) {
        if self.outcome.get().is_none() {
            (self.remove_entry)(self);
        }
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

/// Waits for `future`, and returns a panic as an error. Call `f` inside of
/// `future`, or its panic is not caught.
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
