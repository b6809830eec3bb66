//! Variant: Misra-Gries as in the textbook, with a ring of counts for each key.
//!
//! A new key that finds no free counter takes one from each count. If no key
//! falls to zero, the record is dropped: it pays together with the others. The
//! error is at most `r / capacity`, half of that of the answer. But a burst of
//! new keys may visit all counters for each of them, until the counts have
//! fallen. All rings are equally long, so a key takes more memory. The losses
//! are counted in such a ring, too.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZero;
use std::time::Instant;

use week05::window;

/// Finds the keys that are recorded most, in the memory of `capacity` keys.
#[derive(Debug)]
pub struct HotKeys<K> {
    config: Config,
    epoch: Instant,
    latest: Instant,
    rows: HashMap<K, Row>,
    losses: Ring,
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

#[derive(Debug)]
struct Row {
    counts: Ring,
    was_hot: bool,
}

/// The counts of the last buckets. The slot of a bucket is its number modulo
/// the number of slots.
#[derive(Debug)]
struct Ring {
    latest: u128,
    slots: Box<[u64]>,
}

impl<K: Clone + Eq + Hash> HotKeys<K> {
    /// Creates a sketch without keys. Bucket 0 begins at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            epoch: now,
            latest: now,
            rows: HashMap::new(),
            losses: Ring::new(config),
        }
    }

    /// Counts a record of `key`, and returns whether the key is hot now.
    pub fn record(&mut self, key: &K, now: Instant) -> bool {
        self.latest = self.latest.max(now);
        let (bucket, config) = (self.bucket(now), self.config);
        if !self.rows.contains_key(key) {
            self.make_room(bucket);
            if self.rows.len() >= config.capacity.get() {
                return false;
            }
            let row = Row { counts: Ring::new(config), was_hot: false };
            self.rows.insert(key.clone(), row);
        }
        let row = self.rows.get_mut(key).expect("it has just been inserted");
        row.was_hot = row.is_hot(bucket, config);
        row.counts.add_one(bucket);
        row.was_hot |= row.counts.sum(bucket) >= config.hot_at.get();
        row.was_hot
    }

    /// Returns whether `key` is hot.
    pub fn is_hot(&self, key: &K, now: Instant) -> bool {
        let bucket = self.bucket(now);
        self.rows.get(key).is_some_and(|row| row.is_hot(bucket, self.config))
    }

    /// Returns the hot keys with their counts, the highest count first.
    pub fn hot(&self, now: Instant) -> Vec<(K, u64)> {
        let bucket = self.bucket(now);
        let mut hot = Vec::new();
        for (key, row) in &self.rows {
            if row.is_hot(bucket, self.config) {
                hot.push((key.clone(), row.counts.sum(bucket)));
            }
        }
        hot.sort_by_key(|(_, count)| Reverse(*count));
        hot
    }

    /// Returns how much lower than its exact count a count can be.
    pub fn max_error(&self, now: Instant) -> u64 {
        self.losses.sum(self.bucket(now))
    }

    /// Removes keys without a count. If there are none, takes one from each.
    fn make_room(&mut self, bucket: u128) {
        for loss in [0, 1] {
            if self.rows.len() < self.config.capacity.get() {
                return;
            }
            self.rows.retain(|_, row| {
                (0..loss).for_each(|_| row.counts.take_one(bucket));
                row.counts.sum(bucket) > 0
            });
            (0..loss).for_each(|_| self.losses.add_one(bucket));
        }
    }

    fn bucket(&self, now: Instant) -> u128 {
        let elapsed = now.max(self.latest).duration_since(self.epoch);
        elapsed.as_nanos() / self.config.window.bucket.as_nanos().max(1)
    }
}

impl Row {
    fn is_hot(&self, bucket: u128, config: Config) -> bool {
        let cool_below = config.cool_below.min(config.hot_at);
        self.was_hot && self.counts.sum(bucket) >= cool_below.get()
    }
}

impl Ring {
    fn new(config: Config) -> Self {
        let slots = config.window.buckets.get() + 1;
        Self { latest: 0, slots: vec![0; slots].into() }
    }

    /// Returns the indexes of the slots that count at `bucket`, oldest first.
    fn live(&self, bucket: u128) -> impl Iterator<Item = usize> {
        let slots = self.slots.len() as u128;
        let oldest = (bucket + 1).saturating_sub(slots);
        (oldest..=self.latest).map(move |bucket| (bucket % slots) as usize)
    }

    fn sum(&self, bucket: u128) -> u64 {
        self.live(bucket).map(|slot| self.slots[slot]).sum()
    }

    fn add_one(&mut self, bucket: u128) {
        let slots = self.slots.len() as u128;
        let skipped = (bucket - self.latest).min(slots);
        for i in 0..skipped {
            self.slots[((bucket - i) % slots) as usize] = 0;
        }
        self.latest = bucket;
        self.slots[(bucket % slots) as usize] += 1;
    }

    fn take_one(&mut self, bucket: u128) {
        let oldest = self.live(bucket).find(|slot| self.slots[*slot] > 0);
        if let Some(slot) = oldest {
            self.slots[slot] -= 1;
        }
    }
}
