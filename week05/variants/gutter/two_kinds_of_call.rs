//! Variant: the free permits are counted down under a lock, and a call is an
//! enum of a first call and a call of the excess.
//!
//! Only a call of the excess has a permit, so the compiler sees that only a
//! first call can fail over. A permit is an owner of a unit in the pool, and
//! `fail_over` matches on the kind of the call.

use std::num::NonZero;
use std::time::{Duration, Instant};

use crate::model_checked::loom_atomics::Mutex;
use crate::sre_breaker::{self, Breaker};

/// Decides where each request is sent. Shared by reference.
#[derive(Debug)]
pub struct Router {
    /// The breakers of the main cluster and of the gutter.
    breakers: [Breaker; 2],
    permits: Pool,
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
pub struct Call<'a>(Kind<'a>);

#[derive(Debug)]
enum Kind<'a> {
    /// The main breaker has allowed the request.
    First(&'a Router, sre_breaker::Call<'a>),
    /// The request is a part of the excess.
    Excess(Destination, sre_breaker::Call<'a>, Permit<'a>),
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

/// The permits that nobody holds.
#[derive(Debug)]
struct Pool {
    free: Mutex<u32>,
}

#[derive(Debug)]
struct Permit<'a>(&'a Pool);

impl Pool {
    fn take(&self) -> Option<Permit<'_>> {
        let mut free = self.free.lock().unwrap();
        *free = free.checked_sub(1)?;
        Some(Permit(self))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap() += 1;
    }
}

impl Router {
    /// Creates a router that has seen no request.
    pub fn new(config: Config, now: Instant) -> Self {
        let Config { main, gutter, gutter_capacity, max_staleness } = config;
        let breakers = [main, gutter].map(|config| Breaker::new(config, now));
        let permits = Pool { free: Mutex::new(gutter_capacity.get()) };
        Self { breakers, permits, max_staleness }
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
        let [main, gutter] = &self.breakers;
        let kind =
            match main.allow(now, rands[0]) {
                Ok(call) => Kind::First(self, call),
                Err(sre_breaker::Rejected) => {
                    let permit = self.permits.take().ok_or(Refused)?;
                    let spare = gutter.allow(now, rands[1]);
                    let spare = spare.map(|call| (Destination::Gutter, call));
                    let (destination, call) = spare.or_else(|_| {
                    let forced = main.allow(now, 1.0_f64.next_down());
                    forced.map(|call| (Destination::Main, call))
                })
                .expect("a breaker allows a request with the largest number");
                    Kind::Excess(destination, call, permit)
                }
            };
        Ok(Call(kind))
    }

    /// Returns how long the gutter may keep an entry that is stored at `now`.
    /// Returns `None` if the entry is too old to be stored.
    ///
    /// `read_at` is the time just before the query was sent to the database.
    pub fn ttl(&self, read_at: Instant, now: Instant) -> Option<Duration> {
        let age = now.checked_duration_since(read_at).unwrap_or_default();
        (age < self.max_staleness).then(|| self.max_staleness - age)
    }
}

impl<'a> Call<'a> {
    /// Returns the cluster that the request is to be sent to.
    pub fn destination(&self) -> Destination {
        match &self.0 {
            Kind::First(..) => Destination::Main,
            Kind::Excess(destination, ..) => *destination,
        }
    }

    /// The cluster has served the request. A miss is a success.
    pub fn success(self, now: Instant) {
        let (call, _permit) = self.into_parts();
        call.success(now);
    }

    /// The cluster has not served the request.
    pub fn failure(self, now: Instant) {
        let (call, _permit) = self.into_parts();
        call.failure(now);
    }

    /// The caller no longer waits for the result.
    pub fn cancel(self, now: Instant) {
        let (call, _permit) = self.into_parts();
        call.cancel(now);
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
        let (router, call) = match self.0 {
            Kind::Excess(_, call, _permit) => {
                call.failure(now);
                return None;
            }
            Kind::First(router, call) => (router, call),
        };
        call.failure(now);
        match safety {
            Safety::Unsafe => None,
            Safety::Idempotent | Safety::NotExecuted => {
                let permit = router.permits.take()?;
                let call = router.breakers[1].allow(now, rand).ok()?;
                Some(Call(Kind::Excess(Destination::Gutter, call, permit)))
            }
        }
    }

    fn into_parts(self) -> (sre_breaker::Call<'a>, Option<Permit<'a>>) {
        match self.0 {
            Kind::First(_, call) => (call, None),
            Kind::Excess(_, call, permit) => (call, Some(permit)),
        }
    }
}
