//! Foil: the lock is released before the decision, which uses only the atomic
//! word of the key.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZero;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::model_checked::loom_atomics::Ordering::Relaxed;
use crate::model_checked::loom_atomics::{Arc, AtomicU64, Mutex, MutexGuard};

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
    tats: HashMap<K, Arc<AtomicU64>>,
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
        // The read-modify-write acts on the latest TAT, so one value admits one
        // request. A refusal may use a stale TAT, but the TAT only grows: the
        // latest one refuses this request as well.
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
        shard.sweep(now);
        let tat = shard.tat(key);
        shard.calls = shard.calls.wrapping_add(1);
        let calls = shard.calls;
        drop(shard);
        let updated = tat.try_update(Relaxed, Relaxed, |tat| {
            self.gcra.next_tat(tat, now).ok()
        });
        let result =
            updated.or_else(|tat| self.gcra.next_tat(tat, now)).map(drop);
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
    fn tat(&mut self, key: &K) -> Arc<AtomicU64> {
        if let Some(tat) = self.tats.get(key) {
            return Arc::clone(tat);
        }
        let tat = Arc::new(AtomicU64::new(self.removed));
        self.queue.push_back((self.removed, key.clone()));
        self.tats.insert(key.clone(), Arc::clone(&tat));
        tat
    }

    /// Looks at the next few keys, and removes those that are idle.
    fn sweep(&mut self, now: Nanos) {
        for _ in 0..SWEPT {
            let Some((old, key)) = self.queue.pop_front() else { break };
            let tat =
                if old > now { old } else { self.tats[&key].load(Relaxed) };
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
        now.saturating_duration_since(self.epoch).as_nanos() as Nanos
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
