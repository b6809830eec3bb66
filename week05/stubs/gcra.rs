//! GCRA: a rate limit in one atomic word, and one such word for each key. Your
//! turn.
//!
//! These rules are graded, and nothing else:
//!
//! - The interval is one second divided by `per_second`, rounded up to whole
//!   nanoseconds. All times are exact to the nanosecond.
//! - A new limiter has a full quota: it admits `burst` requests at once. Each
//!   admitted request takes one request from the quota. The quota refills
//!   continuously, by one request in each interval, up to `burst`. A request is
//!   admitted if the quota has at least one whole request.
//! - This holds for every quota, and for a century after `new`.
//! - A refusal changes nothing. `retry_after` is exact: if no other request is
//!   admitted in the meantime, a retry that comes 1 ns earlier is refused, and
//!   a retry after this time is admitted.
//! - The clocks of callers may disagree. A `now` before that of `new` counts as
//!   that of `new`. If `now` is earlier than the time of an admitted request,
//!   by a duration `t`, the quota is the one at that later time, less the part
//!   that refills in `t`.
//!
//! So any span of time `d` admits at most `burst + d / interval` requests. For
//! `KeyedLimiter`:
//!
//! - Each key has a quota of its own. `Eq` decides whether two keys are equal:
//!   different keys may have the same hash.
//! - A key is *active* while its quota is not full, and *idle* otherwise. Later
//!   calls, of any key, forget idle keys, and there is no other help: no task,
//!   and no method that a user has to call.
//! - If the times of calls never go back, each decision is that of a `Limiter`
//!   which only this key uses. If `now` is earlier than the time of a previous
//!   call, and the key was idle at that time, the decision may be stricter,
//!   since the key may be forgotten. It is never more generous.
//! - If `n` keys are stored, whose hashes differ, the next `2n + 1000` calls
//!   forget all that are already idle, even if these calls are refused, and all
//!   use one other key.
//! - If each call brings a new key, with a new hash, at most `3a + 1000` keys are
//!   stored, where `a` is the number of active keys.
//! - At most two clones of each key are stored, however often it is used.
//! - No caller pays for the others: one call forgets at most 100 keys, and does
//!   not look at all keys.
//! - Both types keep their rules in every order in which threads run: the last
//!   group of tests (rung) runs your file under loom. So import atomics and
//!   locks from `crate::model_checked::loom_atomics`.
//!
//! Help: `try_update` of an `AtomicU64` is a read-modify-write that may decide
//! not to write. `RandomState::hash_one` returns the hash of a key.

use std::hash::Hash;
use std::marker::PhantomData;
use std::num::NonZero;
use std::time::{Duration, Instant};

/// The number of requests that a limiter admits.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Requests per second in the long run.
    pub per_second: NonZero<u32>,
    /// Requests at once after an idle period.
    pub burst: NonZero<u32>,
}

/// A rate limiter. Threads share it by reference.
#[derive(Debug)]
pub struct Limiter {}

/// A rate limiter with the same quota for each key. It forgets idle keys itself.
#[derive(Debug)]
pub struct KeyedLimiter<K> {
    // Replace this field. Which keys do you look at in a call?
    keys: PhantomData<K>,
}

/// The request came too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rate limit exceeded, retry after {retry_after:?}")]
pub struct Throttled {
    /// An earlier retry fails. A later one can fail, too, if other callers use
    /// the quota.
    pub retry_after: Duration,
}

impl Limiter {
    /// Creates a limiter that admits a burst at `now`.
    pub fn new(_quota: Quota, _now: Instant) -> Self {
        todo!("what does the limiter have to remember?")
    }

    /// Admits a request that arrives `now`, or returns when to retry.
    pub fn try_acquire(&self, _now: Instant) -> Result<(), Throttled> {
        todo!("is this request too early?")
    }
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    /// Creates a limiter that admits a burst of each key.
    pub fn new(_quota: Quota, _now: Instant) -> Self {
        todo!("how do callers of different keys avoid one another's locks?")
    }

    /// Admits a request of `key` that arrives `now`, or returns when to retry.
    pub fn try_acquire(
        &self,
        _key: &K,
        _now: Instant,
    ) -> Result<(), Throttled> {
        todo!("which keys can you forget, and who looks for them?")
    }
}
