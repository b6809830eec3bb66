//! GCRA: a rate limit in one atomic word, and one such word for each key.
//!
//! *Question.* How do threads share a rate limit without a lock, and without a
//! task that refills a bucket? And how does a limiter forget idle keys?
//!
//! *Idea.* Expect one request in each interval, and store only when the next one
//! is due: its theoretical arrival time (TAT). It may come later, or earlier by
//! up to a tolerance. Then the next one is due an interval after the TAT or after
//! now, whichever is later. This generic cell rate algorithm (GCRA) decides as a
//! token bucket does, but its state is one point in time. A key whose TAT has
//! passed is equal to a new key, so each call removes a few of those.
//!
//! *Guarantee.* Any span of time `d` admits at most `burst + d / interval`
//! requests (of each key), even if the clocks of callers disagree: the first one
//! moves the TAT to `now + interval` or later, each other one by an interval or
//! more, and none is admitted if the TAT is later than `now + tolerance`. A
//! refusal changes nothing. A [`KeyedLimiter`] stores no more keys than a small
//! multiple of the active ones, plus a constant.
//!
//! *Cost.* A load to refuse; a compare-and-swap to admit, repeated if another
//! thread was faster. There is no queue: an unlucky caller can starve. With keys,
//! two hashes and a lock; if a shard's table grows, a call moves all its keys.
//!
//! ```
//! use std::{num::NonZero, time::{Duration, Instant}};
//! use week05::gcra::{Limiter, Quota, Throttled};
//!
//! let per_second = NonZero::new(10).unwrap();
//! let quota = Quota { per_second, burst: NonZero::new(2).unwrap() };
//! let start = Instant::now();
//! let limiter = Limiter::new(quota, start);
//!
//! // A burst of two is admitted. The third request is 100 ms too early.
//! assert_eq!(limiter.try_acquire(start), Ok(()));
//! assert_eq!(limiter.try_acquire(start), Ok(()));
//! let retry_after = Duration::from_millis(100);
//! assert_eq!(limiter.try_acquire(start), Err(Throttled { retry_after }));
//! ```

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZero;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::model_checked::loom_atomics::Ordering::Relaxed;
use crate::model_checked::loom_atomics::{AtomicU64, Mutex, MutexGuard};

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
pub struct Limiter {
    gcra: Gcra,
    tat: AtomicU64,
}

/// A rate limiter with the same quota for each key. It removes idle keys itself.
#[derive(Debug)]
pub struct KeyedLimiter<K> {
    gcra: Gcra,
    hasher: RandomState,
    shards: Vec<Mutex<Shard<K>>>,
}

/// The request came too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rate limit exceeded, retry after {retry_after:?}")]
pub struct Throttled {
    /// The shortest wait. Others can use the quota in the meantime.
    pub retry_after: Duration,
}

/// The decision, without storage.
#[derive(Debug)]
struct Gcra {
    epoch: Instant,
    interval: Nanos,
    /// `(burst - 1) × interval`
    tolerance: Nanos,
}

#[derive(Debug)]
struct Shard<K> {
    tats: HashMap<K, Nanos>,
    /// Each key of `tats` once, next to be swept first, with a TAT that it had.
    queue: VecDeque<(Nanos, K)>,
    /// The latest TAT of a removed key.
    removed: Nanos,
    calls: usize,
}

/// Nanoseconds since `epoch`. A `u64` holds 584 years, `tolerance` up to 137.
type Nanos = u64;
const SECOND: Nanos = 1_000_000_000;
const SHARDS: usize = 64;

/// Each fourth call sweeps 8 keys: two for each call, since it may add one.
const SWEEP_EVERY: usize = 4;
const SWEPT: usize = 8;

impl Limiter {
    /// Creates a limiter that admits a burst at `now`.
    pub fn new(quota: Quota, now: Instant) -> Self {
        Self { gcra: Gcra::new(quota, now), tat: AtomicU64::new(0) }
    }

