//! The exercises of this week as policies of a [`Layer`](crate::layer::Layer).

use std::hash::Hash;
use std::time::Instant;

use crate::gcra::{KeyedLimiter, Limiter, Throttled};
use crate::layer::{Outcome, Permit, Policy};
use crate::sre_breaker::{Breaker, Call, Rejected};

impl<Key: Send> Policy<Key> for Limiter {
    type Permit<'a> = ();
    type Rejected = Throttled;

    async fn admit(
        &self,
        _: Key,
        now: Instant,
        _: f64,
    ) -> Result<(), Throttled> {
        self.try_acquire(now)
    }
}

impl<K: Hash + Eq + Clone + Send + Sync> Policy<K> for KeyedLimiter<K> {
    type Permit<'a>
        = ()
    where
        K: 'a;
    type Rejected = Throttled;

    async fn admit(
        &self,
        key: K,
        now: Instant,
        _: f64,
    ) -> Result<(), Throttled> {
        self.try_acquire(&key, now)
    }
}

impl<Key: Send> Policy<Key> for Breaker {
    type Permit<'a> = Call<'a>;
    type Rejected = Rejected;

    async fn admit(
        &self,
        _: Key,
        now: Instant,
        rand: f64,
    ) -> Result<Call<'_>, Rejected> {
        self.allow(now, rand)
    }
}

impl Permit for Call<'_> {
    fn end(self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Success => self.success(now),
            Outcome::Failure => self.failure(now),
        }
    }
}
