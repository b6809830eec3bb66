//! Week 5: stay available under overload: count, limit, shed, break, retry.
//!
//! | Exercise | Topic | Question |
//! |----------|-------|----------|
//! | [`window`] | Sliding window in a ring of buckets | How many requests came in the last ten seconds, also after an idle hour? |
//! | [`striped`] | Striped counter: no false sharing | How do threads count events without waiting for the same cache line? |
//! | [`gcra`] | Rate limit: GCRA | How do threads share a rate limit without a lock, and how are idle keys forgotten? |
//! | [`bulkhead`] | Bulkhead: a fair limit per class | One class of requests becomes slow. How do the other classes keep their share of the service? |
//! | [`deadline`] | Deadline propagation: a time budget | How does each service know how long its caller still waits, and not begin work that cannot be finished? |
//! | [`criticality`] | Load shedding by criticality | Which requests does an overloaded service refuse first, and how does it know that it is overloaded? |
//! | [`sre_breaker`] | Circuit breaker: adaptive throttling | How does a client send less to a backend that fails, and notice that it works again? |
//! | [`gutter`] | Gutter: a spare pool for the excess | A cache cluster fails. How does a small spare cluster take the excess without failing, too? |
//! | [`retry`] | Retry: full jitter, retry budget | How does a client retry without multiplying the load of an overloaded backend? |
//! | [`mobile`] | Client restraint: backoff on mobile | A server cannot be reached. How does an app stay quiet, however often the user taps? |
//! | [`max_min`] | Max-min fairness: share a quota | Several clients want more than there is. Which share does each of them get? |
//! | [`quota`] | Distributed quota: leases from Redis | How do many nodes keep one limit together, also while Redis is away? |
//!
//! [`layer`] puts any of these policies around a tower service.

#![forbid(unsafe_code)]

pub mod bulkhead;
pub mod cpu;
pub mod criticality;
pub mod deadline;
pub mod gcra;
pub mod gutter;
pub mod layer;
pub mod max_min;
pub mod mobile;
pub mod policies;
pub mod quota;
pub mod quota_bucket;
pub mod quota_store;
pub mod retry;
pub mod simulator;
pub mod sre_breaker;
pub mod striped;
pub mod window;

mod model_checked;
