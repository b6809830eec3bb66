//! The server and the clients of the charts in the notes.

use std::num::NonZero;
use std::time::Duration;

use super::{Client, Scenario, Server};
use crate::criticality;
use crate::retry::{self, Backoff};
use crate::{gcra, sre_breaker, window};

/// Requests per second that the server can serve.
pub const CAPACITY: f64 = 200.0;

/// The policies that a run uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// A bounded queue, and retries without a budget.
    None,
    /// The server refuses what exceeds nine tenths of its capacity.
    RateLimit,
    /// The server sheds load by criticality.
    Criticality,
    /// Clients send less to a server that fails.
    Breaker,
    /// Criticality, breaker, a retry budget, and a server that skips requests
    /// whose deadline has passed.
    All,
}

/// The time in which users send requests.
pub const DURATION: Duration = Duration::from_secs(40);

/// The first seconds do not count: the queue is still empty.
pub const WARM_UP: Duration = Duration::from_secs(10);

const SECOND: Duration = Duration::from_secs(1);

/// Returns the scenario with a load in multiples of the capacity.
///
/// # Panics
///
/// Never: its numbers are not zero.
#[must_use]
pub fn scenario(protection: Protection, load: f64) -> Scenario {
    let ms = Duration::from_millis;
    let has = |policy| protection == policy || protection == Protection::All;
    let ten = NonZero::new(10).expect("ten is not zero");
    let number = |n| NonZero::new(n).expect("it is not zero");
    Scenario {
        seed: 2026,
        duration: DURATION,
        slot: SECOND,
        load: load * CAPACITY,
        classes: [0.2, 0.3, 0.4, 0.1],
        server: Server {
            cores: 8,
            service_time: ms(40),
            refusal_cost: ms(40) / 200,
            max_queue: 1000,
            knows_deadlines: protection == Protection::All,
            // A tenth below the capacity: refusals have a cost, too.
            rate_limit: (protection == Protection::RateLimit).then_some(
                gcra::Quota { per_second: number(180), burst: number(20) },
            ),
            shedding: has(Protection::Criticality).then_some(
                criticality::Config {
                    max_in_flight: number(40),
                    degrade_at: [101; 4],
                    refuse_at: [90, 94, 97, 101],
                },
            ),
            fault: None,
        },
        client: Client {
            count: 20,
            timeout: ms(500),
            max_attempts: 3,
            backoff: Backoff { base: ms(100), cap: ms(1000) },
            retry_budget: (protection == Protection::All).then_some(
                retry::Limits {
                    percent: 10,
                    min_retries: 1,
                    window: window::Config { bucket: SECOND, buckets: ten },
                },
            ),
            breaker: has(Protection::Breaker).then_some(sre_breaker::Config {
                k: 2.0,
                min_requests: 10,
                window: window::Config { bucket: SECOND / 2, buckets: ten },
                probe_interval: SECOND,
                slow_call: ms(500),
            }),
        },
    }
}
