//! Deadline propagation: a time budget that travels with a request. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - A deadline has passed at `now` if its `remaining` time is zero. So it has
//!   passed at the very moment of the deadline. `NEVER` never passes. Threads
//!   may pass times that are out of order.
//! - `min` returns the earlier deadline. `NEVER` is later than every other one.
//! - `for_call` returns the deadline minus `reserve`. If at most `reserve`
//!   remains, it returns a deadline that has passed at `now`. In no case is the
//!   result later than the deadline itself. `NEVER` stays `NEVER`.
//! - `from_header` accepts 1 to 8 of the digits 0 to 9, followed by one of the
//!   units H (hour), M (minute), S (second), m (millisecond), u (microsecond)
//!   and n (nanosecond). Nothing else is valid: no sign, no blank. The result
//!   is so long after `now`. A timeout of zero is valid, and has passed at once.
//! - `to_header` returns a value that `from_header` accepts, in the finest unit
//!   in which eight digits suffice, rounded down, and without leading zeros.
//!   More than 99999999H become 99999999H. `NEVER` has no header: `Ok(None)`. A
//!   deadline that has passed is an error.
//! - `check` returns `Expired` if the deadline has passed, whether or not a
//!   typical time is known. Otherwise it returns `NotEnoughTime`, with both
//!   times, if less than the typical time remains. Otherwise work begins.
//! - `typical` is `None` until the first `record`. The average is then the time
//!   of the first result. Let `w` be 1/2 to the power of (time between two
//!   results / `half_life`). Then each result changes the average to `w × old +
//!   (1 - w) × took`. In `typical`, the average is multiplied with such a `w`,
//!   for the time since the latest result. So it halves in each half-life in
//!   which no result comes.
//! - A result whose `now` is not later than that of the latest one changes
//!   nothing. If `typical` gets such a `now`, it returns the average as it is.
//!   An error of a millionth of the longest result, plus a microsecond, is
//!   allowed.
//! - A `half_life` of zero counts as a nanosecond. `half_life` and `took` may be
//!   as large as `Duration::MAX`.
//! - Threads share a `Latency`. Their calls act as if one came after the other.
//! - `run` reads the clock of tokio. If the deadline has passed when `run` is
//!   polled for the first time, it does not poll `future`, and returns the
//!   error.
//! - Otherwise `run` polls `future` at once. It returns its output, also if
//!   `future` completes at the very moment of the deadline. At the deadline it
//!   returns the error (at most 2 ms late in paused time), even if `future`
//!   never waits. Such a future may use up tokio's cooperative budget each time
//!   it is polled.
//! - `future` has been dropped when `run` returns, and when `run` is dropped or
//!   panics. A panic of `future` is a panic of `run`. `future` may borrow, and
//!   it need not be `Send`. One task may poll `run` first, and another one
//!   later.
//!
//! Not graded: another future of the same task that never waits.

use std::time::{Duration, Instant};

/// The time until which the caller waits for the answer, if there is a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    at: Option<Instant>,
}

/// How long a kind of work has typically taken. Shared by reference.
#[derive(Debug)]
pub struct Latency {
    // What must change together?
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
    pub fn min(self, _other: Self) -> Self {
        todo!("which one is earlier if one of them is `NEVER`?")
    }

    /// Returns the deadline for a call that is sent at `now`. After it, a
    /// `reserve` is left for the caller's own work.
    #[must_use]
    pub fn for_call(self, _now: Instant, _reserve: Duration) -> Self {
        todo!("what if less than the reserve remains?")
    }

    /// Reads the `grpc-timeout` of a request that was received at `now`.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidTimeout`] if gRPC's grammar does not allow the value.
    pub fn from_header(
        _value: &str,
        _now: Instant,
    ) -> Result<Self, InvalidTimeout> {
        todo!("which of {UNITS:?} is it, and what else must be checked?")
    }

    /// Returns the `grpc-timeout` of a request that is sent at `now`, and `None`
    /// if there is no limit. It is rounded down.
    ///
    /// # Errors
    ///
    /// Returns [`DeadlineExceeded`] if there is no time left for a request.
    pub fn to_header(
        self,
        _now: Instant,
    ) -> Result<Option<String>, DeadlineExceeded> {
        todo!("which of {UNITS:?} is the first one that fits?")
    }

    /// Decides whether to begin work that takes a `typical` time, if known.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected`] if the work is not to be begun.
    pub fn check(
        self,
        _now: Instant,
        _typical: Option<Duration>,
    ) -> Result<(), Rejected> {
        todo!("which of the two refusals comes first?")
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
        _future: F,
    ) -> Result<F::Output, DeadlineExceeded> {
        todo!("who polls the future at the deadline, and who afterwards?")
    }
}

impl Latency {
    /// Creates an average without results. A `half_life` of zero counts as a
    /// nanosecond.
    pub fn new(_half_life: Duration) -> Self {
        todo!("what is known before the first result?")
    }

    /// Adds the time that work has taken: it ended at `now`, or was stopped at
    /// its deadline.
    pub fn record(&self, _now: Instant, _took: Duration) {
        todo!("how much does the old average weigh?")
    }

    /// Returns the typical time, or `None` before the first result.
    pub fn typical(&self, _now: Instant) -> Option<Duration> {
        todo!("what has changed if no result came?")
    }
}
