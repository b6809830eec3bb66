//! Variant: a channel for each waiter, which carries its `Permit`.
//!
//! The queue holds the sending halves of oneshot channels, and `Acquire` the
//! receiving half. A permit in a channel is a permit: if the future is dropped,
//! the channel drops the permit, which returns itself. The price is an
//! allocation for each waiter, and a search of the queue in each poll and drop.
//!
//! The channel could keep the latest waker, too, but it would wake as soon as
//! the permit is sent. Permits are sent with the lock held, so that nobody sees
//! a waiter that has left the queue and has no permit. A waker must not run
//! then.
//!
//! tokio's `Semaphore` is fair, too, but it does not fit here. It does not tell
//! how many callers wait, it counts no caller as served before a poll, and
//! `acquire_many` waits for ever for more permits than there are.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::mem;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::sync::oneshot;

use crate::model_checked::loom_atomics::{Mutex, MutexGuard};

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
    /// Set while the caller is in the queue or has permits.
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    ticket: u64,
    receiver: oneshot::Receiver<Permit>,
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
    queue: VecDeque<Waiter>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    count: u32,
    sender: oneshot::Sender<Permit>,
    waker: Waker,
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
            queue: VecDeque::new(),
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
        self.with_state(|state| state.take(count))?;
        Ok(Permit { bulkhead: Arc::clone(self), count })
    }

    /// Returns a future that takes `count` permits. Its first poll takes them,
    /// is refused, or joins the queue.
    ///
    /// To limit the time in the queue, use `tokio::time::timeout`.
    pub fn acquire(self: &Arc<Self>, count: NonZero<u32>) -> Acquire {
        let bulkhead = Arc::clone(self);
        Acquire { bulkhead, count: count.get(), place: None }
    }

    /// Returns the number of permits that no caller has.
    pub fn available(&self) -> u32 {
        self.lock().available
    }

    /// Returns the number of callers in the queue.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    /// Changes the state, sends permits to the first waiters, unlocks, and then
    /// wakes them.
    fn with_state<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut State) -> T,
    ) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let mut wakers = Vec::new();
        while let Some(first) = state.queue.front()
            && first.count <= state.available
            && let Some(waiter) = state.queue.pop_front()
        {
            state.available -= waiter.count;
            let bulkhead = Arc::clone(self);
            let permit = Permit { bulkhead, count: waiter.count };
            // A receiver leaves the queue before it is dropped.
            waiter.sender.send(permit).expect("a waiter has a receiver");
            wakers.push(waiter.waker);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

impl State {
    fn take(&mut self, count: u32) -> Result<(), Rejected> {
        let limit = self.config.permits;
        if count > limit.get() {
            return Err(Rejected::TooLarge { limit });
        }
        if count > self.available || !self.queue.is_empty() {
            return Err(Rejected::Full);
        }
        self.available -= count;
        Ok(())
    }

    fn take_or_wait(
        &mut self,
        count: u32,
        waker: &Waker,
    ) -> Result<Option<Place>, Rejected> {
        let has_room = self.queue.len() < self.config.max_waiting;
        match self.take(count) {
            Err(Rejected::Full) if has_room => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                let (sender, receiver) = oneshot::channel();
                let waker = waker.clone();
                self.queue.push_back(Waiter { ticket, count, sender, waker });
                Ok(Some(Place { ticket, receiver }))
            }
            taken => taken.map(|()| None),
        }
    }

    /// Returns the index in the queue.
    fn find(&self, ticket: u64) -> Option<usize> {
        self.queue.binary_search_by_key(&ticket, |w| w.ticket).ok()
    }
}

impl Future for Acquire {
    type Output = Result<Permit, Rejected>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { bulkhead, count, place } = self.get_mut();
        let Some(Place { ticket, receiver }) = place else {
            *place = bulkhead
                .with_state(|state| state.take_or_wait(*count, cx.waker()))?;
            if place.is_some() {
                return Poll::Pending;
            }
            let bulkhead = Arc::clone(bulkhead);
            return Poll::Ready(Ok(Permit { bulkhead, count: *count }));
        };
        let mut waker = cx.waker().clone();
        let waits = bulkhead.with_state(|state| {
            let index = state.find(*ticket)?;
            mem::swap(&mut state.queue[index].waker, &mut waker);
            Some(())
        });
        if waits.is_some() {
            return Poll::Pending;
        }
        let permit = receiver.try_recv().expect("a permit was sent");
        *place = None;
        Poll::Ready(Ok(permit))
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(Place { ticket, receiver }) = self.place.take() else {
            return;
        };
        let waiter = self.bulkhead.with_state(|state| {
            let index = state.find(ticket)?;
            state.queue.remove(index)
        });
        // Without the lock: one may have a permit, the other has a waker.
        drop((receiver, waiter));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.bulkhead.with_state(|state| state.available += self.count);
    }
}
