//! Gutter: a small spare pool takes the requests that the breaker of the main
//! cluster refuses. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - A router has two breakers (`sre_breaker::Breaker`), one of the main cluster
//!   and one of the gutter, and `gutter_capacity` permits. `route` asks them in
//!   this order, and asks no more than it needs:
//!
//!   | main breaker | permit | gutter breaker | result of `route`      |
//!   |--------------|--------|----------------|------------------------|
//!   | allows       |        |                | `Main`, no permit      |
//!   | refuses      | none   |                | `Err(Refused)`         |
//!   | refuses      | taken  | allows         | `Gutter`, with permit  |
//!   | refuses      | taken  | refuses        | `Main`, with permit    |
//!
//! - The first element of `rands` is for the main breaker, and the second one
//!   for the gutter breaker. In the last row, both have refused the request, and
//!   it goes to the main cluster nevertheless. For this, `allow` of the main
//!   breaker is called a second time, with the largest `f64` below 1: with it,
//!   `allow` always returns a call.
//! - A call counts in the breaker of its destination and in no other, as the
//!   methods of `sre_breaker::Call` say. A breaker that refuses counts a refusal,
//!   as `allow` does. A breaker that is not asked counts nothing, and its next
//!   probe is due at the same time as before. So if the gutter is full, its
//!   breaker does not change.
//! - `fail_over` is for a call that has failed. It first counts a failure, and
//!   the call ends. Then it returns `None` if `safety` is `Unsafe`, or if the call
//!   had a permit. Otherwise it takes a permit, and asks the gutter breaker with
//!   `rand`: if both succeed, it returns a call to the gutter, with the permit.
//!   Otherwise it returns `None`. So no request is sent more than twice.
//! - At no time are more than `gutter_capacity` permits taken. A permit that is
//!   free can be taken. A call gives its permit back when it ends: by `success`,
//!   `failure`, `cancel` or `fail_over`, or when it is dropped, also in a panic.
//!   If `fail_over` returns `None`, no permit stays taken. This holds for threads,
//!   and a call may end on another thread. `gutter_capacity` may be `u32::MAX`.
//! - Dropping a call without one of these methods is the same as
//!   `cancel(Instant::now())`.
//! - `ttl` returns the rest of `max_staleness`, counted from `read_at`, or `None`
//!   if nothing is left. If `now` is before `read_at`, the age of the entry is
//!   zero. `max_staleness` may be zero or `Duration::MAX`.
//! - A simulation checks what follows from these rules, with ten times the load
//!   that the gutter can serve. While the main cluster fails, it gets probes, the
//!   gutter is full, and neither number jumps up and down. If the gutter breaks,
//!   the excess goes to the main cluster, and comes back after the gutter has
//!   recovered. If the main cluster recovers, it gets all requests again.
//! - The last rung (group of tests) runs your file under loom, which does not see
//!   the types of `std`. So import `Mutex` or atomics from
//!   `crate::model_checked::loom_atomics`.
//!
//! Help: `crate::sre_breaker` is an exercise before, and the answer to it if you
//! have not written one. If a struct has no `Drop`, its fields are still dropped.

use std::num::NonZero;
use std::time::{Duration, Instant};

use crate::sre_breaker::{self, Breaker};

/// Decides where each request is sent. Shared by reference.
#[derive(Debug)]
pub struct Router {
    main: Breaker,
    gutter: Breaker,
    max_staleness: Duration,
    // How do threads share the permits?
}

/// The settings of a [`Router`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The breaker of the main cluster. Its refusals are the excess.
    pub main: sre_breaker::Config,
    /// The breaker of the gutter.
    pub gutter: sre_breaker::Config,
    /// The number of requests that the gutter can serve at a time.
    pub gutter_capacity: NonZero<u32>,
    /// The largest age of an entry in the gutter.
    pub max_staleness: Duration,
}

/// A request that is to be sent, and whose result is not known yet.
///
/// Dropping it is the same as [`cancel`](Self::cancel) at `Instant::now()`.
#[derive(Debug)]
#[must_use = "dropping a call cancels it"]
pub struct Call<'a> {
    router: &'a Router,
    call: sre_breaker::Call<'a>,
    // What else do `destination`, `fail_over` and the drop need?
}

/// The cluster that a request is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The main cluster.
    Main,
    /// The spare pool.
    Gutter,
}

/// Whether a request may be sent again after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safety {
    /// To execute the request twice has the effect of once. Examples are a read,
    /// and a write with an idempotency key.
    Idempotent,
    /// The cluster has not executed the request. An example is a connection that
    /// was refused.
    NotExecuted,
    /// The cluster may have executed the request. A timeout is an example.
    Unsafe,
}

/// The request was not sent: the main cluster fails, and the gutter is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request refused: the main cluster fails, and the gutter is full")]
pub struct Refused;

impl Router {
    /// Creates a router that has seen no request.
    pub fn new(_config: Config, _now: Instant) -> Self {
        todo!("which parts of the router change, and who changes them?")
    }

    /// Decides where a request is sent. `rands` are two independent random
    /// numbers in `0.0..1.0`, for the breakers of the main cluster and of the
    /// gutter.
    ///
    /// # Errors
    ///
    /// Returns [`Refused`] if the request is not to be sent.
    pub fn route(
        &self,
        _now: Instant,
        _rands: [f64; 2],
    ) -> Result<Call<'_>, Refused> {
        todo!("ask {:?}, then {:?}: what lies between?", self.main, self.gutter)
    }

    /// Returns how long the gutter may keep an entry that is stored at `now`.
    /// Returns `None` if the entry is too old to be stored.
    ///
    /// `read_at` is the time just before the query was sent to the database.
    pub fn ttl(&self, _read_at: Instant, _now: Instant) -> Option<Duration> {
        todo!("how much of {:?} is left?", self.max_staleness)
    }
}

impl<'a> Call<'a> {
    /// Returns the cluster that the request is to be sent to.
    pub fn destination(&self) -> Destination {
        todo!("where did {:?} send the request?", self.router)
    }

    /// The cluster has served the request. A miss is a success.
    pub fn success(self, _now: Instant) {
        todo!("which breaker counts {:?}, and where is the permit?", self.call)
    }

    /// The cluster has not served the request.
    pub fn failure(self, _now: Instant) {
        todo!("which breaker counts it?")
    }

    /// The caller no longer waits for the result.
    pub fn cancel(self, _now: Instant) {
        todo!("which breaker counts it?")
    }

    /// The cluster has not served the request: counts a failure. Returns a call
    /// to the gutter if the request may be sent again. `rand` is random in
    /// `0.0..1.0`.
    pub fn fail_over(
        self,
        _now: Instant,
        _rand: f64,
        _safety: Safety,
    ) -> Option<Call<'a>> {
        todo!("has the request been to the gutter, and may it be sent again?")
    }
}
