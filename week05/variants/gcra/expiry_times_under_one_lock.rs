//! Variant: buckets that refill when they are used, and the times at which they
//! are full, in order.
//!
//! A bucket holds its credit and the time of this credit: two words, so they
//! need a lock. The keys are sorted by the time at which their bucket is full.
//! So a call looks only at keys that may be idle, and memory is freed earlier
//! than in the answer. The price is one lock for all keys, and a search tree.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::num::NonZero;
use std::time::{Duration, Instant};

use crate::model_checked::loom_atomics::Mutex;

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
    refill: Refill,
    bucket: Mutex<Bucket>,
}

/// A rate limiter with the same quota for each key. It forgets idle keys itself.
#[derive(Debug)]
pub struct KeyedLimiter<K> {
    refill: Refill,
    keys: Mutex<Keys<K>>,
}

/// The request came too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rate limit exceeded, retry after {retry_after:?}")]
pub struct Throttled {
    /// An earlier retry fails. A later one can fail, too, if other callers use
    /// the quota.
    pub retry_after: Duration,
}

#[derive(Debug)]
struct Refill {
    created: Instant,
    /// The price of one request.
    interval: Duration,
    /// The credit of a full bucket.
    full: Duration,
}

/// A credit that was right at a point in time, counted from `created`.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    credit: Duration,
    at: Duration,
}

#[derive(Debug)]
struct Keys<K> {
    buckets: HashMap<K, Bucket>,
    /// Each key once, at a time before which its bucket is not full. The number
    /// makes equal times distinct.
    expiries: BTreeMap<(Duration, u64), K>,
    inserted: u64,
    /// The latest time at which a forgotten bucket was full.
    forgotten: Duration,
}

impl Limiter {
    /// Creates a limiter that admits a burst at `now`.
    pub fn new(quota: Quota, now: Instant) -> Self {
        let refill = Refill::new(quota, now);
        let bucket = Mutex::new(refill.bucket_full_at(Duration::ZERO));
        Self { refill, bucket }
    }

    /// Admits a request that arrives `now`, or returns when to retry.
    pub fn try_acquire(&self, now: Instant) -> Result<(), Throttled> {
        let now = now.saturating_duration_since(self.refill.created);
        let mut bucket = self.bucket.lock().expect("no holder panics");
        *bucket = self.refill.take_one(*bucket, now)?;
        Ok(())
    }
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    /// Creates a limiter that admits a burst of each key.
    pub fn new(quota: Quota, now: Instant) -> Self {
        let keys = Keys {
            buckets: HashMap::new(),
            expiries: BTreeMap::new(),
            inserted: 0,
            forgotten: Duration::ZERO,
        };
        Self { refill: Refill::new(quota, now), keys: Mutex::new(keys) }
    }

    /// Admits a request of `key` that arrives `now`, or returns when to retry.
    pub fn try_acquire(&self, key: &K, now: Instant) -> Result<(), Throttled> {
        let refill = &self.refill;
        let now = now.saturating_duration_since(refill.created);
        let mut keys = self.keys.lock().expect("no key panics");
        keys.forget(refill, now);
        if let Some(bucket) = keys.buckets.get_mut(key) {
            *bucket = refill.take_one(*bucket, now)?;
            return Ok(());
        }
        let bucket = refill.bucket_full_at(keys.forgotten);
        let bucket = refill.take_one(bucket, now)?;
        keys.buckets.insert(key.clone(), bucket);
        keys.watch(refill.full_at(&bucket), key.clone());
        Ok(())
    }
}

impl<K: Hash + Eq> Keys<K> {
    fn watch(&mut self, expiry: Duration, key: K) {
        self.inserted += 1;
        self.expiries.insert((expiry, self.inserted), key);
    }

    /// Forgets up to three keys whose buckets are full.
    fn forget(&mut self, refill: &Refill, now: Duration) {
        for _ in 0..3 {
            let Some(first) = self.expiries.first_entry() else { return };
            if first.key().0 > now {
                return;
            }
            let key = first.remove();
            let full_at = refill.full_at(&self.buckets[&key]);
            if full_at > now {
                self.watch(full_at, key);
            } else {
                self.buckets.remove(&key);
                self.forgotten = self.forgotten.max(full_at);
            }
        }
    }
}

impl Refill {
    fn new(quota: Quota, created: Instant) -> Self {
        let nanos = 1_000_000_000_u64.div_ceil(quota.per_second.get().into());
        let interval = Duration::from_nanos(nanos);
        Self { created, interval, full: interval * quota.burst.get() }
    }

    fn bucket_full_at(&self, at: Duration) -> Bucket {
        Bucket { credit: self.full, at }
    }

    fn full_at(&self, bucket: &Bucket) -> Duration {
        bucket.at + (self.full - bucket.credit)
    }

    /// Returns the bucket after a request, if its credit suffices.
    fn take_one(
        &self,
        bucket: Bucket,
        now: Duration,
    ) -> Result<Bucket, Throttled> {
        let at = bucket.at.max(now);
        let refilled = bucket.credit.saturating_add(at - bucket.at);
        let credit = refilled.min(self.full);
        // A caller whose clock is behind does not get what refills until then.
        let price = self.interval + (at - now);
        if credit < price {
            return Err(Throttled { retry_after: price - credit });
        }
        Ok(Bucket { credit: credit - self.interval, at })
    }
}
