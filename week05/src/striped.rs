//! Striped counter: a sliding window in which threads share no cache line.
//!
//! *Question.* Every request on every core adds to the same sliding window. A
//! lock makes the cores wait for each other, and so does a single atomic
//! counter: only one core at a time can write to a cache line. How do threads
//! count together and still write to different lines?
//!
//! *Idea.* Split the counter into **stripes**, as Java's `LongAdder` does. Each
//! is a ring of slots as in [`window`](crate::window), padded to whole cache
//! lines. An `add` changes one stripe, and a `sum` reads all. A slot is one
//! atomic word: the count, and the number of the **turn** of the ring in which
//! the slot was last used. Together with the place of the slot, the turn gives
//! the bucket. So a single compare-and-swap replaces an expired bucket and counts.
//!
//! *Guarantee.* With `n` buckets of width `w`, an `add` is counted for at least
//! `n × w`, and for less than `(n + 1) × w`, once, and in the bucket of its own
//! time. This also holds if threads replace the same bucket at once, or pass
//! times that are out of order: no slot ever gets an earlier bucket.
//!
//! *Cost.* A `sum` loads `n + 1` words of each stripe, many of them from caches of
//! other cores, and it is no snapshot: it may count an `add` without an earlier
//! one of another thread. An `add` with a time far in the future blocks its slot
//! until then. A word has 32 bits for the turn. With a window of a second, they
//! last for 136 years, but with one of a millisecond for 49 days; after that,
//! nothing is counted. A bucket of a stripe counts up to `u32::MAX`. There is
//! neither a minimum nor a maximum.
//!
//! ```
//! use std::num::NonZero;
//! use std::thread;
//! use std::time::{Duration, Instant};
//! use week05::striped::{Config, Counter};
//!
//! let second = Duration::from_secs(1);
//! let config = Config {
//!     bucket: second,
//!     buckets: NonZero::new(10).unwrap(),
//!     stripes: NonZero::new(4).unwrap(),
//! };
//! let start = Instant::now();
//! let counter = Counter::new(config, start);
//! thread::scope(|scope| {
//!     for worker in 0..4 {
//!         let counter = &counter;
//!         scope.spawn(move || counter.add(worker, start, 5));
//!     }
//! });
//! assert_eq!(counter.sum(start + 10 * second), 20);
//! assert_eq!(counter.sum(start + 11 * second), 0); // expired
//! ```

use std::array;
use std::cmp::Ordering::{Equal, Greater, Less};
use std::num::NonZero;
use std::ptr;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::model_checked::loom_atomics::{AtomicU64, Ordering::Relaxed};

/// Counts what was added in the last `buckets × bucket`. Shared by reference.
#[derive(Debug)]
pub struct Counter {
    /// The beginning of bucket 0.
    epoch: Instant,
    /// The width of a bucket, in nanoseconds.
    width: u64,
    /// The number of slots of a stripe. Bucket `b` is in slot `b % slots`.
    slots: u64,
    stripes: Box<[Stripe]>,
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

/// A ring of slots. It is tempting to write `CachePadded<Box<[AtomicU64]>>`, but
/// that pads the pointer: the slots of two stripes may still share a line.
type Stripe = Box<[CachePadded<Line>]>;
type Line = [AtomicU64; WORDS];
const WORDS: usize = size_of::<CachePadded<u8>>() / size_of::<u64>();

/// The value of a slot. The counts of a new slot are those of turn 0: none.
#[derive(Debug, Clone, Copy)]
struct Slot {
    turn: u32,
    count: u32,
}

impl Counter {
    /// Creates a counter of zero. Bucket 0 begins at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        // A window that ends within a bucket touches one bucket more.
        let slots = config.buckets.get() + 1;
        let line = |_| CachePadded::new(array::from_fn(|_| AtomicU64::new(0)));
        let stripe = |_| (0..slots.div_ceil(WORDS)).map(line).collect();
        Self {
            epoch: now,
            width: nanos(config.bucket).max(1),
            slots: slots as u64,
            stripes: (0..config.stripes.get()).map(stripe).collect(),
        }
    }

    /// Adds `count` to the bucket of `now`, or drops it if this bucket has
    /// expired and a later one is in its slot.
    ///
    /// `stripe` is taken modulo the number of stripes. Any number is correct;
    /// threads that pass different ones do not wait for each other.
    pub fn add(&self, stripe: usize, now: Instant, count: u32) {
        let bucket = self.bucket_at(now);
        let Ok(turn) = u32::try_from(bucket / self.slots) else {
            return; // As turn 0 again, it would revive the counts of turn 0.
        };
        // Relaxed: a word is all that there is to know about its slot, and it
        // publishes no other memory. The compare-and-swap acts on the latest
        // value. The update fails if the slot has a later bucket: then the
        // bucket of `now` has expired.
        let word = self.word(stripe, bucket);
        _ = word.try_update(Relaxed, Relaxed, |bits| {
            Slot::unpack(bits).add(turn, count).map(Slot::pack)
        });
    }

    /// Returns what was added to the bucket of `now` and the `buckets` before it.
    pub fn sum(&self, now: Instant) -> u64 {
        let current = self.bucket_at(now);
        let window = current.saturating_sub(self.slots - 1)..=current;
        let count = |(word, index): (&AtomicU64, u64)| {
            let slot = Slot::unpack(word.load(Relaxed));
            let bucket = u64::from(slot.turn) * self.slots + index;
            if window.contains(&bucket) { u64::from(slot.count) } else { 0 }
        };
        let words = |stripe: &Stripe| -> u64 {
            stripe.iter().flat_map(|line| line.iter()).zip(0..).map(count).sum()
        };
        self.stripes.iter().map(words).sum()
    }

    /// Returns the address of the word that [`add`](Self::add) changes, to check
    /// which words share a cache line.
    pub fn address(&self, stripe: usize, now: Instant) -> usize {
        ptr::from_ref(self.word(stripe, self.bucket_at(now))).addr()
    }

    fn word(&self, stripe: usize, bucket: u64) -> &AtomicU64 {
        let index = (bucket % self.slots) as usize;
        let stripe = &self.stripes[stripe % self.stripes.len()];
        &stripe[index / WORDS][index % WORDS]
    }

    fn bucket_at(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch)) / self.width
    }
}

impl Slot {
    fn unpack(bits: u64) -> Self {
        Self { turn: (bits >> 32) as u32, count: bits as u32 }
    }

    fn pack(self) -> u64 {
        u64::from(self.turn) << 32 | u64::from(self.count)
    }

    /// Returns the slot after an `add`, or `None` if `turn` has expired.
    fn add(self, turn: u32, count: u32) -> Option<Self> {
        match self.turn.cmp(&turn) {
            Less => Some(Self { turn, count }),
            // Not `+`: an overflow would become the next turn.
            Equal => {
                Some(Self { turn, count: self.count.saturating_add(count) })
            }
            Greater => None,
        }
    }
}

/// Returns the nanoseconds of `duration`, which are 584 years at most.
fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}
