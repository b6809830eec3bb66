//! Latency percentiles: a load generator without coordinated omission.
//!
//! *Question.* The benchmark says that the 99th percentile is 2 ms, and users
//! wait a second. How does a load generator measure what users feel?
//!
//! *Idea.* Users do not wait for each other. In an **open loop**, each request
//! has a time at which it is due. Its latency counts from then, wherever it
//! waits. In a **closed loop**, each connection sends a request when the one
//! before has ended. A stalled server is then asked less often, so the slow
//! requests are missing: this is **coordinated omission**. A closed loop
//! measures throughput and service time.
//!
//! *Guarantee.* Each request that is due in the measured time is counted once:
//! as answered, failed or timed out. Its latency includes all waiting, also for
//! a free connection or for a late generator, because it counts from a time
//! that no answer changes. A percentile is at most 0.1 % and 1 µs too high, and
//! never too low: requests without an answer rank above all others. A run ends
//! at most [`Plan::timeout`] after the last request was due.
//!
//! *Cost.* tokio's timer has a resolution of 1 ms, and a request that is sent
//! late counts as slow: an open loop reports up to 1 ms too much. A shorter
//! latency needs a closed loop. A task and a histogram for each connection; an
//! atomic addition and a timer for each request.
//!
//! ```
//! use std::time::Duration;
//! use week08::percentiles::{Connection, Failed, Plan, open_loop};
//!
//! struct Server;
//! impl Connection for Server {
//!     async fn request(&mut self, number: u64) -> Result<(), Failed> {
//!         let is_slow = number == 0; // a stall of a second
//!         let ms = if is_slow { 1_000 } else { 1 };
//!         tokio::time::sleep(Duration::from_millis(ms)).await;
//!         Ok(())
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread()
//! #     .enable_time()
//! #     .start_paused(true)
//! #     .build()
//! #     .unwrap()
//! #     .block_on(async {
//! let plan = Plan {
//!     warm_up: Duration::ZERO,
//!     duration: Duration::from_secs(10),
//!     timeout: Duration::from_secs(5),
//! };
//! let rate = 100.try_into().unwrap();
//! let report = open_loop(rate, plan, vec![Server]).await;
//! assert_eq!(report.requests(), 1_000);
//! // One request was slow, and 100 were due while it blocked the connection.
//! assert!(report.percentile(90.0) > Some(Duration::from_millis(90)));
//! # });
//! ```

use std::future::Future;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::{JoinSet, coop::consume_budget};
use tokio::time::{Instant, sleep_until, timeout};

/// A connection: it sends a request when the one before has ended.
pub trait Connection: Send + 'static {
    /// Sends a request, and waits for its answer. Requests are numbered from
    /// zero, over all connections.
    ///
    /// # Cancel safety
    ///
    /// If the request times out, this future is dropped. The connection may get
    /// the next request then, so it has to discard the late answer, or to
    /// reconnect.
    fn request(
        &mut self,
        number: u64,
    ) -> impl Future<Output = Result<(), Failed>> + Send;
}

/// The request has got an error instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

/// The times of a run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Requests that are due in this time, at the beginning, are not recorded.
    pub warm_up: Duration,
    /// The time after the warm-up in which requests are due.
    pub duration: Duration,
    /// The time after a request was due in which its answer is of use.
    pub timeout: Duration,
}

/// How a request has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered,
    /// It has got an error.
    Failed,
    /// It had no answer in time.
    TimedOut,
}

/// The results of all requests of a run.
#[derive(Debug, Clone)]
pub struct Report {
    plan: Plan,
    /// The latencies of answered requests, in microseconds.
    latencies: Histogram<u64>,
    answered_in_duration: u64,
    failed: u64,
    timed_out: u64,
}

/// A percentile of several runs. `None` ranks above all values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// The value of the best run.
    pub min: Option<Duration>,
    /// The value in the middle, or the higher one of two.
    pub median: Option<Duration>,
    /// The value of the worst run.
    pub max: Option<Duration>,
}

/// Sends `rate` requests per second, whatever the server does. A request that
/// is due waits until one of the connections is free.
///
/// # Cancel safety
///
/// Dropping the future drops the requests in flight and all connections.
///
/// # Panics
///
/// Panics if there are no connections, or with the panic of a connection.
pub async fn open_loop<C: Connection>(
    rate: NonZero<u64>,
    plan: Plan,
    connections: Vec<C>,
) -> Report {
    assert!(!connections.is_empty(), "no connection can send the requests");
    run(Some(rate), plan, connections).await
}

/// Sends a request on each connection when the one before has ended.
///
/// # Cancel safety
///
/// Dropping the future drops the requests in flight and all connections.
///
/// # Panics
///
/// Panics if there are no connections, or with the panic of a connection.
pub async fn closed_loop<C: Connection>(
    plan: Plan,
    connections: Vec<C>,
) -> Report {
    assert!(!connections.is_empty(), "no connection can send the requests");
    run(None, plan, connections).await
}

