//! Bulkhead: a fair limit on concurrent requests, one for each class.
//!
//! *Question.* Reports and logins share one service. When reports get slow,
//! they hold every worker, and no user can log in. How does each class of
//! requests get a limit and a queue of its own, and what happens to the permits
//! of a caller that gives up?
//!
//! *Idea.* A **weighted semaphore** for each class. One mutex guards the
//! available permits and a queue that is first in, first out. The code that
//! releases permits hands them to the first waiters, before it wakes them. So a
//! waiter that is not in the queue any more has its permits, and nothing is
//! lost if it is dropped. The queue is **bounded**: a caller that would be one
//! too many is refused at once.
//!
//! *Guarantee.* Callers of a class never hold more permits than its limit, and
//! no other class has an effect on them. No caller overtakes a waiter, so a
//! large request is not starved. A future that is dropped at any point leaves
//! the queue or returns its permits, and the next waiters are served.
//!
//! *Cost.* One lock to acquire, and one to release. While a large request is first in the queue,
//! permits that are too few for it stay unused. A waiter has its permits before
//! it is polled, and holds them if its task keeps the future without polling
//! it. Permits of an idle class do not help a busy one.
//!
//! ```
//! use std::collections::HashMap;
//! use std::num::NonZero;
//! use week05::bulkhead::{Bulkheads, Config, Rejected};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let [one, two] = [1, 2].map(|n| NonZero::new(n).unwrap());
//! let config = Config { permits: two, max_waiting: 0 };
//! let configs = HashMap::from([("login", config), ("report", config)]);
//! let bulkheads = Bulkheads::new(configs);
//! let login = bulkheads.get(&"login").unwrap();
//! let report = bulkheads.get(&"report").unwrap();
//!
//! let _slow = report.acquire(two).await.unwrap();
//! assert_eq!(report.acquire(one).await.unwrap_err(), Rejected::Full);
//! assert!(login.acquire(one).await.is_ok());
//! # }
//! ```

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::mem;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::model_checked::loom_atomics::Mutex;

/// One [`Bulkhead`] for each class of requests. The classes share nothing.
#[derive(Debug)]
pub struct Bulkheads<C>(HashMap<C, Arc<Bulkhead>>);

/// A limit on the permits that callers hold, with a bounded queue.
#[derive(Debug)]
pub struct Bulkhead {
    /// One lock: "too few are available" and "joins the queue" are one step.
    state: Mutex<State>,
}

/// The settings of a [`Bulkhead`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The limit: callers hold at most so many permits.
    pub permits: NonZero<u32>,
    /// At most so many callers wait in the queue.
    pub max_waiting: usize,
}

/// The future of [`Bulkhead::acquire`].
///
/// # Cancel safety
///
/// Dropping it leaves the queue, or returns the permits that it already has.
#[derive(Debug)]
#[must_use = "futures do nothing unless they are polled"]
pub struct Acquire {
    bulkhead: Arc<Bulkhead>,
    count: u32,
    /// Set while a poll has returned `Pending` and none has returned a permit.
    ticket: Option<u64>,
}

/// Permits that a caller holds until this value is dropped.
#[derive(Debug)]
#[must_use = "dropping a permit releases it"]
pub struct Permit {
    bulkhead: Arc<Bulkhead>,
    count: u32,
}

/// The caller has got no permits, and does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Too few permits are available, or others wait. Later, it may succeed.
    #[error("bulkhead full")]
    Full,
    /// The request can never succeed.
    #[error("request exceeds the limit of {limit} permits")]
    TooLarge {
        /// The limit of the bulkhead.
        limit: NonZero<u32>,
    },
}

/// There is no bulkhead for the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no bulkhead for this class")]
pub struct UnknownClass;

#[derive(Debug)]
struct State {
    config: Config,
    available: u32,
    /// By ticket, so in order of arrival. A ticket that is not here any more
    /// has got its permits.
    waiters: BTreeMap<u64, Waiter>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    count: u32,
    waker: Option<Waker>,
}

impl<C: Eq + Hash> Bulkheads<C> {
    /// Creates a bulkhead for each class.
    pub fn new(configs: HashMap<C, Config>) -> Self {
        let new = |(class, config)| (class, Arc::new(Bulkhead::new(config)));
        Self(configs.into_iter().map(new).collect())
    }

