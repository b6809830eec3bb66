//! Variant: one window for the requests and one for the accepts, and a call
//! that ends only in its `Drop`.
//!
//! A call starts as a cancelled one. `success` and `failure` replace its
//! outcome, and then drop it, so one place counts all outcomes. The decision
//! multiplies instead of dividing.

use std::time::{Duration, Instant};

use crate::model_checked::loom_atomics::Mutex;
use crate::window::{self, Window};

/// Decides which requests to a backend are sent. Shared by reference.
#[derive(Debug)]
pub struct Breaker {
    config: Config,
    counts: Mutex<Counts>,
}

/// The settings of a [`Breaker`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The number of requests for each accept up to which all requests pass.
    /// Less than 1, or NaN, counts as 1.
    pub k: f64,
    /// With fewer requests in the window, all pass.
    pub min_requests: u64,
    /// The time for which requests and accepts are counted.
    pub window: window::Config,
    /// A request passes in any case if none has passed for so long.
    pub probe_interval: Duration,
    /// A call that is cancelled after a longer time is a failure.
    pub slow_call: Duration,
}

/// A request that has passed, and whose result is not known yet.
///
/// Dropping it is the same as [`cancel`](Self::cancel) at `Instant::now()`.
#[derive(Debug)]
#[must_use = "dropping a call cancels it"]
pub struct Call<'a> {
    breaker: &'a Breaker,
    started: Instant,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Success(Instant),
    Failure(Instant),
    /// With the time, if the caller has given one.
    Cancelled(Option<Instant>),
}

/// The request was not sent. A retry would only be one more request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request refused: the backend has failed too many requests")]
pub struct Rejected;

#[derive(Debug)]
struct Counts {
    requests: Window,
    accepts: Window,
    latest_pass: Instant,
}

impl Breaker {
    /// Creates a breaker that has seen no request.
    pub fn new(config: Config, now: Instant) -> Self {
        let counts = Mutex::new(Counts {
            requests: Window::new(config.window, now),
            accepts: Window::new(config.window, now),
            latest_pass: now,
        });
        Self { config, counts }
    }

    /// Decides whether a request is sent. `rand` is random in `0.0..1.0`.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected`] if the request is not to be sent.
    pub fn allow(&self, now: Instant, rand: f64) -> Result<Call<'_>, Rejected> {
        let Config { k, min_requests, probe_interval, .. } = self.config;
        let k = if k > 1.0 { k } else { 1.0 };
        let mut counts = self.counts.lock().unwrap();
        let requests = counts.requests.summary(now).count;
        let accepts = counts.accepts.summary(now).count as f64;
        let excess = requests as f64 - k * accepts;
        let unlucky = rand * (requests as f64 + 1.0) < excess;
        let since_pass = now.saturating_duration_since(counts.latest_pass);
        if unlucky && requests >= min_requests && since_pass < probe_interval {
            counts.requests.add(now, 1);
            return Err(Rejected);
        }
        if now > counts.latest_pass {
            counts.latest_pass = now;
        }
        let outcome = Outcome::Cancelled(None);
        Ok(Call { breaker: self, started: now, outcome })
    }
}

impl Call<'_> {
    /// The backend has served the request: counts an accept.
    pub fn success(mut self, now: Instant) {
        self.outcome = Outcome::Success(now);
    }

    /// The backend has not served the request. Which results are failures is
    /// the caller's decision: an answer "not found" is none.
    pub fn failure(mut self, now: Instant) {
        self.outcome = Outcome::Failure(now);
    }

    /// The caller no longer waits for the result: counts a failure if the call
    /// has been slow, and otherwise nothing.
    pub fn cancel(mut self, now: Instant) {
        self.outcome = Outcome::Cancelled(Some(now));
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let now = match self.outcome {
            Outcome::Success(now) | Outcome::Failure(now) => now,
            Outcome::Cancelled(now) => {
                let now = now.unwrap_or_else(Instant::now);
                let lasted = now.saturating_duration_since(self.started);
                if lasted <= self.breaker.config.slow_call {
                    return;
                }
                now
            }
        };
        let mut counts = self.breaker.counts.lock().unwrap();
        counts.requests.add(now, 1);
        if let Outcome::Success(_) = self.outcome {
            counts.accepts.add(now, 1);
        }
    }
}
