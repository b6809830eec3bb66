use std::num::NonZero;
use std::time::{Duration, Instant};

/// The values of the last `buckets × bucket`.
#[derive(Debug)]
pub struct Window {
    config: Config,
    epoch: Instant,
    latest: Instant,
    /// The values with their buckets.
    values: Vec<(u128, u64)>,
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
        Self { config, epoch: now, latest: now, values: Vec::new() }
    }

    /// Adds `value` to the bucket of `now`.
    pub fn add(&mut self, now: Instant, value: u64) {
        self.latest = self.latest.max(now);
        let bucket = self.bucket_at(now);
        self.values.push((bucket, value));
    }

    /// Returns the statistics of the values that are in the window at `now`.
    pub fn summary(&self, now: Instant) -> Summary {
        let buckets = self.config.buckets.get() as u128;
        let oldest = self.bucket_at(now).saturating_sub(buckets);
        let (mut count, mut sum) = (0, 0_u64);
        let (mut min, mut max) = (None, None);
        for &(bucket, value) in &self.values {
            if bucket >= oldest {
                count += 1;
                sum = sum.saturating_add(value);
                min = Some(min.map_or(value, |min: u64| min.min(value)));
                max = max.max(Some(value));
            }
        }
        Summary { count, sum, min, max }
    }

    fn bucket_at(&self, now: Instant) -> u128 {
        let elapsed = now.max(self.latest) - self.epoch;
        elapsed.as_nanos() / self.config.bucket.as_nanos().max(1)
    }
}
