use std::cell::RefCell;
use std::num::NonZero;
use std::time::{Duration, Instant};

/// The values of the last `buckets × bucket`, in fixed memory.
#[derive(Debug)]
pub struct Window {
    /// The width of a bucket, in nanoseconds.
    width: u128,
    /// The beginning of bucket 0.
    epoch: Instant,
    /// The bucket of the latest value.
    latest: u128,
    /// One slot for each bucket of the window. The slot of a bucket is its
    /// number modulo the number of slots.
    slots: RefCell<Box<[Slot]>>,
}

/// The length of a [`Window`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The width of a bucket. Zero counts as one nanosecond.
    pub bucket: Duration,
    /// The number of buckets for which a value is counted at least.
    pub buckets: NonZero<usize>,
}

/// Statistics of the values in a window, or in one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The number of values.
    pub count: u64,
    /// The sum of the values, or `u64::MAX` if it is larger.
    pub sum: u64,
    /// The smallest value, or `None` if there is no value.
    pub min: Option<u64>,
    /// The largest value, or `None` if there is no value.
    pub max: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The bucket that the slot was last used for.
    bucket: u128,
    summary: Summary,
}

impl Window {
    /// Creates an empty window. Bucket 0 begins at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        // A window that ends within a bucket touches one bucket more.
        let slots = config.buckets.get() + 1;
        Self {
            width: config.bucket.as_nanos().max(1),
            epoch: now,
            latest: 0,
            slots: RefCell::new(
                vec![Slot { bucket: 0, summary: EMPTY }; slots].into(),
            ),
        }
    }

    /// Adds `value` to the bucket of `now`.
    pub fn add(&mut self, now: Instant, value: u64) {
        self.latest = self.bucket_at(now);
        let slots = self.slots.get_mut();
        let index = self.latest % slots.len() as u128;
        let slot = &mut slots[index as usize];
        if slot.bucket != self.latest {
            *slot = Slot { bucket: self.latest, summary: EMPTY };
        }
        let (min, max) = (Some(value), Some(value));
        let one = Summary { count: 1, sum: value, min, max };
        slot.summary = slot.summary.merge(one);
    }

    /// Returns the statistics of the values that are in the window at `now`.
    pub fn summary(&self, now: Instant) -> Summary {
        let current = self.bucket_at(now);
        let mut slots = self.slots.borrow_mut();
        let len = slots.len() as u128;
        for slot in slots.iter_mut() {
            if current - slot.bucket >= len {
                slot.summary = EMPTY;
            }
        }
        slots.iter().fold(EMPTY, |all, slot| all.merge(slot.summary))
    }

    /// Returns the bucket of `now`, but no bucket before the latest one.
    ///
    /// So no slot has a bucket in the future. A thread may read the clock, and
    /// then get the lock of the window after a thread that read it later.
    fn bucket_at(&self, now: Instant) -> u128 {
        let elapsed = now.saturating_duration_since(self.epoch);
        (elapsed.as_nanos() / self.width).max(self.latest)
    }
}

const EMPTY: Summary = Summary { count: 0, sum: 0, min: None, max: None };

impl Summary {
    /// Returns the statistics of the values of both.
    fn merge(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum.saturating_add(other.sum),
            // Not `self.min.min(other.min)`: `None` is less than any `Some`.
            min: self.min.into_iter().chain(other.min).min(),
            max: self.max.max(other.max),
        }
    }
}
