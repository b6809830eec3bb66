//! Sliding-window statistics: a ring of buckets that nobody has to clear.
//!
//! *Question.* How many requests came in the last ten seconds, how many of them
//! succeeded, and what was the longest? How does a service answer at any time,
//! in fixed memory, also if no request came for an hour?
//!
//! *Idea.* Cut time into **buckets** of equal width, and keep one [`Summary`]
//! for each bucket in a **ring** of slots. A slot also stores the number of its
//! bucket. A slot expires when the time moves on, and not because of a write: a
//! read skips a slot whose number is too old, and the next value for the slot
//! replaces it.
//!
//! *Guarantee.* With `n` buckets of width `w`, a value is counted for at least
//! `n × w`, and for less than `(n + 1) × w`: never too short, and at most one
//! bucket too long. The reason is one more slot than `n`. The oldest slot is
//! still needed while the current one fills. A read changes nothing.
//!
//! *Cost.* Values expire a bucket at a time, so a sum falls in steps. A read
//! visits `n + 1` slots. There is one owner: threads share a window behind a
//! lock. If the clock jumps ahead and back, the window stays at the later time,
//! and its values do not expire until the clock has caught up.
//!
//! ```
//! use std::num::NonZero;
//! use std::time::{Duration, Instant};
//! use week05::window::{Config, Window};
//!
//! let second = Duration::from_secs(1);
//! let config = Config { bucket: second, buckets: NonZero::new(10).unwrap() };
//! let start = Instant::now();
//! let mut window = Window::new(config, start);
//!
//! window.add(start, 30);
//! window.add(start + 5 * second, 20);
//! let summary = window.summary(start + 10 * second);
//! assert_eq!((summary.count, summary.sum), (2, 50));
//! let summary = window.summary(start + 11 * second); // 30 has expired
//! assert_eq!((summary.sum, summary.max), (20, Some(20)));
//! ```

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
    slots: Box<[Slot]>,
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
            slots: vec![Slot { bucket: 0, summary: EMPTY }; slots].into(),
        }
    }

    /// Adds `value` to the bucket of `now`.
    pub fn add(&mut self, now: Instant, value: u64) {
        self.latest = self.bucket_at(now);
        let index = self.latest % self.slots.len() as u128;
        let slot = &mut self.slots[index as usize];
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
        let slots = self.slots.len() as u128;
        self.slots
            .iter()
            .filter(|slot| current - slot.bucket < slots)
            .fold(EMPTY, |summary, slot| summary.merge(slot.summary))
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
