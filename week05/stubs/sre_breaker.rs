//! Circuit breaker: a client that refuses its own requests while the backend
//! fails (adaptive throttling). Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - *Requests* are the calls that ended with `success` or `failure`, the
//!   refusals of `allow`, and the slow calls that were cancelled. *Accepts* are
//!   the calls that ended with `success`.
//! - Count in one `Window`, created with `Config::window` at the `now` of
//!   `new`. Each request counts once, at the `now` of the method that ended it
//!   (for a refusal: of `allow`). After the window it no longer counts. A
//!   refusal counts after its own decision.
//! - So a call in flight counts nothing, however long it takes.
//! - The probability of a refusal is 0 if the window has fewer requests than
//!   `min_requests`. Otherwise it is `(requests - k × accepts) / (requests +
//!   1)`, or 0 if that is negative. `k` is finite or NaN. If it is less than 1
//!   or NaN, it counts as 1.
//! - `allow` refuses a request if `rand` is less than the probability and no
//!   probe is due. Otherwise the request passes.
//! - A probe is due if `now` is `probe_interval` or more after the latest of
//!   these times: the `now` of `new`, and the `now` of each `allow` that let a
//!   request pass, as a probe or by chance. Callers may pass times that are out
//!   of order. A `now` before the latest of these times counts as zero after
//!   it: a probe is due only if `probe_interval` is zero.
//! - It does not matter whether the request that passed is still in flight, or
//!   how it ended.
//! - So if each `rand` is 0, the backend fails and `min_requests` is reached,
//!   exactly one request passes in each interval, even if many come at the same
//!   time.
//! - `cancel` counts nothing if the call has lasted at most `slow_call`. If it
//!   has lasted longer, it is a failure. Success and failure do not depend on
//!   how long the call has lasted. If `now` is before the start of the call, it
//!   has lasted no time.
//! - Dropping a call without one of the three methods, also in a panic, is the
//!   same as `cancel(Instant::now())`. After one of the three methods, the drop
//!   has no effect.
//! - `probe_interval` and `slow_call` may be zero or `Duration::MAX`.
//! - All these rules hold for threads: the last rung (group of tests) runs your
//!   file under loom. loom does not see the types of `std`. So import `Mutex`
//!   or atomics from `crate::model_checked::loom_atomics`.
//!
//! Help: `crate::window` is the exercise `window`, and the answer to it if you
//! have not written one. A window counts values, and adds them up.

use std::time::{Duration, Instant};

use crate::window;

/// Decides which requests to a backend are sent. Shared by reference.
#[derive(Debug)]
pub struct Breaker {
    // Which parts of the state must change together?
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
    // What must a drop know?
}

/// The request was not sent. A retry would only be one more request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request refused: the backend has failed too many requests")]
pub struct Rejected;

impl Breaker {
    /// Creates a breaker that has seen no request.
    pub fn new(_config: Config, _now: Instant) -> Self {
        todo!("how do you count requests and accepts?")
    }

    /// Decides whether a request is sent. `rand` is random in `0.0..1.0`.
    ///
    /// # Errors
    ///
    /// Returns [`Rejected`] if the request is not to be sent.
    pub fn allow(
        &self,
        _now: Instant,
        _rand: f64,
    ) -> Result<Call<'_>, Rejected> {
        todo!("what does a refusal change, and what does a pass change?")
    }
}

impl Call<'_> {
    /// The backend has served the request: counts an accept.
    pub fn success(self, _now: Instant) {
        todo!("what counts, and what must the drop not do afterwards?")
    }

    /// The backend has not served the request. Which results are failures is
    /// the caller's decision: an answer "not found" is none.
    pub fn failure(self, _now: Instant) {
        todo!("what counts?")
    }

    /// The caller no longer waits for the result: counts a failure if the call
    /// has been slow, and otherwise nothing.
    pub fn cancel(self, _now: Instant) {
        todo!(
            "is it the backend's fault that the caller has gone? (For the \
             first rung, it is enough to do nothing.)"
        )
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        todo!(
            "has this call of `{:?}` been completed? (For the first rung, it \
             is enough to do nothing.)",
            self.breaker
        )
    }
}
