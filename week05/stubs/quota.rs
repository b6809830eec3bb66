//! Distributed quota: nodes share a rate limit by leases from a store. Your
//! turn.
//!
//! A node has a `Holder` for each class of requests. The holder asks the store
//! for a rate, and has it for the time of a lease. You write the decision of the
//! store (`Ledger::grant`) and the protocol of the holder. `quota_store` has the
//! messages, the fair share, and a script for Redis that decides as the ledger
//! does. Read `Request` there first.
//!
//! These rules are graded, and nothing else:
//!
//! *The holder*
//!
//! - `rate` is the rate that was granted, until the end of the lease: at that
//!   time it is over. Without a lease (before the first one, too), `rate` is the
//!   safe share: `limit / holders`, rounded down.
//! - A request is due at the `now` of `new`, and then `refresh` after each
//!   request, whether a reply has come or not. `refresh` returns it, or `None`
//!   if none is due. The numbers are 1, 2, 3 and so on. `has` is the rate at
//!   `now`. The other fields are those of the `Config`.
//! - `receive` takes the first reply to the latest request. It ignores all
//!   others: a second reply, a reply to an older request, and a number that was
//!   not sent.
//! - The lease begins at the `now` of the `refresh` that made the request, and
//!   replaces the old lease. If it is over when the reply comes, there is none.
//! - If a reply lowers the rate, the next request is due at once, so that the
//!   store learns soon that the holder has less.
//! - `try_acquire` and `fill` are given. All rates count for the time for which
//!   they were in force. So fill the bucket before the rate changes.
//! - Threads call all methods at the same time. Among all calls, one returns
//!   each request. A `now` may be a little earlier than that of a call before:
//!   no method panics then, and a lease still begins at the `now` of `refresh`.
//!
//! *The ledger*
//!
//! - It has a share for each holder. A share ends one lease after the request
//!   that made it: at that time it is gone. `lease` and `limit` can change: those
//!   of the request that arrives count. A longer lease does not extend the other
//!   shares.
//! - A request is old if its holder has a share, and the number is not above
//!   that of the share. For an old request, `grant` returns `None` and leaves
//!   the share as it is.
//! - The free rate is the limit minus the kept rates of all other shares, or 0
//!   if that is negative.
//! - In the first lease after the first request of the ledger (its end is not
//!   included), the ledger learns: it grants what the holder has. After that, it
//!   grants the `fair_share` among all present shares, with the new wish of this
//!   holder. It never grants more than the free rate.
//! - The kept rate of a share is the granted rate or the rate that the holder
//!   has, whichever is larger.
//! - The clock of the store may go back, and a lease may be shorter than those
//!   before. When a request arrives, even an old one, nothing lasts longer than
//!   if it began now: all shares and learning end at the latest one lease later.
//!
//! *Both, over a network that loses, delays and repeats messages*
//!
//! - The rates of all leases add up to at most the limit, at any time. If the
//!   store has lost its memory, this holds again one lease later.
//!
//! Rates are any `u64`, and sums of them may be larger than `u64::MAX`. All
//! durations are at most a day.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::gcra::Throttled;
use crate::quota_bucket::Bucket;
use crate::quota_store::{Grant, Request, Share, fair_share};

/// The store of one limit, in memory. `quota_store` has its twin in Redis.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The time of the first request, or `None` before it.
    born: Option<Duration>,
    shares: BTreeMap<String, Share>,
}

/// Limits the requests of one class in one node. Shared by reference.
#[derive(Debug)]
pub struct Holder {
    config: Config,
    /// One lock: a request is admitted at the rate that the others see.
    state: Mutex<State>,
}

/// The settings of a [`Holder`]. All durations are at most a day.
#[derive(Debug, Clone)]
pub struct Config {
    /// Another one for each class and after each start.
    pub name: String,
    /// The criticality of the requests. Class 0 is served first.
    pub class: u8,
    /// Requests per second, of all holders together.
    pub limit: u64,
    /// The largest number of holders that there are at a time.
    pub holders: NonZero<u64>,
    /// The time for which a share is granted.
    pub lease: Duration,
    /// The time between two requests to the store: a fraction of the lease.
    pub refresh: Duration,
    /// The time whose requests may be admitted at once after a pause.
    pub burst: Duration,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    /// The rate that was granted last, and the end of the lease.
    lease: Option<(u64, Instant)>,
    /// The number of the latest request.
    number: u64,
    /// The time at which that request was sent, until its reply comes.
    sent: Option<Instant>,
    /// The time of the next request.
    due: Instant,
}

impl Ledger {
    /// Decides on a request that arrives at `now`, on the clock of the store.
    ///
    /// Returns `None` if the request is not newer than the latest of its holder.
    pub fn grant(
        &mut self,
        _request: &Request,
        _now: Duration,
    ) -> Option<Grant> {
        todo!("which rates can the holder have until its next request?")
    }
}

impl Holder {
    /// Creates a holder without a lease and without credit. A process that
    /// crashes and starts again all the time must not get a burst each time.
    pub fn new(config: Config, now: Instant) -> Self {
        let (bucket, due) = (Bucket::new(now), now);
        let state = State { bucket, lease: None, number: 0, sent: None, due };
        Self { config, state: Mutex::new(state) }
    }

    /// Returns the request to send now, or `None` if none is due. `wants` is the
    /// rate that this node can use, with some reserve.
    pub fn refresh(&self, _wants: u64, _now: Instant) -> Option<Request> {
        todo!("is a request due, and what does it state?")
    }

    /// Takes a reply that has arrived. Ignores it if it answers an old request:
    /// the store may have given that share to others since.
    pub fn receive(&self, _grant: Grant, _now: Instant) {
        todo!("which reply counts, and since when does its lease run?")
    }

    /// Admits a request that arrives `now`, or returns when to retry.
    ///
    /// # Errors
    ///
    /// Returns [`Throttled`] if the node has no credit. The wait is at most the
    /// refresh interval, after which the rate may be another one.
    pub fn try_acquire(&self, now: Instant) -> Result<(), Throttled> {
        let mut state = self.lock();
        self.fill(&mut state, now);
        let rate = self.rate_of(&state, now);
        state.bucket.take(rate).map_err(|wait| Throttled {
            retry_after: wait.min(self.config.refresh),
        })
    }

    /// Returns the rate at `now`: of the lease, or the safe share.
    pub fn rate(&self, now: Instant) -> u64 {
        self.rate_of(&self.lock(), now)
    }

    fn rate_of(&self, _state: &State, _now: Instant) -> u64 {
        todo!("is there a lease at this time?")
    }

    /// Adds the credit up to `now`: up to the end of the lease at the rate of
    /// the lease, and then at the safe one.
    fn fill(&self, state: &mut State, now: Instant) {
        let Config { limit, holders, burst, .. } = self.config;
        if let Some((rate, until)) = state.lease {
            state.bucket.fill(rate, burst, now.min(until));
        }
        state.bucket.fill(limit / holders, burst, now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics with the lock held")
    }
}
