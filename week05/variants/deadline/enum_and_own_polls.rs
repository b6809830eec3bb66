//! Variant: a deadline is an enum, the header is read byte by byte, and `run`
//! polls the work and the timer itself.
//!
//! With an enum, the compiler asks in each method what `Never` means. The
//! average moves by a part of the difference to the new result. `run` compares
//! the clock with the deadline after each poll, so it does not depend on how
//! tokio's timer treats a busy task.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{PoisonError, RwLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{Instant as TokioInstant, sleep_until};

/// The time until which the caller waits for the answer, if there is a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// The caller waits until this time.
    At(Instant),
    /// The caller waits without a limit.
    Never,
}

/// How long a kind of work has typically taken. Shared by reference.
#[derive(Debug)]
pub struct Latency {
    /// The part of the average that is lost in a short time, per second.
    decay: f64,
    state: RwLock<Option<State>>,
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

#[derive(Debug, Clone, Copy)]
struct State {
    seconds: f64,
    latest: Instant,
}

impl Deadline {
    /// The caller waits without a limit.
    pub const NEVER: Self = Self::Never;

    /// Returns the deadline `timeout` after `now`, or [`NEVER`](Self::NEVER) if
    /// that is later than an `Instant` can be.
    pub fn after(now: Instant, timeout: Duration) -> Self {
        now.checked_add(timeout).map_or(Self::Never, Self::At)
    }

    /// Returns the time until the deadline: zero if it has passed, and `None`
    /// if there is no limit.
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::At(at) if at <= now => Some(Duration::ZERO),
            Self::At(at) => Some(at - now),
        }
    }

    /// Returns the earlier one of two deadlines.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        match (self, other) {
            (Self::At(a), Self::At(b)) if b < a => other,
            (Self::Never, _) => other,
            _ => self,
        }
    }

    /// Returns the deadline for a call that is sent at `now`. After it, a
    /// `reserve` is left for the caller's own work.
    #[must_use]
    pub fn for_call(self, now: Instant, reserve: Duration) -> Self {
        match self {
            Self::At(at) if at > now => {
                let earlier = at.checked_sub(reserve).unwrap_or(now);
                Self::At(earlier.max(now))
            }
            _ => self,
        }
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
        let [digits @ .., unit] = value.as_bytes() else {
            return Err(InvalidTimeout);
        };
        let timeout: fn(u64) -> Duration = match unit {
            b'H' => |n| Duration::from_secs(n * 3_600),
            b'M' => |n| Duration::from_secs(n * 60),
            b'S' => Duration::from_secs,
            b'm' => Duration::from_millis,
            b'u' => Duration::from_micros,
            b'n' => Duration::from_nanos,
            _ => return Err(InvalidTimeout),
        };
        if !(1..=8).contains(&digits.len()) {
            return Err(InvalidTimeout);
        }
        let mut number = 0;
        for digit in digits {
            match digit {
                b'0'..=b'9' => number = number * 10 + u64::from(digit - b'0'),
                _ => return Err(InvalidTimeout),
            }
        }
        Ok(Self::after(now, timeout(number)))
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
        let mut number = match self.remaining(now) {
            None => return Ok(None),
            Some(Duration::ZERO) => return Err(DeadlineExceeded),
            Some(remaining) => remaining.as_nanos(),
        };
        let mut unit = 'n';
        let coarser =
            [('u', 1_000), ('m', 1_000), ('S', 1_000), ('M', 60), ('H', 60)];
        for (name, factor) in coarser {
            if number > 99_999_999 {
                (number, unit) = (number / factor, name);
            }
        }
        Ok(Some(format!("{}{unit}", number.min(99_999_999))))
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
        let Some(remaining) = self.remaining(now) else { return Ok(()) };
        if remaining.is_zero() {
            return Err(Rejected::Expired);
        }
        let typical = typical.unwrap_or_default();
        if typical > remaining {
            return Err(Rejected::NotEnoughTime { remaining, typical });
        }
        Ok(())
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
        let Self::At(at) = self else { return Ok(future.await) };
        let at = TokioInstant::from_std(at);
        let passed = || TokioInstant::now() >= at;
        if passed() {
            return Err(DeadlineExceeded);
        }
        let (mut future, mut timer) = (pin!(future), pin!(sleep_until(at)));
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            // The timer only wakes the task.
            if timer.as_mut().poll(context).is_ready() || passed() {
                return Poll::Ready(Err(DeadlineExceeded));
            }
            Poll::Pending
        })
        .await
    }
}

impl Latency {
    /// Creates an average without results. A `half_life` of zero counts as a
    /// nanosecond.
    pub fn new(half_life: Duration) -> Self {
        let half_life = half_life.max(Duration::from_nanos(1));
        let decay = std::f64::consts::LN_2 / half_life.as_secs_f64();
        Self { decay, state: RwLock::new(None) }
    }

    /// Adds the time that work has taken: it ended at `now`, or was stopped at
    /// its deadline.
    pub fn record(&self, now: Instant, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut state =
            self.state.write().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            None => *state = Some(State { seconds, latest: now }),
            Some(state) if now > state.latest => {
                let moves = -self.exponent(state, now).exp_m1();
                state.seconds += moves * (seconds - state.seconds);
                state.latest = now;
            }
            Some(_) => {}
        }
    }

    /// Returns the typical time, or `None` before the first result.
    pub fn typical(&self, now: Instant) -> Option<Duration> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let state = state.as_ref()?;
        let seconds = state.seconds * self.exponent(state, now).exp();
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }

    /// Returns the logarithm of the part that is left of the average.
    fn exponent(&self, state: &State, now: Instant) -> f64 {
        let age = now.saturating_duration_since(state.latest);
        -self.decay * age.as_secs_f64()
    }
}
