//! Single flight: concurrent reads of one key become one read. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - *Joining.* The first poll of the future that `run` returns joins the
//!   flight of an equal key. If there is none that can be joined, it starts a
//!   flight with its own `f`. Before its first poll, the future neither joins
//!   nor starts a flight. Keys that are different may have equal hashes.
//! - *Waiters* are the futures that have joined or started a flight. The first
//!   one is the leader, the others are followers. A flight calls the `f` of its
//!   leader, and never that of a follower. Flights of different keys do not
//!   wait for each other.
//! - Every waiter gets the result of its flight: a clone of the value,
//!   `Failed::Error` with a clone of the error, or `Failed::Panicked` if `f` or
//!   its future has panicked. The text is the message of the panic if that is a
//!   `&str` or a `String`, and otherwise any text.
//! - *Nothing is remembered.* When one waiter has got the result, the flight
//!   can no longer be joined, even if other waiters have not got it yet.
//! - *Waiters leave* when they are dropped, for example at the deadline of a
//!   `tokio::time::timeout`. As long as one waiter is left, whichever it is,
//!   the flight goes on and can be joined. A waiter that is neither polled nor
//!   dropped does not delay the others.
//! - *Cancelling.* When the last waiter leaves before the result, the flight is
//!   cancelled: its future is dropped at once, or when its runtime next runs.
//!   As soon as the waiter has been dropped, the flight can no longer be
//!   joined: the next call starts a new one, and does not wait for the end of
//!   the old one.
//! - *Forget.* After `forget`, the current flight of the key can no longer be
//!   joined: the next call starts a new one. The old flight goes on, and its
//!   waiters get its result. When the old flight ends, in whatever way, the new
//!   one stays joinable.
//! - When a flight has ended and its waiters are gone, the group soon keeps
//!   nothing of it: no key, value, error or function.
//! - A function, a future and a destructor (also of a key, value or error) may
//!   call `forget` with any key, and `run` with another key. So the group holds
//!   no lock while they run. `Eq`, `Hash` and `Clone` do not call the group:
//!   they may run under its lock.
//! - A flight may need the runtime in which it was started. If this runtime
//!   shuts down or has shut down, the waiters in other runtimes get the result,
//!   or `Failed::Cancelled`. This is not remembered either: the next call starts
//!   a new flight.
//! - All these rules hold for concurrent tasks: the last rung (group of tests)
//!   runs your file under shuttle. shuttle does not see the locks of `std` and
//!   the tasks of tokio. So import these names from
//!   `crate::model_checked::shuttle_tasks` instead, with the signatures of
//!   tokio's and std's: `Mutex`, `Arc`, `Weak`, `spawn`, `AbortHandle`,
//!   `JoinHandle`, `CancellationToken`, and of `tokio::sync` `Notify`,
//!   `OnceCell`, `Semaphore`, `oneshot` and `watch`. A test checks that shuttle
//!   sees the lock with which you protect the flights.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::model_checked::shuttle_tasks::{Arc, Mutex};

/// Merges concurrent calls of equal keys. A clone shares the flights.
#[derive(Debug)]
pub struct Group<K, V, E> {
    flights: Arc<Mutex<HashMap<K, Flight<V, E>>>>,
}

/// What the group knows of a flight.
#[derive(Debug)]
struct Flight<V, E> {
    // How does a new waiter get the result? Who owns a flight, so that the last
    // waiter cancels it?
    _types: PhantomData<fn() -> Result<V, Failed<E>>>,
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
    /// May panic outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// The first poll joins or starts the flight. Dropping the future leaves
    /// it, which cancels the flight if no other waiter is left.
    #[expect(clippy::unused_async, reason = "you will need it")]
    pub async fn run<F, Fut>(&self, _key: K, f: F) -> Result<V, Failed<E>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        let _read = outcome_of(async { f().await });
        todo!("who polls this, if the leader can be dropped at any time?")
    }

    /// Makes the next call of `key` start a new flight. The waiters of the
    /// current one still get its result.
    pub fn forget(&self, _key: &K) {
        todo!("what do you remove, and where is it dropped?")
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

/// Waits for `future`, and returns a panic as an error. Call `f` inside of
/// `future`, or its panic is not caught.
async fn outcome_of<V, E>(
    future: impl Future<Output = Result<V, E>>,
) -> Result<V, Failed<E>> {
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
