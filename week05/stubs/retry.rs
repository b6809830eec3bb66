//! Retry: exponential backoff with full jitter, a retry budget, and one layer
//! that retries. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - `Backoff::delay` returns `rand × min(cap, base × 2^retry)`, up to rounding.
//!   It does so for each `retry` and for all durations from zero to
//!   `Duration::MAX`.
//! - A *request* counts in the budget from `deposit`, at its `now`. A *retry*
//!   counts from the `withdraw` that grants it: it *waits*, even if it waits
//!   for longer than the window. From `send` on, it is *sent*, at the `now` of
//!   `send`. If it is dropped without `send`, also in a panic, it no longer
//!   counts.
//! - Requests and sent retries count as values of one `Window` of
//!   `Limits::window` that was created at the `now` of `new`. So after the
//!   window they no longer count. If a `now` is before the latest time at which
//!   a request or a sent retry has counted, that latest time stands for it.
//! - `withdraw` grants a retry if the waiting and the sent ones, with the new
//!   one, are at most `percent` % of the requests, exactly, or at most
//!   `min_retries`. If it grants none, nothing changes.
//! - These rules hold for threads that share a budget.
//! - `next` gives up for the first of these reasons that applies:
//!   1. `NotRetryable`: the failure is `Permanent` or `DoNotRetry`.
//!   2. `NotIdempotent`: the failure is `NoAnswer`, and the request is not
//!      idempotent.
//!   3. `Attempts`: `attempts` is `max_attempts` or more.
//!   4. `Deadline`: the delay would end at the deadline or later.
//!   5. `Budget`: the budget grants no retry.
//! - Otherwise `next` returns the delay and the retry. The delay is what the
//!   service asks for (`retry_after`, or nothing) plus that of the backoff,
//!   whose `retry` is 0 after the first attempt. If that is more than
//!   `Duration::MAX`, it is `Duration::MAX`. If `next` gives up, it takes
//!   nothing from the budget, not even for a moment.
//! - `run` counts one request in the budget and calls `call(1)`. It returns an
//!   `Ok`. If attempt `n` fails, it asks `next`, with a new number of `rand`.
//!   If a retry is granted, it waits for the delay (a timer of tokio may be a
//!   millisecond late), counts the retry as sent, and calls `call(n + 1)`.
//!   Otherwise it returns the failure as `passed_on`. It does not end an
//!   attempt at the deadline. The time is that of tokio's clock. `call` may use
//!   the same policy.
//! - If the future of `run` is dropped during a delay, the retry that waits no
//!   longer counts. If it is dropped during an attempt, or the attempt panics,
//!   the retry has been sent, and counts.
//! - The future of `run` is `Send` if `rand`, `call`, its futures and `T` are.
//!
//! Help: `crate::window` is an exercise before, and the answer to it if you
//! have not written one. A window counts values, and adds them up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::window;

/// Decides which failed attempts a client repeats, and when.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The number of attempts of a request, with the first one.
    pub max_attempts: u32,
    /// How long a retry waits.
    pub backoff: Backoff,
    /// Shared by all requests of this client to one backend.
    pub budget: Arc<Budget>,
}

/// Delays that grow with each retry of a request.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The limit of the delay before the first retry. It doubles with each.
    pub base: Duration,
    /// The largest limit of a delay.
    pub cap: Duration,
}

/// What decides about the retries of a request, apart from its failures.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// To execute the request twice is the same as to execute it once.
    pub idempotent: bool,
    /// No retry begins at this time or later.
    pub deadline: Option<Instant>,
}

/// Why an attempt failed, as far as a retry is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The called service refused the request, and has not executed it.
    #[error("overloaded, retry after {retry_after:?}")]
    Overloaded {
        /// The service asks for no retry before this time has passed.
        retry_after: Duration,
    },
    /// The request may have been executed: a timeout, a lost connection.
    #[error("no answer")]
    NoAnswer,
    /// A retry would fail in the same way: "invalid", "not found".
    #[error("permanent failure")]
    Permanent,
    /// A layer below has given up. Retries are its decision alone.
    #[error("failed, do not retry")]
    DoNotRetry,
}

