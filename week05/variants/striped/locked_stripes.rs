//! Variant: a mutex for each stripe, and no packed words.
//!
//! A thread that has a stripe of its own finds its lock free, so `add` costs two
//! atomic operations and no wait. The turn and the count are plain numbers that
//! change under the lock. But a `sum` stops the thread of each stripe for a
//! moment, and a thread that the system suspends in `add` delays every `sum`.

use std::num::NonZero;
use std::ptr;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::model_checked::loom_atomics::Mutex;

/// Counts what was added in the last `buckets × bucket`. Shared by reference.
#[derive(Debug)]
pub struct Counter {
    epoch: Instant,
    config: Config,
    /// The locks are padded as well as the slots: each `add` writes to both.
    stripes: Vec<CachePadded<Mutex<Ring>>>,
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

type Ring = Vec<CachePadded<[Slot; SLOTS]>>;
const SLOTS: usize = size_of::<CachePadded<u8>>() / size_of::<Slot>();

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(8))]
struct Slot {
    turn: u32,
    count: u32,
}

impl Counter {
    /// Creates a counter of zero. Bucket 0 begins at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        let lines = (config.buckets.get() + 1).div_ceil(SLOTS);
        let ring = || vec![CachePadded::new([Slot::default(); SLOTS]); lines];
        let stripes = (0..config.stripes.get())
            .map(|_| CachePadded::new(Mutex::new(ring())))
            .collect();
        Self { epoch: now, config, stripes }
    }

    /// Adds `count` to the bucket of `now`, or drops it if this bucket has
    /// expired and a later one is in its slot.
    ///
    /// `stripe` is taken modulo the number of stripes. Any number is correct;
    /// threads that pass different ones do not wait for each other.
    pub fn add(&self, stripe: usize, now: Instant, count: u32) {
        let (turn, index) = self.place(self.bucket_at(now));
        let Ok(turn) = u32::try_from(turn) else { return };
        self.with_ring(stripe, |ring| {
            let slot = &mut ring[index / SLOTS][index % SLOTS];
            if slot.turn < turn {
                *slot = Slot { turn, count };
            } else if slot.turn == turn {
                slot.count = slot.count.saturating_add(count);
            }
        });
    }

    /// Returns what was added to the bucket of `now` and the `buckets` before it.
    pub fn sum(&self, now: Instant) -> u64 {
        let current = self.bucket_at(now);
        let oldest = current.saturating_sub(self.config.buckets.get() as u128);
        let sum = |ring: &mut Ring| {
            let counts = (oldest..=current).map(|bucket| {
                let (turn, index) = self.place(bucket);
                let slot = ring[index / SLOTS][index % SLOTS];
                let counts = u128::from(slot.turn) == turn;
                if counts { slot.count.into() } else { 0 }
            });
            counts.sum::<u64>()
        };
        (0..self.stripes.len()).map(|i| self.with_ring(i, sum)).sum()
    }

    /// Returns the address of the word that [`add`](Self::add) changes, to check
    /// which words share a cache line.
    pub fn address(&self, stripe: usize, now: Instant) -> usize {
        let (_, index) = self.place(self.bucket_at(now));
        self.with_ring(stripe, |ring| {
            ptr::from_ref(&ring[index / SLOTS][index % SLOTS]).addr()
        })
    }

    /// Returns the turn of the ring and the index of the slot.
    fn place(&self, bucket: u128) -> (u128, usize) {
        let slots = self.config.buckets.get() as u128 + 1;
        (bucket / slots, (bucket % slots) as usize)
    }

    fn bucket_at(&self, now: Instant) -> u128 {
        let elapsed = now.saturating_duration_since(self.epoch);
        elapsed.as_nanos() / self.config.bucket.as_nanos().max(1)
    }

    fn with_ring<T>(&self, stripe: usize, f: impl FnOnce(&mut Ring) -> T) -> T {
        let stripe = &self.stripes[stripe % self.stripes.len()];
        f(&mut stripe.lock().expect("no code panics with the lock held"))
    }
}
