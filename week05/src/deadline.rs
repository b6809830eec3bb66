//! Deadline propagation: a time budget that travels with a request.
//!
//! *Question.* A user waits two seconds, and the request passes through four
//! services. How does each service know how long the caller still waits, and
//! how does it avoid work that cannot be finished in this time?
//!
//! *Idea.* A request carries a **timeout** (gRPC's `grpc-timeout`), because the
//! clocks of servers differ. A process turns it into a **deadline**, because
//! the time passes also in a queue. Each service takes the earlier of its own
//! deadline and the client's, subtracts a reserve for its own work, and sends
//! the remaining time with its calls. It begins no work that **typically** takes
//! longer, by an exponentially weighted moving average.
//!
//! *Guarantee.* From one service to the next, a deadline never gets later, with
//! any rounding, reserve or limit. After the deadline, work is dropped. If all
//! work is refused, there are no results, and the average halves in each
//! half-life. So work that was slow is tried again.
//!
//! *Cost.* The time on the network is not subtracted. A result weighs as much as
//! the time since the result before, so of two results at the same time, only
//! the first counts. The average of rare work is low, so it begins in vain.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use week05::deadline::{Deadline, Latency};
//!
//! let (now, ms) = (Instant::now(), Duration::from_millis);
//! let client = Deadline::from_header("250m", now).unwrap();
//! let deadline = client.min(Deadline::after(now, ms(1_000)));
//!
//! let later = now + ms(100); // in a queue
//! let call = deadline.for_call(later, ms(20));
//! assert_eq!(call.to_header(later), Ok(Some("130000u".to_owned())));
//!
//! let latency = Latency::new(ms(10_000));
//! latency.record(later, ms(200));
//! assert!(call.check(later, latency.typical(later)).is_err());
//! ```

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time::{Instant as TokioInstant, timeout_at};

/// The time until which the caller waits for the answer, if there is a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Option<Instant>,
}

/// How long a kind of work has typically taken. Shared by reference.
#[derive(Debug)]
pub struct Latency {
    half_life: Duration,
    /// In seconds, and the time of the latest result. A `Duration` would be
    /// rounded in each step.
    average: Mutex<Option<(f64, Instant)>>,
}

/// The text is not the value of a `grpc-timeout` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a timeout is 1 to 8 digits and a unit (H, M, S, m, u or n)")]
pub struct InvalidTimeout;

/// The caller no longer waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deadline has passed")]
pub struct DeadlineExceeded;

/// The work was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The caller no longer waits.
    #[error("the deadline had passed before the work began")]
    Expired,
    /// The caller waits, but not long enough. A cheaper answer may be possible.
    #[error("{remaining:?} remain, and the work typically takes {typical:?}")]
    NotEnoughTime {
        /// The time until the deadline.
        remaining: Duration,
        /// The time that the work typically takes.
        typical: Duration,
    },
}

/// The units of a `grpc-timeout`, the finest one first.
const UNITS: [(char, Duration); 6] = [
    ('n', Duration::from_nanos(1)),
    ('u', Duration::from_micros(1)),
    ('m', Duration::from_millis(1)),
    ('S', Duration::from_secs(1)),
    ('M', Duration::from_secs(60)),
    ('H', Duration::from_secs(3_600)),
];

impl Deadline {
    /// The caller waits without a limit.
    pub const NEVER: Self = Self { at: None };

    /// Returns the deadline `timeout` after `now`, or [`NEVER`](Self::NEVER) if
    /// that is later than an `Instant` can be.
    pub fn after(now: Instant, timeout: Duration) -> Self {
        Self { at: now.checked_add(timeout) }
    }