/// Returns when a request is due, after the start of the run.
pub fn due(rate: NonZero<u64>, number: u64) -> Duration {
    // Not an interval times the number: its rounding would add up.
    let nanos = u128::from(number % rate) * 1_000_000_000;
    let nanos = nanos / u128::from(rate.get());
    Duration::new(number / rate, nanos as u32)
}

async fn run<C: Connection>(
    rate: Option<NonZero<u64>>,
    plan: Plan,
    connections: Vec<C>,
) -> Report {
    let start = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    // It aborts the tasks when it is dropped.
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(send(connection, rate, plan, start, Arc::clone(&next)));
    }
    let mut report = Report::new(plan);
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(part) => report.merge(&part),
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
    report
}

/// Sends requests on one connection. The number is the queue that all
/// connections share: a free connection takes the next request, and waits until
/// it is due.
async fn send(
    mut connection: impl Connection,
    rate: Option<NonZero<u64>>,
    plan: Plan,
    start: Instant,
    next: Arc<AtomicU64>,
) -> Report {
    let mut report = Report::new(plan);
    loop {
        // Relaxed: the number publishes nothing.
        let number = next.fetch_add(1, Relaxed);
        // In a closed loop, this depends on the answer before.
        let due = rate.map_or(start.elapsed(), |rate| due(rate, number));
        if due >= plan.warm_up.saturating_add(plan.duration) {
            return report;
        }
        if start.elapsed() < due {
            sleep_until(start + due).await;
        }
        // A connection that is always ready must not starve the others.
        consume_budget().await;
        let waited = start.elapsed().saturating_sub(due);
        let left = plan.timeout.saturating_sub(waited);
        let outcome = if left.is_zero() {
            Outcome::TimedOut
        } else {
            match timeout(left, connection.request(number)).await {
                Ok(Ok(())) => Outcome::Answered,
                Ok(Err(Failed)) => Outcome::Failed,
                Err(_) => Outcome::TimedOut,
            }
        };
        report.record(due, start.elapsed(), outcome);
    }
}

#[expect(clippy::missing_panics_doc, reason = "the histogram grows")]
impl Report {
    /// Creates a report without requests.
    pub fn new(plan: Plan) -> Self {
        // It grows with its values, so none is out of range.
        let latencies = Histogram::new(3).expect("3 digits are valid");
        Self {
            plan,
            latencies,
            answered_in_duration: 0,
            failed: 0,
            timed_out: 0,
        }
    }

    /// Records a request. The times count from the start of the run.
    pub fn record(&mut self, due: Duration, ended: Duration, outcome: Outcome) {
        let end = self.plan.warm_up.saturating_add(self.plan.duration);
        if due < self.plan.warm_up || due >= end {
            return;
        }
        let latency = ended.saturating_sub(due);
        match outcome {
            // The generator was late: the user has given up before.
            _ if latency > self.plan.timeout => self.timed_out += 1,
            Outcome::TimedOut => self.timed_out += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Answered => {
                let micros = latency.as_nanos().div_ceil(1_000);
                let micros = micros.try_into().unwrap_or(u64::MAX);
                self.latencies.record(micros).expect("the histogram grows");
                self.answered_in_duration += u64::from(ended <= end);
            }
        }
    }

    /// Adds the requests of another generator that ran at the same time, with
    /// the same plan.
    pub fn merge(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("the histogram grows");
        self.answered_in_duration += other.answered_in_duration;
        self.failed += other.failed;
        self.timed_out += other.timed_out;
    }

    /// Returns the number of requests that were due in the measured time.
    pub fn requests(&self) -> u64 {
        self.answered() + self.failed + self.timed_out
    }

    /// Returns the number of requests that were answered.
    pub fn answered(&self) -> u64 {
        self.latencies.len()
    }

    /// Returns the number of requests that have got an error.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Returns the number of requests without an answer in time.
    pub fn timed_out(&self) -> u64 {
        self.timed_out
    }

    /// Returns the number of requests per second that were due and answered in
    /// the measured time. Returns 0 if this time is zero.
    pub fn throughput(&self) -> f64 {
        let seconds = self.plan.duration.as_secs_f64();
        self.answered_in_duration as f64 / seconds.max(f64::MIN_POSITIVE)
    }

    /// Returns the latency within which `p` percent of the requests were
    /// answered. Returns `None` if fewer were answered, or if there are none.
    pub fn percentile(&self, p: f64) -> Option<Duration> {
        let rank = (p * self.requests() as f64 / 100.0).ceil().max(1.0);
        let answered = self.answered() as f64;
        if rank > answered {
            return None;
        }
        // The histogram rounds up, so half a rank less is this rank for sure.
        let micros = self.latencies.value_at_quantile((rank - 0.5) / answered);
        Some(Duration::from_micros(micros))
    }
}

/// Returns how much a percentile differs between runs, or `None` without runs.
pub fn spread(runs: &[Report], p: f64) -> Option<Spread> {
    let mut values: Vec<_> = runs.iter().map(|run| run.percentile(p)).collect();
    values.sort_unstable_by_key(|value| (value.is_none(), *value));
    Some(Spread {
        min: *values.first()?,
        median: values[values.len() / 2],
        max: *values.last()?,
    })
}
