//! Hot keys: a frequency sketch that knows its error, over a sliding window.
//!
//! *Question.* A subject becomes famous within seconds. How does a process find
//! by itself which keys are hot now, in fixed memory, among ten million keys?
//!
//! *Idea.* Keep counters for `capacity` keys, each with a count for each bucket
//! of time, so that old records expire. If a new key finds no free counter,
//! subtract the **median** of all counts from every count, and remove the keys
//! that fall to zero: the **Misra-Gries** algorithm, in batches. What was
//! subtracted is the error, and it is known. Two thresholds (**hysteresis**)
//! keep a key from changing all the time.
//!
//! *Guarantee.* No key is hot that would not be hot by exact counts. A key is
//! hot if its exact count is at least `hot_at + max_error(now)`. The error is
//! at most `2 × r / capacity` for `r` records in the last two windows, because
//! each median is taken in full from at least half of the counts. It is 0 as
//! long as the keys of each window fit in the capacity.
//!
//! *Cost.* A record is one lookup. A new key may have to visit all counters:
//! about twice for `capacity / 2` new keys, and once a bucket. It has one owner:
//! threads share it behind a lock. It sees only the traffic of its process.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use week05::window;
//! use week06::hot::{Config, HotKeys};
//!
//! let second = Duration::from_secs(1);
//! let buckets = 10.try_into().unwrap();
//! let config = Config {
//!     capacity: 1_000.try_into().unwrap(),
//!     window: window::Config { bucket: second, buckets },
//!     hot_at: 500.try_into().unwrap(), // 50 a second
//!     cool_below: 300.try_into().unwrap(),
//! };
//! let start = Instant::now();
//! let mut keys = HotKeys::new(config, start);
//! (1..500).for_each(|_| assert!(!keys.record(&"celebrity", start)));
//! assert!(keys.record(&"celebrity", start));
//! assert_eq!(keys.hot(start), [("celebrity", 500)]);
//! assert!(!keys.is_hot(&"celebrity", start + 11 * second));
//! ```

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::num::NonZero;
use std::time::{Duration, Instant};

use week05::window::{self, Window};

/// Finds the keys that are recorded most, in the memory of `capacity` keys.
#[derive(Debug)]
pub struct HotKeys<K> {
    config: Config,
    /// The beginning of bucket 0.
    epoch: Instant,
    /// The latest time that a record has got.
    latest: Instant,
    counters: HashMap<K, Counter>,
    /// What each count has lost. A loss counts as long as a record of the same
    /// time: what it took was not newer.
    subtracted: Window,
}

/// The settings of [`HotKeys`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The number of keys that are stored at most.
    pub capacity: NonZero<usize>,
    /// The time for which a record counts.
    pub window: window::Config,
    /// A key becomes hot when its count reaches this number. A rate of 50 a
    /// second is 500 in a window of ten seconds.
    pub hot_at: NonZero<u64>,
    /// A hot key stays hot until its count is less. If this is more than
    /// `hot_at`, then `hot_at` takes its place.
    pub cool_below: NonZero<u64>,
}

#[derive(Debug, Default)]
struct Counter {
    /// The bucket of the latest record, and its count. Most keys are recorded
    /// once, and need no allocation.
    latest: (u64, u64),
    /// Earlier buckets that have records, oldest first.
    earlier: VecDeque<(u64, u64)>,
    /// The sum of all these counts, as each record needs it.
    total: u64,
    /// Whether the key was hot after its latest record.
    was_hot: bool,
}