    /// Returns the time until the deadline: zero if it has passed, and `None`
    /// if there is no limit.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(now))
    }

    /// Returns the earlier one of two deadlines.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        match (self.at, other.at) {
            (Some(a), Some(b)) => Self { at: Some(a.min(b)) },
            // The `min` of `Option` would return `None`: no limit.
            (a, b) => Self { at: a.or(b) },
        }
    }

    /// Returns the deadline for a call that is sent at `now`. After it, a
    /// `reserve` is left for the caller's own work.
    #[must_use]
    pub fn for_call(self, now: Instant, reserve: Duration) -> Self {
        let Some(remaining) = self.remaining(now) else { return self };
        let timeout = remaining.saturating_sub(reserve);
        // A deadline that has passed is earlier than `now`.
        Self::after(now, timeout).min(self)
    }

    /// Reads the `grpc-timeout` of a request that was received at `now`.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidTimeout`] if gRPC's grammar does not allow the value.
    pub fn from_header(
        value: &str,
        now: Instant,
    ) -> Result<Self, InvalidTimeout> {
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((value.strip_suffix(*name)?, *unit)))
            .ok_or(InvalidTimeout)?;
        // `parse` would accept a sign. Eight digits cannot overflow.
        if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(InvalidTimeout);
        }
        let number: u32 = digits.parse().map_err(|_| InvalidTimeout)?;
        Ok(Self::after(now, unit * number))
    }

    /// Returns the `grpc-timeout` of a request that is sent at `now`, and `None`
    /// if there is no limit. It is rounded down.
    ///
    /// # Errors
    ///
    /// Returns [`DeadlineExceeded`] if there is no time left for a request.
    pub fn to_header(
        self,
        now: Instant,
    ) -> Result<Option<String>, DeadlineExceeded> {
        let Some(remaining) = self.remaining(now) else { return Ok(None) };
        if remaining.is_zero() {
            return Err(DeadlineExceeded);
        }
        let value = UNITS.iter().find_map(|(name, unit)| {
            let number = remaining.as_nanos() / unit.as_nanos();
            (number <= 99_999_999).then(|| format!("{number}{name}"))
        });
        Ok(value.or_else(|| Some("99999999H".to_owned())))
    }

    /// Decides whether to begin work that takes a `typical` time, if known.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected`] if the work is not to be begun.
    pub fn check(
        self,
        now: Instant,
        typical: Option<Duration>,
    ) -> Result<(), Rejected> {
        match (self.remaining(now), typical) {
            (Some(Duration::ZERO), _) => Err(Rejected::Expired),
            (Some(remaining), Some(typical)) if remaining < typical => {
                Err(Rejected::NotEnoughTime { remaining, typical })
            }
            _ => Ok(()),
        }
    }

    /// Waits for `future` until the deadline, by tokio's clock, and drops it.
    ///
    /// # Errors
    ///
    /// Returns [`DeadlineExceeded`] if the deadline passed first. If it had
    /// passed before the call, `future` was not polled.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call drops `future`.
    pub async fn run<F: Future>(
        self,
        future: F,
    ) -> Result<F::Output, DeadlineExceeded> {
        let Some(at) = self.at else { return Ok(future.await) };
        let at = TokioInstant::from_std(at);
        // `timeout_at` would poll the future once.
        if at <= TokioInstant::now() {
            return Err(DeadlineExceeded);
        }
        timeout_at(at, future).await.map_err(|_elapsed| DeadlineExceeded)
    }
}

impl Latency {
    /// Creates an average without results. A `half_life` of zero counts as a
    /// nanosecond.
    pub fn new(half_life: Duration) -> Self {
        let half_life = half_life.max(Duration::from_nanos(1));
        Self { half_life, average: Mutex::new(None) }
    }

    /// Adds the time that work has taken: it ended at `now`, or was stopped at
    /// its deadline.
    pub fn record(&self, now: Instant, took: Duration) {
        let mut average = self.lock();
        let took = took.as_secs_f64();
        let (old, at) = average.unwrap_or((took, now));
        let weight = self.weight(at, now);
        *average = Some((weight * old + (1.0 - weight) * took, at.max(now)));
    }

    /// Returns the typical time, or `None` before the first result.
    pub fn typical(&self, now: Instant) -> Option<Duration> {
        let (average, at) = (*self.lock())?;
        // Without the weight, work that is refused because it was slow would
        // have no new result, and be refused for ever.
        let seconds = average * self.weight(at, now);
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// Returns 1 at the time of the latest result, and 1/2 a half-life later.
    fn weight(&self, latest: Instant, now: Instant) -> f64 {
        let age = now.saturating_duration_since(latest);
        0.5_f64.powf(age.div_duration_f64(self.half_life))
    }

    fn lock(&self) -> MutexGuard<'_, Option<(f64, Instant)>> {
        self.average.lock().expect("no code panics with the lock held")
    }
}
