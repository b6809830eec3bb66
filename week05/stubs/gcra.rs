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
//!   admitted in the meantime, a retry exactly this much later is admitted, and
//!   a retry that comes 1 ns earlier is refused.
//! - The clocks of callers may disagree. A `now` before that of `new` counts as
//!   that of `new`, also in `retry_after`. If `now` is earlier than the latest
//!   time of an admitted request, by a duration `t`, the quota at `now` is the
//!   quota at that latest time minus what refills in `t`. It may be negative.
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
//!   call, and the key was idle at the time of that previous call, the decision
//!   may be stricter, since the key may be forgotten. It is never more
//!   generous.
//! - The next two rules are for keys whose `Hash` writes differ. If `n` keys
//!   are stored, the next `2n + 1000` calls forget all keys that are idle at
//!   the `now` of each of these calls, even if the calls are refused, and all
//!   use one other key.
//! - While each call brings a new key, and at most `a` keys are active, at most
//!   `3a + 1000` keys are stored.
//! - At most two clones of each key are stored, however often it is used.
//! - No caller pays for the others: one call forgets at most 100 keys, and does
//!   not look at all keys. A call that looks at no more than 16 is fast enough.
//! - Sharding is not graded: one lock for all keys is accepted.
//! - Both types keep their rules in every order in which threads run: the last
//!   rung (group of tests) runs your file under loom. So import atomics and
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