impl<K: Clone + Eq + Hash> HotKeys<K> {
    /// Creates a sketch without keys. Bucket 0 begins at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        let cool_below = config.cool_below.min(config.hot_at);
        Self {
            config: Config { cool_below, ..config },
            epoch: now,
            latest: now,
            counters: HashMap::new(),
            subtracted: Window::new(config.window, now),
        }
    }

    /// Counts a record of `key`, and returns whether the key is hot now.
    pub fn record(&mut self, key: &K, now: Instant) -> bool {
        self.latest = self.latest.max(now);
        let (oldest, current) = self.buckets_at(now);
        if let Some(counter) = self.counters.get_mut(key) {
            return counter.record(oldest, current, &self.config);
        }
        if self.counters.len() >= self.config.capacity.get() {
            self.make_room(oldest);
        }
        let counter = self.counters.entry(key.clone()).or_default();
        counter.record(oldest, current, &self.config)
    }

    /// Returns whether `key` is hot.
    pub fn is_hot(&self, key: &K, now: Instant) -> bool {
        let (oldest, _) = self.buckets_at(now);
        let counter = self.counters.get(key);
        counter.is_some_and(|c| c.is_hot(oldest, &self.config))
    }

    /// Returns the hot keys with their counts, the highest count first.
    pub fn hot(&self, now: Instant) -> Vec<(K, u64)> {
        let (oldest, _) = self.buckets_at(now);
        let mut hot: Vec<_> = self
            .counters
            .iter()
            .filter(|(_, counter)| counter.is_hot(oldest, &self.config))
            .map(|(key, counter)| (key.clone(), counter.count(oldest)))
            .collect();
        hot.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        hot
    }

    /// Returns how much lower than its exact count a count can be.
    pub fn max_error(&self, now: Instant) -> u64 {
        self.subtracted.summary(now.max(self.latest)).sum
    }

    /// Removes the keys without a count, and if there are none, at least half
    /// of all keys.
    fn make_room(&mut self, oldest: u64) {
        let counts = self.counters.values().map(|c| c.count(oldest));
        let mut counts: Vec<_> = counts.collect();
        let middle = counts.len() / 2;
        let median = *counts.select_nth_unstable(middle).1;
        let loss = if counts.contains(&0) { 0 } else { median };
        // It is tempting to remove the lower half and to leave the rest alone.
        // But only what the others lose limits how often this can happen.
        self.counters.retain(|_, counter| {
            counter.expire(oldest);
            counter.subtract(loss);
            counter.total > 0
        });
        self.subtracted.add(self.latest, loss);
    }

    /// Returns the oldest bucket that counts at `now`, and the current one.
    fn buckets_at(&self, now: Instant) -> (u64, u64) {
        let elapsed = now.max(self.latest).duration_since(self.epoch);
        let current = bucket(elapsed, self.config.window.bucket);
        let buckets = self.config.window.buckets.get() as u64;
        (current.saturating_sub(buckets), current)
    }
}

/// Returns the bucket at the time `elapsed` after the beginning of bucket 0.
fn bucket(elapsed: Duration, width: Duration) -> u64 {
    // A `u64` holds the nanoseconds of 584 years.
    let nanos = |d: Duration| d.as_nanos().try_into().unwrap_or(u64::MAX);
    nanos(elapsed) / nanos(width).max(1)
}

impl Counter {
    fn record(&mut self, oldest: u64, current: u64, config: &Config) -> bool {
        if self.latest.0 != current {
            self.expire(oldest);
            let latest = std::mem::replace(&mut self.latest, (current, 0));
            self.earlier.extend((latest.1 > 0).then_some(latest));
        }
        // Between two records of a key, its count only falls. So the count
        // before this record tells whether the key has cooled since the last.
        self.was_hot &= self.total >= config.cool_below.get();
        self.latest.1 += 1;
        self.total += 1;
        self.was_hot |= self.total >= config.hot_at.get();
        self.was_hot
    }

    fn is_hot(&self, oldest: u64, config: &Config) -> bool {
        self.was_hot && self.count(oldest) >= config.cool_below.get()
    }

    /// Returns the sum of the buckets that have not expired.
    fn count(&self, oldest: u64) -> u64 {
        if self.latest.0 < oldest {
            return 0;
        }
        let expired = self.earlier.iter().take_while(|b| b.0 < oldest);
        self.total - expired.map(|b| b.1).sum::<u64>()
    }

    fn expire(&mut self, oldest: u64) {
        self.subtract(self.total - self.count(oldest));
    }

    /// Subtracts `n`, or all if it is more, from the oldest buckets first.
    fn subtract(&mut self, n: u64) {
        let mut rest = n.min(self.total);
        self.total -= rest;
        while let Some((_, count)) = self.earlier.front_mut() {
            if *count > rest {
                *count -= rest;
                return;
            }
            rest -= *count;
            self.earlier.pop_front();
        }
        self.latest.1 -= rest;
    }
}
