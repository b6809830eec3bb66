//! Bulkhead: a fair limit on concurrent requests, one for each class. Your
//! turn.
//!
//! These rules are graded, and nothing else:
//!
//! - Callers hold at most `permits` permits at any time: this is the limit. A
//!   caller *has* permits from the moment at which it gets them until its
//!   `Permit` is dropped, also in a panic. `available` is the limit less the
//!   permits that callers have, and `waiting` the number of callers in the
//!   queue.
//! - A request for more than the limit is refused with `TooLarge`. It never
//!   waits.
//! - `try_acquire` gets the permits if enough are available and no caller is in
//!   the queue. Otherwise it returns `Full`.
//! - `acquire` does nothing before the first poll of its future. The first poll
//!   gets the permits under the same condition. Otherwise the caller joins the
//!   end of the queue, or gets `Full` at once if `max_waiting` callers are in
//!   the queue already. `max_waiting` may be 0 or `usize::MAX`.
//! - A refusal changes nothing.
//! - The queue is first in, first out. As soon as enough permits are available
//!   for the first caller, it gets them and leaves the queue: at this moment,
//!   and not when it is polled next. Then the next caller is the first. While
//!   the first caller cannot be served, no caller behind it is, even if it asks
//!   for less.
//! - When a caller in the queue gets its permits, the waker of its latest poll
//!   is woken once, before the method or drop returns that made them available.
//!   No other waker is woken. The next poll returns the `Permit`.
//! - A poll that comes earlier returns `Pending` and changes nothing but the
//!   waker.
//! - An `Acquire` may be dropped at any time. In the queue, it leaves the
//!   queue. If it has permits, they are available again. In both cases, the
//!   callers behind it are served as above. Before the first poll and after the
//!   last one, the drop has no effect.
//! - While a waker is woken or dropped, it may call every method, poll and drop
//!   futures, and drop permits. All these rules hold for these calls, too.
//!   Before the first waker is woken, all callers that can be served have their
//!   permits.
//! - Each class has a bulkhead of its own, with its own `Config`, and `get`
//!   always returns the same one. No call changes a bulkhead of another class.
//!   `get` returns `UnknownClass` for each class that is not in `configs`.
//! - Threads see the same as if they took turns: each method, poll or drop
//!   takes effect at one moment, except for its wakes. The last rung (group of
//!   tests) runs your file under loom, which does not see the types of `std`.
//!   So import `Mutex` or atomics from `crate::model_checked::loom_atomics`,
//!   but `Arc` from `std`.
//!
//! Not graded: a poll after `Ready`, a waker that panics.

use std::collections::HashMap;
use std::hash::Hash;
use std::marker::PhantomData;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// One [`Bulkhead`] for each class of requests. The classes share nothing.
#[derive(Debug)]
pub struct Bulkheads<C> {
    // Where does each class find its bulkhead?
    _classes: PhantomData<C>,
}

/// A limit on the permits that callers hold, with a bounded queue.
#[derive(Debug)]
pub struct Bulkhead {
    // Which parts of the state change in one step?
}

/// The settings of a [`Bulkhead`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The limit: callers hold at most so many permits.
    pub permits: NonZero<u32>,
    /// At most so many callers wait in the queue.
    pub max_waiting: usize,
}

/// The future of [`Bulkhead::acquire`]. It must stay `Send` and `Unpin`.
///
/// # Cancel safety
///
/// Dropping it leaves the queue, or returns the permits that it already has.
#[derive(Debug)]
#[must_use = "futures do nothing unless they are polled"]
pub struct Acquire {
    bulkhead: Arc<Bulkhead>,
    // How does a poll or a drop find out whether it has its permits?
}

/// Permits that a caller holds until this value is dropped.
#[derive(Debug)]
#[must_use = "dropping a permit releases it"]
pub struct Permit {
    bulkhead: Arc<Bulkhead>,
    // What is to be returned?
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

impl<C: Eq + Hash> Bulkheads<C> {
    /// Creates a bulkhead for each class.
    pub fn new(_configs: HashMap<C, Config>) -> Self {
        todo!("what may the classes share?")
    }

    /// Returns the bulkhead of `class`.
    ///
    /// # Errors
    ///
    /// Returns [`UnknownClass`] if `class` has none.
    pub fn get(&self, _class: &C) -> Result<&Arc<Bulkhead>, UnknownClass> {
        todo!("which permits may a class use that has no limit?")
    }
}

impl Bulkhead {
    /// Creates a bulkhead. All its permits are available.
    pub fn new(_config: Config) -> Self {
        todo!("what does a bulkhead remember?")
    }

    /// Takes `count` permits, and never waits.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected::Full`] if too few are available or a caller waits.
    pub fn try_acquire(
        self: &Arc<Self>,
        _count: NonZero<u32>,
    ) -> Result<Permit, Rejected> {
        todo!("may this caller overtake others?")
    }

    /// Returns a future that takes `count` permits. Its first poll takes them,
    /// is refused, or joins the queue.
    ///
    /// To limit the time in the queue, use `tokio::time::timeout`.
    pub fn acquire(self: &Arc<Self>, _count: NonZero<u32>) -> Acquire {
        todo!("what does a future do before its first poll?")
    }

    /// Returns the number of permits that no caller has.
    pub fn available(&self) -> u32 {
        todo!("how many permits has no caller?")
    }

    /// Returns the number of callers in the queue.
    pub fn waiting(&self) -> usize {
        todo!("how many callers are in the queue?")
    }
}

impl Future for Acquire {
    type Output = Result<Permit, Rejected>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        todo!("is this the first poll, and whom does a release wake now?")
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        todo!("what does {:?} get back, and who is next?", self.bulkhead)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        todo!("who gets the permits of {:?}?", self.bulkhead)
    }
}
