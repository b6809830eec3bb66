//! Gutter: a small spare pool takes the requests that the breaker of the main
//! cluster refuses.
//!
//! *Question.* A cache cluster fails, and its circuit breaker refuses reads. A
//! second cluster of the same size is too expensive. How does a spare pool of a
//! few servers help, and how is the pool itself not overloaded?
//!
//! *Idea.* Two breakers and a limit. What the main breaker refuses is the
//! **excess**. It needs one of a fixed number of **permits**, and goes to the
//! spare pool, the **gutter**. If the breaker of the gutter refuses it, too, it
//! goes back to the main cluster with its permit. Without a free permit, it is
//! refused. A call that the main cluster has failed may **fail over** to the
//! gutter, once, if it is safe to execute the request twice.
//!
//! *Guarantee.* At most `gutter_capacity` requests of the excess are in flight,
//! wherever they are sent. A request is sent twice only if that is safe, and
//! never three times. Each result counts in the breaker of its destination, so
//! the load does not oscillate. Entries stored with `ttl` are at most
//! `max_staleness` old.
//!
//! *Cost.* The gutter is cold when it is needed: its first reads miss. Writes do
//! not invalidate its entries. If both clusters are broken, the main one gets
//! more requests than its breaker allows: up to `gutter_capacity` at a time.
//!
//! ```
//! use std::num::NonZero;
//! use std::time::{Duration, Instant};
//! use week05::gutter::{Config, Destination, Router, Safety};
//! use week05::{sre_breaker, window};
//!
//! let second = Duration::from_secs(1);
//! let buckets = NonZero::new(10).unwrap();
//! let breaker = sre_breaker::Config {
//!     k: 1.5,
//!     min_requests: 0,
//!     window: window::Config { bucket: second / 2, buckets },
//!     probe_interval: second,
//!     slow_call: 2 * second,
//! };
//! let now = Instant::now();
//! let config = Config {
//!     main: breaker,
//!     gutter: breaker,
//!     gutter_capacity: NonZero::new(1).unwrap(),
//!     max_staleness: 10 * second,
//! };
//! let router = Router::new(config, now);
//!
//! let read = router.route(now, [0.3, 0.3]).unwrap();
//! assert_eq!(read.destination(), Destination::Main);
//! let read = read.fail_over(now, 0.3, Safety::Idempotent).unwrap();
//! assert_eq!(read.destination(), Destination::Gutter);
//! assert!(router.route(now, [0.3, 0.3]).is_err()); // the gutter is full
//! ```

use std::num::NonZero;
use std::time::{Duration, Instant};

use crate::model_checked::loom_atomics::{AtomicU32, Ordering::Relaxed};
use crate::sre_breaker::{self, Breaker};

/// Decides where each request is sent. Shared by reference.
#[derive(Debug)]
pub struct Router {
    main: Breaker,
    gutter: Breaker,
    /// The number of permits that are held. At most `capacity`.
    held: AtomicU32,
    capacity: u32,
    max_staleness: Duration,
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
    destination: Destination,
    // `Call` needs no `Drop`: these two have one each.
    call: sre_breaker::Call<'a>,
    /// Every call has one, except the first call of a request that the main
    /// breaker has allowed.
    permit: Option<Permit<'a>>,
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

/// The right to be one of `gutter_capacity` requests, until it is dropped.
#[derive(Debug)]
struct Permit<'a> {
    held: &'a AtomicU32,
}

/// A random number with which a breaker allows each request: its probability of
/// a refusal is less.
const ALLOWED: f64 = 1.0 - f64::EPSILON / 2.0;

impl Router {
    /// Creates a router that has seen no request.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            main: Breaker::new(config.main, now),
            gutter: Breaker::new(config.gutter, now),
            held: AtomicU32::new(0),
            capacity: config.gutter_capacity.get(),
            max_staleness: config.max_staleness,
        }
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
        now: Instant,
        rands: [f64; 2],
    ) -> Result<Call<'_>, Refused> {
        // With one random number for both, all requests that are left here
        // would have a small one, and the gutter would seem broken.
        let [main, gutter] = rands;
        if let Ok(call) = self.main.allow(now, main) {
            return Ok(self.call(Destination::Main, call, None));
        }
        // The permit comes before the breaker: a breaker that allows a request
        // expects a result, and does not send its next probe for a while.
        let permit = self.try_acquire().ok_or(Refused)?;
        if let Ok(call) = self.gutter.allow(now, gutter) {
            return Ok(self.call(Destination::Gutter, call, Some(permit)));
        }
        let call = self.main.allow(now, ALLOWED).map_err(|_| Refused)?;
        Ok(self.call(Destination::Main, call, Some(permit)))
    }

    /// Returns how long the gutter may keep an entry that is stored at `now`.
    /// Returns `None` if the entry is too old to be stored.
    ///
    /// `read_at` is the time just before the query was sent to the database.
    pub fn ttl(&self, read_at: Instant, now: Instant) -> Option<Duration> {
        let age = now.saturating_duration_since(read_at);
        let ttl = self.max_staleness.checked_sub(age)?;
        // Redis rejects a TTL of zero. In memcached, zero means for ever.
        (!ttl.is_zero()).then_some(ttl)
    }

    fn call<'a>(
        &'a self,
        destination: Destination,
        call: sre_breaker::Call<'a>,
        permit: Option<Permit<'a>>,
    ) -> Call<'a> {
        Call { router: self, destination, call, permit }
    }

    fn try_acquire(&self) -> Option<Permit<'_>> {
        // `Relaxed`: a permit publishes nothing but the count itself.
        let is_free = |held| (held < self.capacity).then(|| held + 1);
        self.held.fetch_update(Relaxed, Relaxed, is_free).ok()?;
        Some(Permit { held: &self.held })
    }
}

impl<'a> Call<'a> {
    /// Returns the cluster that the request is to be sent to.
    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// The cluster has served the request. A miss is a success.
    pub fn success(self, now: Instant) {
        self.call.success(now);
    }

    /// The cluster has not served the request.
    pub fn failure(self, now: Instant) {
        self.call.failure(now);
    }

    /// The caller no longer waits for the result.
    pub fn cancel(self, now: Instant) {
        self.call.cancel(now);
    }

    /// The cluster has not served the request: counts a failure. Returns a call
    /// to the gutter if the request may be sent again. `rand` is random in
    /// `0.0..1.0`.
    pub fn fail_over(
        self,
        now: Instant,
        rand: f64,
        safety: Safety,
    ) -> Option<Call<'a>> {
        let Self { router, call, permit, .. } = self;
        call.failure(now);
        // A request with a permit has been to the gutter, or its breaker.
        if safety == Safety::Unsafe || permit.is_some() {
            return None;
        }
        let permit = router.try_acquire()?;
        let call = router.gutter.allow(now, rand).ok()?;
        Some(router.call(Destination::Gutter, call, Some(permit)))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Relaxed);
    }
}
