//! Distributed quota: nodes share a rate limit by leases from a store.
//!
//! *Question.* A limit of a thousand requests a second is for all nodes
//! together. How do they share it without a call to Redis for each request? And
//! how many requests do they admit when replies are lost, a node crashes, or
//! Redis is gone or has lost its data?
//!
//! *Idea.* A node holds a **share** of the rate for the time of a **lease**, and
//! renews it several times in a lease. A node that asks again gets another share
//! *instead*, so a retry cannot take twice. The store (a [`Ledger`], or its twin
//! in Redis) grants the max-min fair share, but not more than the others leave
//! free. A request states the rate that its holder **has**. Until it states a
//! lower one, the store keeps the higher one for it: the reply with the lower one
//! may have been lost. A store without data **learns** for one lease: it grants
//! what a holder has.
//!
//! *Guarantee.* The rates of all leases add up to at most the limit, also if
//! messages are lost, late or repeated, nodes crash, and clocks are wrong: a
//! holder counts its lease from before the request was sent, the store from
//! after. After a restart without data, this holds from one lease
//! later. Without a lease, a holder has the safe share, `limit / holders`: all
//! together the limit at most. The share of a crashed holder is free in a lease.
//!
//! *Cost.* A call for each holder and refresh interval, `O(n log n)` in the
//! store. A new holder waits for refreshes of the others. A holder that alone
//! cannot reach the store has its safe share on top of the limit. If the store
//! loses a part of its data (failover), or its clock jumps ahead, up to twice the
//! limit is admitted for a lease.
//!
//! ```
//! use std::{num::NonZero, time::{Duration, Instant}};
//! use week05::quota::{Config, Holder, Ledger};
//!
//! let second = Duration::from_secs(1);
//! let (lease, refresh, burst) = (10 * second, 2 * second, second / 10);
//! let (name, class) = ("node-1".to_owned(), 0);
//! let (limit, holders) = (1_000, NonZero::new(5).unwrap());
//! let config = Config { name, class, limit, holders, lease, refresh, burst };
//! let (start, mut store) = (Instant::now(), Ledger::default());
//! let holder = Holder::new(config, start);
//! assert_eq!(holder.rate(start), 200); // the safe share
//!
//! // The store is new and learns: it grants what the holder has.
//! for (seconds, rate) in [(0, 200), (10, 700)] {
//!     let now = start + seconds * second;
//!     let request = holder.refresh(700, now).expect("a refresh is due");
//!     let grant = store.grant(&request, (1_000 + seconds) * second);
//!     holder.receive(grant.expect("the request is new"), now);
//!     assert_eq!(holder.rate(now), rate);
//! }
//! ```

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
    pub fn grant(&mut self, request: &Request, now: Duration) -> Option<Grant> {
        let until = now + request.lease;
        // If the clock went back, nothing lasts longer than a lease from now.
        let born = self.born.map_or(now, |born| born.min(now));
        self.born = Some(born);
        self.shares.retain(|_, share| {
            share.until = share.until.min(until);
            share.until > now
        });

        let &Request { number, class, wants, has, limit, .. } = request;
        let old = self.shares.get(&request.holder);
        if old.is_some_and(|share| number <= share.number) {
            return None;
        }
        let share = Share { number, class, wants, rate: 0, until };
        self.shares.insert(request.holder.clone(), share);
        let rates = self.shares.values().map(|share| share.rate);
        let free = limit.saturating_sub(rates.fold(0, u64::saturating_add));
        let target = match now < born + request.lease {
            true => has,
            false => fair_share(limit, &self.shares, &request.holder),
        };
        let rate = target.min(free);
        // If the reply is lost, the holder goes on with what it has.
        let kept = Share { rate: rate.max(has), ..share };
        self.shares.insert(request.holder.clone(), kept);
        Some(Grant { number, rate })
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
    pub fn refresh(&self, wants: u64, now: Instant) -> Option<Request> {
        let mut state = self.lock();
        if now < state.due {
            return None;
        }
        state.due = now + self.config.refresh;
        state.number += 1;
        state.sent = Some(now);
        Some(Request {
            holder: self.config.name.clone(),
            number: state.number,
            class: self.config.class,
            wants,
            has: self.rate_of(&state, now),
            limit: self.config.limit,
            lease: self.config.lease,
        })
    }

    /// Takes a reply that has arrived. Ignores it if it answers an old request:
    /// the store may have given that share to others since.
    pub fn receive(&self, grant: Grant, now: Instant) {
        let mut state = self.lock();
        if grant.number != state.number {
            return;
        }
        let Some(sent) = state.sent.take() else { return };
        self.fill(&mut state, now);
        let before = self.rate_of(&state, now);
        // Not from `now`: the lease of the store began before the reply.
        state.lease = Some((grant.rate, sent + self.config.lease));
        if self.rate_of(&state, now) < before {
            // The difference is free as soon as the store knows.
            state.due = now;
        }
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

    fn rate_of(&self, state: &State, now: Instant) -> u64 {
        match state.lease {
            Some((rate, until)) if now < until => rate,
            _ => self.config.limit / self.config.holders,
        }
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
