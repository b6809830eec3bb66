//! Circuit breaker: a client that refuses its own requests while the backend
//! fails (adaptive throttling).
//!
//! *Question.* A backend fails because it is overloaded, and each of its
//! clients keeps sending. How does a client send less without a coordinator,
//! keep sending as much as the backend can serve, and notice soon that the
//! backend works again?
//!
//! *Idea.* Count the **requests** that callers wanted to send in the last
//! seconds, and the **accepts**, which the backend served. As long as there are
//! at most `k` requests for each accept, all pass. Above that, refuse each with
//! the probability `(requests - k × accepts) / (requests + 1)`: this is
//! **adaptive throttling** of Google's SRE book. Refusals are requests, too. To
//! this, add a **probe**: if no request has passed for an interval, the next one
//! passes in any case.
//!
//! *Guarantee.* If there is a request in each probe interval, then at least one
//! passes in any two, however large the probability is. If the backend accepts
//! all requests, none is refused. A caller that drops its call does not count
//! against the backend, unless the call was slow.
//!
//! *Cost.* Refusal is by chance, so the backend always gets some requests that
//! fail: about `k - 1` for each one that it can serve. After the backend has
//! recovered, accepts have to outgrow refusals. This takes some windows, and
//! longer with more requests, so use a window of a few seconds. Callers share a
//! mutex while a decision reads the window. A breaker with few requests knows
//! little.
//!
//! ```
//! use std::num::NonZero;
//! use std::time::{Duration, Instant};
//! use week05::sre_breaker::{Breaker, Config};
//! use week05::window;
//!
//! let second = Duration::from_secs(1);
//! let config = Config {
//!     k: 2.0,
//!     min_requests: 20,
//!     window: window::Config {
//!         bucket: second / 4,
//!         buckets: NonZero::new(40).unwrap(),
//!     },
//!     probe_interval: second,
//!     slow_call: 2 * second,
//! };
//! let start = Instant::now();
//! let breaker = Breaker::new(config, start);
//! for _ in 0..20 {
//!     let call = breaker.allow(start, 0.99).unwrap();
//!     call.failure(start);
//! }
//! assert!(breaker.allow(start, 0.5).is_err()); // of 20, none was accepted
//! assert!(breaker.allow(start + second, 0.5).is_ok()); // a probe
//! ```

use std::time::{Duration, Instant};

use crate::model_checked::loom_atomics::Mutex;
use crate::window::{self, Window};

/// Decides which requests to a backend are sent. Shared by reference.
#[derive(Debug)]
pub struct Breaker {
    config: Config,
    /// One lock for both fields: among the callers that find a probe due, only
    /// one may send it.
    state: Mutex<State>,
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
    completed: bool,
}

/// The request was not sent. A retry would only be one more request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request refused: the backend has failed too many requests")]
pub struct Rejected;

#[derive(Debug)]
struct State {
    /// One value for each request: 1 if the backend has accepted it, else 0. So
    /// the count is the number of requests, and the sum that of accepts.
    window: Window,
    /// The latest time at which a request has passed.
    passed: Instant,
}

impl Breaker {
    /// Creates a breaker that has seen no request.
    pub fn new(config: Config, now: Instant) -> Self {
        let window = Window::new(config.window, now);
        Self { config, state: Mutex::new(State { window, passed: now }) }
    }

    /// Decides whether a request is sent. `rand` is random in `0.0..1.0`.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected`] if the request is not to be sent.
    pub fn allow(&self, now: Instant, rand: f64) -> Result<Call<'_>, Rejected> {
        self.with_state(|state| {
            let idle = now.saturating_duration_since(state.passed);
            let is_probe = idle >= self.config.probe_interval;
            if rand < self.refusal_probability(state, now) && !is_probe {
                state.window.add(now, 0);
                return Err(Rejected);
            }
            // Every request that passes postpones the probe. The times of
            // callers may be out of order.
            state.passed = state.passed.max(now);
            Ok(Call { breaker: self, started: now, completed: false })
        })
    }

    fn refusal_probability(&self, state: &State, now: Instant) -> f64 {
        let counted = state.window.summary(now);
        if counted.count < self.config.min_requests {
            return 0.0;
        }
        let (requests, accepts) = (counted.count as f64, counted.sum as f64);
        // `max` returns 1 if `k` is NaN. Without the 1 in the denominator, no
        // request would pass after a window of failures.
        let excess = requests - self.config.k.max(1.0) * accepts;
        excess.max(0.0) / (requests + 1.0)
    }

    fn with_state<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().expect("no code panics with the lock held"))
    }
}

impl Call<'_> {
    /// The backend has served the request: counts an accept.
    pub fn success(mut self, now: Instant) {
        self.complete(now, 1);
    }

    /// The backend has not served the request. Which results are failures is
    /// the caller's decision: an answer "not found" is none.
    pub fn failure(mut self, now: Instant) {
        self.complete(now, 0);
    }

    /// The caller no longer waits for the result: counts a failure if the call
    /// has been slow, and otherwise nothing.
    pub fn cancel(mut self, now: Instant) {
        self.cancel_at(now);
    }

    fn cancel_at(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.started);
        if elapsed > self.breaker.config.slow_call {
            self.complete(now, 0);
        }
        self.completed = true;
    }

    fn complete(&mut self, now: Instant, accepts: u64) {
        self.completed = true;
        self.breaker.with_state(|state| state.window.add(now, accepts));
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.completed {
            self.cancel_at(Instant::now());
        }
    }
}
