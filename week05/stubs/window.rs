//! Sliding-window statistics in a ring of buckets. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - Time is cut into buckets. Bucket 0 begins at the `now` of `new`. Each
//!   bucket has the width `Config::bucket` and begins where the previous one
//!   ends. A time at the border of two buckets belongs to the later one. The
//!   buckets depend on nothing else, in particular not on when values are
//!   added. Widths and times may be any number of nanoseconds, also more than
//!   2^64. A width of zero counts as one nanosecond.
//! - `add` adds a value to the bucket of `now`.
//! - With `n` as `Config::buckets`, `summary` at a time in bucket `i` returns
//!   the statistics of the values in the buckets `i - n` to `i`. So a value is
//!   counted for at least `n` widths (never too short), and for less than
//!   `n + 1` widths (at most one bucket too long).
//! - This holds if nothing was added for any number of buckets, before an `add`
//!   as well as before a `summary`. The time may jump ahead by a century with
//!   a width of one nanosecond, and no call takes longer for it.
//! - The time of a call does not depend on the number of values in the window.
//! - `summary` changes nothing: later calls return the same as without it,
//!   whatever its `now` was.
//! - `count` is the number of values, and equal values count each. `sum` is
//!   their sum, or `u64::MAX` if the sum is larger. When enough values have
//!   expired, the sum is exact again. `min` and `max` are the smallest and the
//!   largest value, or `None` if there is no value. Zero is a value.
//! - If a `now` is earlier than the latest `now` that `new` or an `add` has
//!   got, it counts as that latest time, in `add` and in `summary`. No value is
//!   lost. If an `add` has jumped ahead, later calls stay at its time until
//!   their `now` is later.
//!
//! Help: `Duration::as_nanos` returns a `u128`. There is one owner, so you need
//! no atomics and no lock.

use std::num::NonZero;
use std::time::{Duration, Instant};

/// The values of the last `buckets × bucket`, in fixed memory.
#[derive(Debug)]
pub struct Window {
    // What must be stored for each bucket, so that an idle window needs no
    // timer?
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
    pub fn new(_config: Config, _now: Instant) -> Self {
        todo!("how many buckets can the window touch at a time?")
    }

    /// Adds `value` to the bucket of `now`.
    pub fn add(&mut self, _now: Instant, _value: u64) {
        todo!("which slot is it, and what if the slot has older values?")
    }

    /// Returns the statistics of the values that are in the window at `now`.
    pub fn summary(&self, _now: Instant) -> Summary {
        todo!("which slots count at `now`, if nothing was added for a while?")
    }
}
