//! Variant: a retry that waits is a clone of an `Arc`, so nothing has to be
//! written for its drop.
//!
//! The budget compares the count of its clones. A retry that is sent gives its
//! clone back under the lock, so it is counted at any time, and only once. The
//! delay is computed in whole nanoseconds, and the windows are two.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::window::{self, Window};

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
    limits: Limits,
    counts: Mutex<Counts>,
    /// Each retry that waits has a clone.
    token: Arc<()>,
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
    token: Arc<()>,
}

#[derive(Debug)]
struct Counts {
    requests: Window,
    sent: Window,
    latest: Instant,
}

impl Backoff {
    /// Returns the delay before a retry: `rand × min(cap, base × 2^retry)`.
    ///
    /// `retry` is 0 for the first retry. `rand` is random in `0.0..1.0`.
    pub fn delay(&self, retry: u32, rand: f64) -> Duration {
        let (base, cap) = (self.base.as_nanos(), self.cap.as_nanos());
        // All bits of `base << retry` are there if its zeros are enough.
        let fits = retry < base.leading_zeros();
        let doubled = if fits { base << retry } else { u128::MAX };
        let limit = if base == 0 { 0 } else { doubled.min(cap) };
        let second = Duration::from_secs(1).as_nanos();
        let nanos = (limit % second) as u32;
        Duration::new((limit / second) as u64, nanos).mul_f64(rand)
    }
}

impl Budget {
    /// Creates a budget that has seen no request.
    pub fn new(limits: Limits, now: Instant) -> Self {
        let new = || Window::new(limits.window, now);
        let (requests, sent) = (new(), new());
        let counts = Mutex::new(Counts { requests, sent, latest: now });
        Self { limits, counts, token: Arc::new(()) }
    }

    /// Counts a request: its first attempt, however it ends.
    pub fn deposit(&self, now: Instant) {
        let mut counts = self.lock();
        let latest = counts.advance(now);
        counts.requests.add(latest, 1);
    }

    /// Grants a retry, which counts from now on. Returns `None` if the retries
    /// that wait or were sent are all that the requests allow.
    pub fn withdraw(self: &Arc<Self>, now: Instant) -> Option<Retry> {
        // A clone is made with the lock held. It is dropped at any time, so
        // there are at most as many as seen here.
        let counts = self.lock();
        let now = now.max(counts.latest);
        let requests = u128::from(counts.requests.summary(now).sum);
        let waiting = Arc::strong_count(&self.token) as u64 - 1;
        let retries = waiting + counts.sent.summary(now).sum + 1;
        let allowed_by_requests = u128::from(retries) * 100
            <= requests * u128::from(self.limits.percent);
        if allowed_by_requests || retries <= self.limits.min_retries {
            let (budget, token) = (self.clone(), self.token.clone());
            Some(Retry { budget, token })
        } else {
            None
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap()
    }
}

impl Counts {
    fn advance(&mut self, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        self.latest
    }
}

impl Retry {
    /// Counts the retry as sent. Call it directly before the attempt.
    pub fn send(self, now: Instant) {
        let Self { budget, token } = self;
        let mut counts = budget.lock();
        let latest = counts.advance(now);
        counts.sent.add(latest, 1);
        drop(token); // with the lock held: no caller sees neither of both
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
        request: Request,
        attempts: u32,
        failure: Failure,
        now: Instant,
        rand: f64,
    ) -> Result<(Duration, Retry), GiveUp> {
        let delay = match failure {
            Failure::Permanent | Failure::DoNotRetry => None,
            Failure::NoAnswer => Some(Duration::ZERO),
            Failure::Overloaded { retry_after } => Some(retry_after),
        };
        let asked = delay.ok_or(GiveUp::NotRetryable)?;
        let maybe_executed = failure == Failure::NoAnswer;
        let jitter = self.backoff.delay(attempts.saturating_sub(1), rand);
        let delay = asked.checked_add(jitter).unwrap_or(Duration::MAX);
        let begin = now.checked_add(delay);
        let is_late = |deadline| begin.is_none_or(|begin| begin >= deadline);
        if maybe_executed && !request.idempotent {
            Err(GiveUp::NotIdempotent)
        } else if attempts >= self.max_attempts {
            Err(GiveUp::Attempts)
        } else if request.deadline.is_some_and(is_late) {
            Err(GiveUp::Deadline)
        } else if let Some(retry) = self.budget.withdraw(now) {
            Ok((delay, retry))
        } else {
            Err(GiveUp::Budget)
        }
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
        request: Request,
        mut rand: impl FnMut() -> f64,
        mut call: impl FnMut(u32) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let now = || tokio::time::Instant::now().into_std();
        self.budget.deposit(now());
        let mut result = call(1).await;
        let mut attempts = 1;
        while let Err(failure) = result {
            match self.next(request, attempts, failure, now(), rand()) {
                Err(_) => return result.map_err(Failure::passed_on),
                Ok((delay, retry)) => {
                    tokio::time::sleep(delay).await;
                    retry.send(now());
                }
            }
            attempts += 1;
            result = call(attempts).await;
        }
        result
    }
}
