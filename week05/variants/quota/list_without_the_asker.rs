//! Variant: the ledger is a list without the asker, and the holder has no
//! `Option` for its lease.
//!
//! The ledger takes the share of the asker out of the list first. So the rates
//! that are left are exactly those of the others, and an old request puts the
//! share back. A holder starts with a lease that is over already, and keeps the
//! number and the time of the request in flight together, so that one `take_if`
//! accepts a reply. Each call first brings the bucket up to date.

use std::iter::once;
use std::num::NonZero;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::gcra::Throttled;
use crate::quota_bucket::Bucket;
use crate::quota_store::{Grant, Request, Share, fair_share};

/// The store of one limit, in memory. `quota_store` has its twin in Redis.
#[derive(Debug, Default)]
pub struct Ledger {
    learns_from: Option<Duration>,
    shares: Vec<(String, Share)>,
}

/// Limits the requests of one class in one node. Shared by reference.
#[derive(Debug)]
pub struct Holder {
    config: Config,
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
    rate: u64,
    /// The end of the lease. After it, the rate is the safe share.
    until: Instant,
    requests: u64,
    /// The number of the request in flight, and the time at which it was sent.
    in_flight: Option<(u64, Instant)>,
    due: Instant,
}

impl Ledger {
    /// Decides on a request that arrives at `now`, on the clock of the store.
    ///
    /// Returns `None` if the request is not newer than the latest of its holder.
    pub fn grant(&mut self, request: &Request, now: Duration) -> Option<Grant> {
        let latest = now + request.lease;
        let from = self.learns_from.get_or_insert(now);
        *from = now.min(*from);
        let learns = now - *from < request.lease;
        for (_, share) in &mut self.shares {
            share.until = share.until.min(latest);
        }
        self.shares.retain(|(_, share)| share.until > now);

        let own = self.shares.iter().position(|(n, _)| *n == request.holder);
        if let Some(own) = own {
            if self.shares[own].1.number >= request.number {
                return None;
            }
            self.shares.swap_remove(own);
        }
        let mut free = request.limit;
        for (_, share) in &self.shares {
            free = free.saturating_sub(share.rate);
        }
        let mut share = Share {
            number: request.number,
            class: request.class,
            wants: request.wants,
            rate: request.has,
            until: latest,
        };
        let rate = if learns {
            request.has.min(free)
        } else {
            let own = (request.holder.clone(), share);
            let all = self.shares.iter().cloned().chain(once(own)).collect();
            fair_share(request.limit, &all, &request.holder).min(free)
        };
        share.rate = share.rate.max(rate);
        self.shares.push((request.holder.clone(), share));
        Some(Grant { number: request.number, rate })
    }
}

impl Holder {
    /// Creates a holder without a lease and without credit.
    pub fn new(config: Config, now: Instant) -> Self {
        let state = State {
            bucket: Bucket::new(now),
            rate: 0,
            until: now,
            requests: 0,
            in_flight: None,
            due: now,
        };
        Self { config, state: Mutex::new(state) }
    }

    /// Returns the request to send now, or `None` if none is due. `wants` is the
    /// rate that this node can use, with some reserve.
    pub fn refresh(&self, wants: u64, now: Instant) -> Option<Request> {
        let (mut state, has) = self.state_at(now);
        if state.due > now {
            return None;
        }
        state.requests += 1;
        state.in_flight = Some((state.requests, now));
        state.due = now + self.config.refresh;
        let Config { name, class, limit, lease, .. } = self.config.clone();
        let (holder, number) = (name, state.requests);
        Some(Request { holder, number, class, wants, has, limit, lease })
    }

    /// Takes a reply that has arrived. Ignores it if it answers an old request.
    pub fn receive(&self, grant: Grant, now: Instant) {
        let (mut state, before) = self.state_at(now);
        let is_answer = |sent: &mut (u64, Instant)| sent.0 == grant.number;
        if let Some((_, sent)) = state.in_flight.take_if(is_answer) {
            state.rate = grant.rate;
            state.until = sent + self.config.lease;
            if self.rate_of(&state, now) < before {
                state.due = now;
            }
        }
    }

    /// Admits a request that arrives `now`, or returns when to retry.
    ///
    /// # Errors
    ///
    /// Returns [`Throttled`] if the node has no credit.
    pub fn try_acquire(&self, now: Instant) -> Result<(), Throttled> {
        let (mut state, rate) = self.state_at(now);
        state.bucket.take(rate).map_err(|wait| Throttled {
            retry_after: wait.min(self.config.refresh),
        })
    }

    /// Returns the rate at `now`: of the lease, or the safe share.
    pub fn rate(&self, now: Instant) -> u64 {
        self.state_at(now).1
    }

    /// Fills the bucket, and returns the state and the rate.
    fn state_at(&self, now: Instant) -> (MutexGuard<'_, State>, u64) {
        let mut state = self.state.lock().expect("no code panics while locked");
        let (rate, until) = (state.rate, state.until);
        state.bucket.fill(rate, self.config.burst, until.min(now));
        state.bucket.fill(self.safe(), self.config.burst, now);
        let rate = self.rate_of(&state, now);
        (state, rate)
    }

    fn rate_of(&self, state: &State, now: Instant) -> u64 {
        if now < state.until { state.rate } else { self.safe() }
    }

    fn safe(&self) -> u64 {
        self.config.limit / self.config.holders
    }
}
