//! Striped counter: a sliding window in which threads share no cache line. Your
//! turn.
//!
//! These rules are graded, and nothing else:
//!
//! - Time is cut into buckets, as in `window`: bucket 0 begins at the `now` of
//!   `new`, and each bucket has the width `Config::bucket`. A time at the border
//!   of two buckets belongs to the later one. A width of zero counts as one
//!   nanosecond. A time before the `now` of `new` is in bucket 0. Times are at
//!   most 500 years after it.
//! - `add` adds `count` to the bucket of its `now`, and to no other, also if
//!   calls with later times came before.
//! - With `n` as `Config::buckets`, `sum` at a time in bucket `i` returns what
//!   was added to the buckets `i - n` to `i`, in all stripes. Later buckets do
//!   not count.
//! - In each stripe, an `add` to bucket `b` may remove all buckets before `b -
//!   n`, which have expired. A later `add` to such a bucket may be dropped. So
//!   if the `now` of a `sum` is not before those of all adds, the sum is exact.
//!   If it is earlier, removed buckets may be missing.
//! - All this holds after gaps of any length without a call, and no call takes
//!   longer after a long gap. `sum` changes nothing.
//! - A stripe is a ring of `n + 1` slots, and `n + 1` buckets are one turn of it.
//!   Adds of the first 2^32 turns count. Later ones are dropped.
//! - The count of one bucket in one stripe is at most `u32::MAX`. If adds exceed
//!   this, it stays there until the bucket expires.
//! - `stripe` is taken modulo `Config::stripes`. It may be any number.
//! - `address` returns the address of the word of 8 bytes that `add` with the
//!   same `stripe` and `now` changes. Each of `n + 1` consecutive buckets has a
//!   word of its own. A block is a piece of memory that is as long as the
//!   alignment of `CachePadded<u8>` (128 bytes on x86-64 and aarch64), and begins
//!   at a multiple of this length. Words of different stripes are never in the
//!   same block. The words of a stripe are in as few blocks as the `n + 1` words
//!   can fill.
//! - Threads share a counter by reference. A `sum` counts each `add` that has
//!   ended before the `sum` begins. An `add` at the same time counts as a whole
//!   or not at all, also if it replaces an expired bucket.
//! - The last rung (group of tests) runs your file under loom. loom does not see
//!   the types of `std`. So import atomics or `Mutex` from
//!   `crate::model_checked::loom_atomics`.
//!
//! Help: `try_update` of an `AtomicU64` is a compare-and-swap in a loop.
//! `CachePadded<T>` is `T`, aligned to a block and filled up to whole blocks. It
//! pads a value, and not the memory behind a pointer in it.

use std::num::NonZero;
use std::time::{Duration, Instant};

/// Counts what was added in the last `buckets × bucket`. Shared by reference.
#[derive(Debug)]
pub struct Counter {
    // What does a slot contain, and which slots may lie next to each other?
}

/// The length of the window, and the number of stripes.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The width of a bucket. Zero counts as one nanosecond.
    pub bucket: Duration,
    /// The number of buckets for which an `add` is counted at least.
    pub buckets: NonZero<usize>,
    /// The number of stripes: at best, one for each thread that adds.
    pub stripes: NonZero<usize>,
}

impl Counter {
    /// Creates a counter of zero. Bucket 0 begins at `now`.
    pub fn new(_config: Config, _now: Instant) -> Self {
        todo!("how do you keep the words of two stripes apart in memory?")
    }

    /// Adds `count` to the bucket of `now`, or drops it if this bucket has
    /// expired and a later one is in its slot.
    ///
    /// `stripe` is taken modulo the number of stripes. Any number is correct;
    /// threads that pass different ones do not wait for each other.
    pub fn add(&self, _stripe: usize, _now: Instant, _count: u32) {
        todo!("how do you replace an expired bucket and count in one step?")
    }

    /// Returns what was added to the bucket of `now` and the `buckets` before it.
    pub fn sum(&self, _now: Instant) -> u64 {
        todo!("which bucket is in each slot?")
    }

    /// Returns the address of the word that [`add`](Self::add) changes, to check
    /// which words share a cache line.
    pub fn address(&self, _stripe: usize, _now: Instant) -> usize {
        todo!("which word is it? `ptr::from_ref` and `addr` give its address")
    }
}