    /// Returns the bulkhead of `class`.
    ///
    /// # Errors
    ///
    /// Returns [`UnknownClass`] if `class` has none.
    pub fn get(&self, class: &C) -> Result<&Arc<Bulkhead>, UnknownClass> {
        self.0.get(class).ok_or(UnknownClass)
    }
}

impl Bulkhead {
    /// Creates a bulkhead. All its permits are available.
    pub fn new(config: Config) -> Self {
        let state = State {
            config,
            available: config.permits.get(),
            waiters: BTreeMap::new(),
            next_ticket: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Takes `count` permits, and never waits.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected::Full`] if too few are available or a caller waits.
    pub fn try_acquire(
        self: &Arc<Self>,
        count: NonZero<u32>,
    ) -> Result<Permit, Rejected> {
        let count = count.get();
        self.with_state(|state| state.enter(count, &mut None))?;
        Ok(Permit { bulkhead: Arc::clone(self), count })
    }

    /// Returns a future that takes `count` permits. Its first poll takes them,
    /// is refused, or joins the queue.
    ///
    /// To limit the time in the queue, use `tokio::time::timeout`.
    pub fn acquire(self: &Arc<Self>, count: NonZero<u32>) -> Acquire {
        let bulkhead = Arc::clone(self);
        Acquire { bulkhead, count: count.get(), ticket: None }
    }

    /// Returns the number of permits that no caller has.
    pub fn available(&self) -> u32 {
        self.with_state(|state| state.available)
    }

    /// Returns the number of callers in the queue.
    pub fn waiting(&self) -> usize {
        self.with_state(|state| state.waiters.len())
    }

    /// Changes the state, hands out permits, unlocks, and then wakes.
    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().expect("no panic while locked");
        let result = change(&mut state);
        let wakers = state.hand_out();
        // A waker runs code of others, which may call this bulkhead.
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

impl State {
    /// Takes the permits. If they do not fit, queues the waker, if there is
    /// one, and returns the ticket.
    fn enter(
        &mut self,
        count: u32,
        waker: &mut Option<Waker>,
    ) -> Result<Option<u64>, Rejected> {
        let Config { permits: limit, max_waiting } = self.config;
        if count > limit.get() {
            return Err(Rejected::TooLarge { limit });
        }
        if count <= self.available && self.waiters.is_empty() {
            self.available -= count;
            return Ok(None);
        }
        if waker.is_none() || self.waiters.len() >= max_waiting {
            return Err(Rejected::Full);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiters.insert(ticket, Waiter { count, waker: waker.take() });
        Ok(Some(ticket))
    }

    /// Gives the first waiters their permits, up to one that does not fit.
    ///
    /// It is tempting to serve a smaller request behind that one. But then a
    /// large one might never find enough permits.
    fn hand_out(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(first) = self.waiters.first_entry()
            && first.get().count <= self.available
        {
            let waiter = first.remove();
            self.available -= waiter.count;
            wakers.extend(waiter.waker);
        }
        wakers
    }
}

impl Future for Acquire {
    type Output = Result<Permit, Rejected>;

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Self::Output> {
        let (count, ticket) = (self.count, self.ticket);
        // Cloned and dropped without the lock: both may run code of others.
        let mut waker = Some(cx.waker().clone());
        self.ticket = self.bulkhead.with_state(|state| {
            let Some(ticket) = ticket else {
                return state.enter(count, &mut waker);
            };
            let Some(waiter) = state.waiters.get_mut(&ticket) else {
                return Ok(None);
            };
            mem::swap(&mut waiter.waker, &mut waker);
            Ok(Some(ticket))
        })?;
        if self.ticket.is_some() {
            return Poll::Pending;
        }
        let bulkhead = Arc::clone(&self.bulkhead);
        Poll::Ready(Ok(Permit { bulkhead, count }))
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let waiter = self.bulkhead.with_state(|state| {
            let waiter = state.waiters.remove(&ticket);
            state.available += if waiter.is_none() { self.count } else { 0 };
            waiter
        });
        // Without the lock, because of the waker.
        drop(waiter);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.bulkhead.with_state(|state| state.available += self.count);
    }
}
