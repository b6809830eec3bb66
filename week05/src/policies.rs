//! The exercises of this week as policies of a [`Layer`](crate::layer::Layer).
//!
//! | Policy | Its key |
//! |--------|---------|
//! | [`gcra::Limiter`] | anything |
//! | [`gcra::KeyedLimiter`] | the key that is limited |
//! | [`bulkhead::Bulkheads`] | the class of the request |
//! | [`DeadlineCheck`] | the deadline of the request |
//! | [`criticality::Shedder`] | the criticality, and the CPU utilisation |
//! | [`sre_breaker::Breaker`] | anything |
//!
//! Only a bulkhead waits. All others decide at once. The service behind the layer
//! does not see whether a [`criticality::Permit`] asks for a degraded answer: a
//! handler that has a cheaper one calls the shedder itself.

use std::hash::Hash;
use std::num::NonZero;
use std::time::Instant;

use crate::bulkhead::{self, Bulkheads};
use crate::criticality::{self, Criticality, Shedder};
use crate::deadline::{self, Deadline, Latency};
use crate::gcra::{self, KeyedLimiter, Limiter};
use crate::layer::{Outcome, Permit, Policy};
use crate::sre_breaker::{self, Breaker};

/// Refuses requests that have less time than they typically take.
#[derive(Debug)]
pub struct DeadlineCheck {
    /// How long requests have taken.
    pub latency: Latency,
}

/// A request that [`DeadlineCheck`] has admitted.
#[derive(Debug)]
pub struct CheckedRequest<'a> {
    latency: &'a Latency,
    since: Instant,
    has_ended: bool,
}

/// A bulkhead has not admitted the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Isolated {
    /// The class has no bulkhead.
    #[error(transparent)]
    UnknownClass(#[from] bulkhead::UnknownClass),
    /// The bulkhead of the class has refused the request.
    #[error(transparent)]
    Rejected(#[from] bulkhead::Rejected),
}

impl<Key: Send> Policy<Key> for Limiter {
    type Permit<'a> = ();
    type Rejected = gcra::Throttled;

    async fn admit(
        &self,
        _: Key,
        now: Instant,
        _: f64,
    ) -> Result<(), gcra::Throttled> {
        self.try_acquire(now)
    }
}

impl<K: Hash + Eq + Clone + Send + Sync> Policy<K> for KeyedLimiter<K> {
    type Permit<'a>
        = ()
    where
        K: 'a;
    type Rejected = gcra::Throttled;

    async fn admit(
        &self,
        key: K,
        now: Instant,
        _: f64,
    ) -> Result<(), gcra::Throttled> {
        self.try_acquire(&key, now)
    }
}

impl<C: Hash + Eq + Send + Sync> Policy<C> for Bulkheads<C> {
    type Permit<'a>
        = bulkhead::Permit
    where
        C: 'a;
    type Rejected = Isolated;

    async fn admit(
        &self,
        class: C,
        _: Instant,
        _: f64,
    ) -> Result<bulkhead::Permit, Isolated> {
        let bulkhead = self.get(&class)?;
        Ok(bulkhead.acquire(NonZero::<u32>::MIN).await?)
    }
}

impl Policy<Deadline> for DeadlineCheck {
    type Permit<'a> = CheckedRequest<'a>;
    type Rejected = deadline::Rejected;

    async fn admit(
        &self,
        deadline: Deadline,
        now: Instant,
        _: f64,
    ) -> Result<CheckedRequest<'_>, deadline::Rejected> {
        deadline.check(now, self.latency.typical(now))?;
        Ok(CheckedRequest {
            latency: &self.latency,
            since: now,
            has_ended: false,
        })
    }
}

impl Policy<(Criticality, f64)> for Shedder {
    type Permit<'a> = criticality::Permit;
    type Rejected = criticality::Overloaded;

    async fn admit(
        &self,
        (class, cpu): (Criticality, f64),
        _: Instant,
        _: f64,
    ) -> Result<criticality::Permit, criticality::Overloaded> {
        self.try_acquire(class, cpu)
    }
}

impl<Key: Send> Policy<Key> for Breaker {
    type Permit<'a> = sre_breaker::Call<'a>;
    type Rejected = sre_breaker::Rejected;

    async fn admit(
        &self,
        _: Key,
        now: Instant,
        rand: f64,
    ) -> Result<sre_breaker::Call<'_>, sre_breaker::Rejected> {
        self.allow(now, rand)
    }
}

impl Permit for bulkhead::Permit {
    fn end(self, _: Outcome, _: Instant) {}
}

impl Permit for CheckedRequest<'_> {
    fn end(mut self, outcome: Outcome, now: Instant) {
        // A quick failure says nothing about the time of an answer.
        if outcome == Outcome::Success {
            let took = now.saturating_duration_since(self.since);
            self.latency.record(now, took);
        }
        self.has_ended = true;
    }
}

impl Drop for CheckedRequest<'_> {
    fn drop(&mut self) {
        if self.has_ended || std::thread::panicking() {
            return;
        }
        // The caller has given up: the answer would have taken longer. Such a
        // bound may raise the average, but a quick cancel must not lower it.
        let now = Instant::now();
        let lasted = now.saturating_duration_since(self.since);
        if self.latency.typical(now).is_none_or(|typical| lasted > typical) {
            self.latency.record(now, lasted);
        }
    }
}

impl Permit for criticality::Permit {
    fn end(self, _: Outcome, _: Instant) {}
}

impl Permit for sre_breaker::Call<'_> {
    fn end(self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Success => self.success(now),
            Outcome::Failure => self.failure(now),
        }
    }
}
