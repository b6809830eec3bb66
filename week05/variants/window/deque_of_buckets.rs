//! Variant: a queue that has only the buckets with values.
//!
//! A bucket is pushed at the back when its first value comes, and popped at the
//! front when it has expired and another bucket is pushed. An idle bucket takes
//! no memory, and no slot is used twice, so none can be confused with another.
//! The ring needs no allocation after `new`.

use std::collections::VecDeque;
use std::num::NonZero;
use std::time::{Duration, Instant};

/// The values of the last `buckets × bucket`, in fixed memory.
#[derive(Debug)]
pub struct Window {
    config: Config,
    epoch: Instant,
    latest: Instant,
    /// The buckets that have values, with their numbers, oldest first.
    buckets: VecDeque<(u128, Summary)>,
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

impl Window {
    /// Creates an empty window. Bucket 0 begins at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        let buckets = VecDeque::new();
        Self { config, epoch: now, latest: now, buckets }
    }

    /// Adds `value` to the bucket of `now`.
    pub fn add(&mut self, now: Instant, value: u64) {
        self.latest = self.latest.max(now);
        let current = self.bucket_at(now);
        match self.buckets.back_mut() {
            Some((bucket, summary)) if *bucket == current => {
                summary.count += 1;
                summary.sum = summary.sum.saturating_add(value);
                summary.min = summary.min.min(Some(value));
                summary.max = summary.max.max(Some(value));
            }
            _ => {
                let oldest = self.oldest_at(now);
                while self.buckets.pop_front_if(|b| b.0 < oldest).is_some() {}
                let (min, max) = (Some(value), Some(value));
                let first = Summary { count: 1, sum: value, min, max };
                self.buckets.push_back((current, first));
            }
        }
    }

    /// Returns the statistics of the values that are in the window at `now`.
    pub fn summary(&self, now: Instant) -> Summary {
        let oldest = self.oldest_at(now);
        let expired = self.buckets.partition_point(|b| b.0 < oldest);
        let buckets = || self.buckets.range(expired..).map(|b| b.1);
        let sum: u128 = buckets().map(|b| u128::from(b.sum)).sum();
        Summary {
            count: buckets().map(|b| b.count).sum(),
            sum: sum.try_into().unwrap_or(u64::MAX),
            min: buckets().filter_map(|b| b.min).min(),
            max: buckets().filter_map(|b| b.max).max(),
        }
    }

    fn bucket_at(&self, now: Instant) -> u128 {
        let elapsed = now.max(self.latest) - self.epoch;
        elapsed.as_nanos() / self.config.bucket.as_nanos().max(1)
    }

    /// Returns the oldest bucket that is counted at `now`.
    fn oldest_at(&self, now: Instant) -> u128 {
        let buckets = self.config.buckets.get() as u128;
        self.bucket_at(now).saturating_sub(buckets)
    }
}