    /// Admits a request that arrives `now`, or returns when to retry.
    pub fn try_acquire(&self, now: Instant) -> Result<(), Throttled> {
        let now = self.gcra.nanos(now);
        // Relaxed: this word is the whole state, and publishes no other memory.
        // The read-modify-write acts on the latest TAT. A refusal may use a stale
        // one, but the TAT only grows: the latest would refuse as well.
        let updated = self.tat.try_update(Relaxed, Relaxed, |tat| {
            self.gcra.next_tat(tat, now).ok()
        });
        updated.or_else(|tat| self.gcra.next_tat(tat, now)).map(drop)
    }
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    /// Creates a limiter that admits a burst of each key.
    pub fn new(quota: Quota, now: Instant) -> Self {
        let shard = |_| {
            let (tats, queue) = (HashMap::new(), VecDeque::new());
            Mutex::new(Shard { tats, queue, removed: 0, calls: 0 })
        };
        let shards = (0..SHARDS).map(shard).collect();
        Self { gcra: Gcra::new(quota, now), hasher: RandomState::new(), shards }
    }

    /// Admits a request of `key` that arrives `now`, or returns when to retry.
    pub fn try_acquire(&self, key: &K, now: Instant) -> Result<(), Throttled> {
        let now = self.gcra.nanos(now);
        let own = self.hasher.hash_one(key) as usize % SHARDS;
        let mut shard = self.lock(own);
        let result = shard.try_acquire(key, &self.gcra, now);
        shard.calls = shard.calls.wrapping_add(1);
        let calls = shard.calls;
        drop(shard);
        if calls.is_multiple_of(SWEEP_EVERY) {
            // Not its own: most shards get no calls if few keys are in use.
            self.lock((own + calls / SWEEP_EVERY) % SHARDS).sweep(now);
        }
        result
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard<K>> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Shard<K> {
    fn try_acquire(
        &mut self,
        key: &K,
        gcra: &Gcra,
        now: Nanos,
    ) -> Result<(), Throttled> {
        if let Some(tat) = self.tats.get_mut(key) {
            *tat = gcra.next_tat(*tat, now)?;
            return Ok(());
        }
        // A caller whose clock is ahead may have removed this key. Its TAT was
        // `removed` or earlier, which has perhaps not passed for this caller.
        let tat = gcra.next_tat(self.removed, now)?;
        let (queued, stored) = (key.clone(), key.clone());
        self.queue.push_back((tat, queued));
        self.tats.insert(stored, tat);
        Ok(())
    }

    /// Looks at the next few keys, and removes those that are idle.
    fn sweep(&mut self, now: Nanos) {
        for _ in 0..SWEPT.min(self.queue.len()) {
            let Some((old, key)) = self.queue.pop_front() else { break };
            // The TAT only grows: if the old one has not passed, no lookup.
            let tat = if old > now { old } else { self.tats[&key] };
            if tat > now {
                self.queue.push_back((tat, key));
            } else {
                self.tats.remove(&key);
                self.removed = self.removed.max(tat);
            }
        }
        if self.tats.capacity() > 8 * self.tats.len() + SHARDS {
            self.tats.shrink_to_fit();
            self.queue.shrink_to_fit();
        }
    }
}

impl Gcra {
    fn new(quota: Quota, now: Instant) -> Self {
        // Rounded up: not faster than the quota, and not zero.
        let interval = SECOND.div_ceil(quota.per_second.get().into());
        let tolerance = interval * Nanos::from(quota.burst.get() - 1);
        Self { epoch: now, interval, tolerance }
    }

    fn nanos(&self, now: Instant) -> Nanos {
        let elapsed = now.saturating_duration_since(self.epoch);
        // `as_nanos` multiplies 128-bit numbers.
        elapsed.as_secs() * SECOND + Nanos::from(elapsed.subsec_nanos())
    }

    /// Returns the TAT after a request that arrives `now`, if it is admitted.
    fn next_tat(&self, tat: Nanos, now: Nanos) -> Result<Nanos, Throttled> {
        let early = tat.saturating_sub(now + self.tolerance);
        if early > 0 {
            return Err(Throttled { retry_after: Duration::from_nanos(early) });
        }
        Ok(tat.max(now) + self.interval)
    }
}