/// Why a failed attempt is the last one of its request: a label for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// The failure is permanent, or a layer below has given up.
    NotRetryable,
    /// The request is not idempotent, and may have been executed.
    NotIdempotent,
    /// All attempts have been made.
    Attempts,
    /// The retry would not begin before the deadline.
    Deadline,
    /// The client has as many retries as its requests allow.
    Budget,
}

/// Limits the retries of a client to a share of its requests.
#[derive(Debug)]
pub struct Budget {
    // What does a window count, and what would it forget?
}

/// The settings of a [`Budget`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of retries for a hundred requests.
    pub percent: u32,
    /// So many retries are allowed even if the requests are few or none.
    pub min_retries: u64,
    /// The time for which requests and sent retries are counted.
    pub window: window::Config,
}

/// A retry that was granted and has not been sent yet.
///
/// Dropping it gives its share back to the budget.
#[derive(Debug)]
#[must_use = "dropping a retry gives its share back to the budget"]
pub struct Retry {
    budget: Arc<Budget>,
    // What must a drop know?
}

impl Backoff {
    /// Returns the delay before a retry: `rand × min(cap, base × 2^retry)`.
    ///
    /// `retry` is 0 for the first retry. `rand` is random in `0.0..1.0`.
    pub fn delay(&self, _retry: u32, _rand: f64) -> Duration {
        todo!("what is 2^retry after a hundred retries?")
    }
}

impl Budget {
    /// Creates a budget that has seen no request.
    pub fn new(_limits: Limits, _now: Instant) -> Self {
        todo!("how do you count requests and retries?")
    }

    /// Counts a request: its first attempt, however it ends.
    pub fn deposit(&self, _now: Instant) {
        todo!("which value stands for a request?")
    }

    /// Grants a retry, which counts from now on. Returns `None` if the retries
    /// that wait or were sent are all that the requests allow.
    pub fn withdraw(self: &Arc<Self>, _now: Instant) -> Option<Retry> {
        todo!("how many retries may there be, and how many are there?")
    }
}

impl Retry {
    /// Counts the retry as sent. Call it directly before the attempt.
    pub fn send(self, _now: Instant) {
        todo!("what changes, and what must the drop not do afterwards?")
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        todo!("has the retry of `{:?}` been sent?", self.budget)
    }
}

impl Failure {
    /// Returns the failure that a layer reports to the layer above it.
    ///
    /// A layer that does not retry has to call this, too.
    pub fn passed_on(self) -> Self {
        match self {
            Self::Permanent => Self::Permanent,
            Self::Overloaded { .. } | Self::NoAnswer | Self::DoNotRetry => {
                Self::DoNotRetry
            }
        }
    }
}

impl Policy {
    /// Decides whether an attempt that failed at `now` is repeated, and after
    /// which delay. `attempts` is the number of attempts so far, at least 1.
    ///
    /// # Errors
    ///
    /// Returns the reason if the failed attempt was the last one.
    pub fn next(
        &self,
        _request: Request,
        _attempts: u32,
        _failure: Failure,
        _now: Instant,
        _rand: f64,
    ) -> Result<(Duration, Retry), GiveUp> {
        todo!("which of the five permissions do you ask for last?")
    }

    /// Calls `call` with 1, and after each failure that [`next`](Self::next)
    /// allows to repeat, with the number of the attempt.
    ///
    /// It does not bound the time of an attempt: `call` does.
    ///
    /// # Errors
    ///
    /// Returns the last failure, marked for the layer above.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped during a delay, the retry gives its share back.
    /// If it is dropped during an attempt, the attempt counts.
    pub async fn run<T, F>(
        &self,
        _request: Request,
        _rand: impl FnMut() -> f64,
        _call: impl FnMut(u32) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        todo!("when is a retry sent, and what does the layer above see?")
    }
}
