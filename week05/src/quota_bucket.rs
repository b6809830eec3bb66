//! Support of [`quota`](crate::quota): a token bucket whose rate changes.
//!
//! [`gcra`](crate::gcra) has one rate for ever. A new limiter for each new rate
//! would begin with a new burst, so each change would admit a request too many.
//! This bucket keeps its credit when the rate changes.

use std::time::{Duration, Instant};

/// Credit for requests, which grows with time.
#[derive(Debug)]
pub struct Bucket {
    /// In nanorequests: a rate times nanoseconds.
    credit: u128,
    filled: Instant,
}

/// The credit that one request takes.
const REQUEST: u128 = 1_000_000_000;

impl Bucket {
    /// Creates an empty bucket.
    pub fn new(now: Instant) -> Self {
        Self { credit: 0, filled: now }
    }

    /// Adds the credit of a `rate` per second, from the time up to which the
    /// bucket is filled until `until`. Does nothing if that is not later.
    ///
    /// Then the bucket has no more than the credit of `burst`, but up to one
    /// request.
    pub fn fill(&mut self, rate: u64, burst: Duration, until: Instant) {
        let elapsed = until.saturating_duration_since(self.filled);
        if elapsed.is_zero() {
            return;
        }
        let most = u128::from(rate).saturating_mul(burst.as_nanos());
        let earned = u128::from(rate).saturating_mul(elapsed.as_nanos());
        self.credit = self.credit.saturating_add(earned).min(most.max(REQUEST));
        self.filled = until;
    }

    /// Takes the credit of one request.
    ///
    /// # Errors
    ///
    /// If there is less, returns the time in which `rate` adds the rest:
    /// [`Duration::MAX`] if it adds none.
    pub fn take(&mut self, rate: u64) -> Result<(), Duration> {
        if let Some(rest) = self.credit.checked_sub(REQUEST) {
            self.credit = rest;
            return Ok(());
        }
        if rate == 0 {
            return Err(Duration::MAX);
        }
        let nanos = (REQUEST - self.credit).div_ceil(rate.into());
        Err(Duration::from_nanos(nanos as u64)) // a second at most
    }
}
