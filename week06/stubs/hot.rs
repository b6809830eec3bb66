//! Hot keys: a frequency sketch that knows its error, over a sliding window.
//! Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - Time is cut into buckets as in a `Window` of `Config::window` that was
//!   created at the `now` of `new`. A record in bucket `i` counts until the end
//!   of bucket `i + n`, where `n` is the window's number of buckets (so `n + 1`
//!   buckets count). This holds for any width (zero is one nanosecond), any gap
//!   of some centuries, and up to `u64::MAX` records in a window.
//! - If a `now` is earlier than the latest `now` that `new` or a `record` has
//!   got, it counts as that latest time.
//! - The *exact count* of a key is the number of its records that count at
//!   `now`. Keys are the same if they are equal (`==`). Equal hashes are not
//!   enough.
//! - The *count* of a key is your estimate. It is at most the exact count, and
//!   at least the exact count less `max_error(now)`.
//! - `max_error(now)` is at most `2 × r / capacity`, where `r` is the number of
//!   records in the bucket of `now` and in the `2 n` buckets before it.
//! - As long as at most `capacity` different keys are recorded in any `n + 1`
//!   successive buckets, `max_error` is 0. So expired keys take no room.
//! - A key becomes hot when `record` brings its count to `hot_at` or more. It
//!   stays hot until its count is less than `cool_below`, be it at a record, at
//!   a read or in between. After that it is cool until a record brings its
//!   count to `hot_at` again. A `cool_below` above `hot_at` counts as `hot_at`.
//! - So no key is hot that would not be hot by exact counts. And each key is
//!   hot whose exact count is at least `hot_at + max_error(now)`.
//! - `record` returns the same as `is_hot` would directly after it. `hot`
//!   returns exactly the keys for which `is_hot` returns true, each once, with
//!   its count, the highest count first. The order of equal counts is free.
//! - `is_hot`, `hot` and `max_error` change nothing, whatever their `now` is.
//! - At most `capacity` keys have a count, and at most `2 × capacity` clones of
//!   keys are stored, however many keys are recorded.
//! - The time of `record` does not depend on the number of records. On average
//!   over many records in one bucket, it does not depend on `capacity` either.
//!   The time of `is_hot` depends on neither. All times may depend on the
//!   number of buckets.
//!
//! Help: `week05::window::Window` counts values in a window, with
//! `Window::new(config, now)`, `add(now, value)` and `summary(now).sum`. Can it
//! add up what you have subtracted? Note that a `now` before the latest bucket
//! that was *added to* counts as that bucket, and your sketch needs the latest
//! *record*. `slice::select_nth_unstable` finds a median. `bucket`, at the end
//! of this file, is given.

use std::hash::Hash;
use std::marker::PhantomData;
use std::num::NonZero;
use std::time::{Duration, Instant};

use week05::window;

/// Finds the keys that are recorded most, in the memory of `capacity` keys.
#[derive(Debug)]
pub struct HotKeys<K> {
    // What is stored for a key, so that old records expire without a timer?
    _keys: PhantomData<K>,
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

impl<K: Clone + Eq + Hash> HotKeys<K> {
    /// Creates a sketch without keys. Bucket 0 begins at `now`.
    pub fn new(_config: Config, _now: Instant) -> Self {
        todo!("what do you need before the first key?")
    }

    /// Counts a record of `key`, and returns whether the key is hot now.
    pub fn record(&mut self, _key: &K, _now: Instant) -> bool {
        todo!("is there a free counter, and if not, what does each key lose?")
    }

    /// Returns whether `key` is hot.
    pub fn is_hot(&self, _key: &K, _now: Instant) -> bool {
        todo!("has the key cooled since its latest record?")
    }

    /// Returns the hot keys with their counts, the highest count first.
    pub fn hot(&self, _now: Instant) -> Vec<(K, u64)> {
        todo!("which keys are hot, and how often was each recorded?")
    }

    /// Returns how much lower than its exact count a count can be.
    pub fn max_error(&self, _now: Instant) -> u64 {
        todo!("how much was subtracted, and when does that expire?")
    }
}

/// Returns the bucket at the time `elapsed` after the beginning of bucket 0.
#[allow(dead_code, reason = "you will use it")]
fn bucket(elapsed: Duration, width: Duration) -> u64 {
    // A `u64` holds the nanoseconds of 584 years.
    let nanos = |d: Duration| d.as_nanos().try_into().unwrap_or(u64::MAX);
    nanos(elapsed) / nanos(width).max(1)
}
