//! Retry: exponential backoff with full jitter, a retry budget, and one layer
//! that retries.
//!
//! *Question.* An attempt fails, and a second one may succeed. How does a
//! client retry without multiplying the load of a backend that is overloaded,
//! and without executing a request twice?
//!
//! *Idea.* A retry needs five permissions. The **failure** must be one that a
//! repetition cures, and the request must be **idempotent** or certainly not
//! executed. **Attempts** and **deadline** bound the retries of a request. A
//! **retry budget** bounds those of all requests: a share of the requests in a
//! sliding window. A retry counts there from its grant, and while it waits.
//! Clients that failed together come back apart, as the delay is a random part
//! of an **exponential backoff** (full jitter). A layer that gives up marks the
//! failure, so that no layer above it retries.
//!
//! *Guarantee.* When a retry is granted, the retries that wait and those that
//! were sent in the window are at most `percent` of its requests, or
//! `min_retries` if that is more. A retry that is dropped before it was sent
//! gives its share back. Any number of layers over a backend that refuses all
//! calls sends it `max_attempts` calls for a request, and not a power of that.
//!
//! *Cost.* If more requests fail than the budget allows, the rest fail at once.
//! Retries that wait long take the shares of retries that need not wait. The
//! budget knows one client: a thousand new clients have `min_retries` each.
//! Every layer between must pass the mark on.
//!
//! ```
//! use std::{num::NonZero, sync::Arc, time::{Duration, Instant}};
//! use week05::retry::{Backoff, Budget, Failure, GiveUp, Limits, Policy, Request};
//! use week05::window;
//!
//! let (ms, now) = (Duration::from_millis(1), Instant::now());
//! let buckets = NonZero::new(10).unwrap();
//! let window = window::Config { bucket: 1_000 * ms, buckets };
//! let limits = Limits { percent: 10, min_retries: 1, window };
//! let policy = Policy {
//!     max_attempts: 3,
//!     backoff: Backoff { base: 100 * ms, cap: 2_000 * ms },
//!     budget: Arc::new(Budget::new(limits, now)),
//! };
//! let request = Request { idempotent: false, deadline: None };
//! let refused = Failure::Overloaded { retry_after: 500 * ms };
//!
//! policy.budget.deposit(now);
//! let (delay, retry) = policy.next(request, 1, refused, now, 0.5).unwrap();
//! assert_eq!(delay, 550 * ms);
//! retry.send(now + delay);
//! let second = policy.next(request, 1, refused, now, 0.5);
//! assert!(matches!(second, Err(GiveUp::Budget)));
//! ```

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
    state: Mutex<State>,
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
    sent: Option<Instant>,
}

#[derive(Debug)]
struct State {
    /// A 0 for each request, and a 1 for each sent retry.
    window: Window,
    /// The number of retries that were granted and not sent. A window would
    /// forget a retry that waits for longer than the window.
    waiting: u64,
}

impl Backoff {
    /// Returns the delay before a retry: `rand × min(cap, base × 2^retry)`.
    ///
    /// `retry` is 0 for the first retry. `rand` is random in `0.0..1.0`.
    pub fn delay(&self, retry: u32, rand: f64) -> Duration {
        // 2^100 ns are more than `Duration::MAX`. Larger powers would become
        // infinite, and infinity × 0 is NaN.
        let factor = 2_f64.powi(retry.min(100) as i32);
        let limit = self.base.as_secs_f64() * factor;
        let limit = limit.min(self.cap.as_secs_f64());
        Duration::try_from_secs_f64(rand * limit).unwrap_or(Duration::MAX)
    }
}

impl Budget {
    /// Creates a budget that has seen no request.
    pub fn new(limits: Limits, now: Instant) -> Self {
        let window = Window::new(limits.window, now);
        Self { limits, state: Mutex::new(State { window, waiting: 0 }) }
    }

    /// Counts a request: its first attempt, however it ends.
    pub fn deposit(&self, now: Instant) {
        self.lock().window.add(now, 0);
    }

    /// Grants a retry, which counts from now on. Returns `None` if the retries
    /// that wait or were sent are all that the requests allow.
    pub fn withdraw(self: &Arc<Self>, now: Instant) -> Option<Retry> {
        let mut state = self.lock();
        let counted = state.window.summary(now);
        let requests = u128::from(counted.count - counted.sum);
        // Whole numbers: as `f64`, 29 % of 100 is less than 29.
        let share = requests * u128::from(self.limits.percent) / 100;
        let allowed = share.max(self.limits.min_retries.into());
        if u128::from(state.waiting + counted.sum) >= allowed {
            return None;
        }
        state.waiting += 1;
        Some(Retry { budget: self.clone(), sent: None })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics with the lock held")
    }
}

impl Retry {
    /// Counts the retry as sent. Call it directly before the attempt.
    pub fn send(mut self, now: Instant) {
        self.sent = Some(now);
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.waiting -= 1;
        if let Some(now) = self.sent {
            state.window.add(now, 1);
        }
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
        let retry_after = match failure {
            Failure::Overloaded { retry_after } => retry_after,
            Failure::NoAnswer if request.idempotent => Duration::ZERO,
            Failure::NoAnswer => return Err(GiveUp::NotIdempotent),
            Failure::Permanent | Failure::DoNotRetry => {
                return Err(GiveUp::NotRetryable);
            }
        };
        if attempts >= self.max_attempts {
            return Err(GiveUp::Attempts);
        }
        // It is tempting to take the maximum. But then most clients that were
        // told the same time would come back at that time, together.
        let jitter = self.backoff.delay(attempts - 1, rand);
        let delay = retry_after.saturating_add(jitter);
        let left = request.deadline.map(|d| d.saturating_duration_since(now));
        if left.is_some_and(|left| left <= delay) {
            return Err(GiveUp::Deadline);
        }
        let retry = self.budget.withdraw(now).ok_or(GiveUp::Budget)?;
        Ok((delay, retry))
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
        let mut attempts = 1;
        loop {
            let failure = match call(attempts).await {
                Err(failure) => failure,
                answer => return answer,
            };
            let next = self.next(request, attempts, failure, now(), rand());
            let Ok((delay, retry)) = next else {
                return Err(failure.passed_on());
            };
            tokio::time::sleep(delay).await;
            retry.send(now());
            attempts += 1;
        }
    }
}
