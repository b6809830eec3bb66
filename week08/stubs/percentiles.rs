//! Latency percentiles: a load generator without coordinated omission. Your
//! turn.
//!
//! These rules are graded, and nothing else:
//!
//! Requests
//! - A run starts when `open_loop` or `closed_loop` is called and awaited. Its
//!   *end* is `warm_up + duration` after the start (at most `Duration::MAX`).
//! - A *connection* sends a request by `request`. It is *free* when this future
//!   has ended or was dropped. Each number is used once.
//! - In an open loop, request `number` is due `number / rate` seconds after the
//!   start, rounded down to nanoseconds. `due` returns this time, for any rate
//!   and number. Requests that are due before the end are sent, in the order of
//!   their numbers, each one as soon as it is due and any connection is free.
//!   Only the resolution of tokio's timer (1 ms) may delay it further.
//! - In a closed loop, a request is due when it is sent. Each connection sends
//!   one at the start, and the next one as soon as it is free, but none at or
//!   after the end. A connection whose requests end at once does not keep the
//!   others waiting. Numbers start at 0, and a request that is sent later has a
//!   larger number.
//! - A request that has no answer `timeout` after it was due is dropped (with
//!   the resolution of the timer), and its connection is free. If a request
//!   waits for a connection for that long, it is not sent at all.
//! - A loop returns when all requests have ended, and returns their report. The
//!   times in the report count from the start.
//! - Both loops panic if there are no connections. If a `request` panics, the
//!   loop panics at once, with the same payload.
//! - When the future of a loop has been dropped or has panicked, the requests
//!   in flight and the connections are dropped when the runtime runs next, and
//!   no further request is sent.
//!
//! Reports
//! - `record` ignores a request that is due before `warm_up`, or at or after
//!   the end. It counts each other request once: as timed out if its latency,
//!   `ended - due`, is more than `timeout`, and otherwise by its outcome. If
//!   `ended` is before `due`, the latency is 0.
//! - `percentile(p)`, for `p` from 0 to 100: sort the recorded requests by
//!   latency, those that failed or timed out last. Take the request at `p`
//!   percent of their number, rounded up (the first one for 0; a rounding error
//!   of an `f64` may move it by one). The result is its latency, or up to 0.1 %
//!   and 1 µs more, but not less. It is `None` if this request was not
//!   answered, or if there are no requests. For a latency of more than 1,000
//!   years, the result may be any value above that.
//! - `throughput` is the number of recorded requests that were answered at the
//!   end or before, divided by the seconds of `duration`. It is 0 if `duration`
//!   is zero.
//! - `spread` has the smallest, the middle and the largest percentile of the
//!   runs. `None` ranks above all values. The middle of an even number of
//!   values is the higher one of the two in the middle. `spread` returns `None`
//!   if there are no runs.
//!
//! Help: `JoinSet` aborts its tasks when it is dropped. `tokio::time::timeout`
//! polls its future first. So if the timer is late, the future may still end
//! after its time-out. `Histogram::new(3)` has 3 digits, and grows with its
//! values if you use `record`. `saturating_record` does not let it grow.
//! `value_at_quantile(q)` returns the value with the rank `q * len` (rounded
//! up), at the upper end of its resolution; to get rank `r`, ask for `(r - 0.5)
//! / len`.

use std::future::Future;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

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
#[allow(dead_code, reason = "you will use them")]
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
    _rate: NonZero<u64>,
    _plan: Plan,
    _connections: Vec<C>,
) -> Report {
    todo!("which request does a free connection send next, and when?")
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
    _plan: Plan,
    _connections: Vec<C>,
) -> Report {
    todo!("in which single line does it differ from an open loop?")
}

/// Returns when a request is due, after the start of the run.
pub fn due(_rate: NonZero<u64>, _number: u64) -> Duration {
    todo!("how do you divide only once, without an overflow?")
}

/// Waits for the tasks of all connections, and returns their common report.
#[allow(dead_code, reason = "you will use it")]
async fn join(plan: Plan, mut tasks: JoinSet<Report>) -> Report {
    let mut report = Report::new(plan);
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(part) => report.merge(&part),
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
    report
}

impl Report {
    /// Creates a report without requests.
    pub fn new(_plan: Plan) -> Self {
        todo!("what is the longest latency that the histogram holds?")
    }

    /// Records a request. The times count from the start of the run.
    pub fn record(
        &mut self,
        _due: Duration,
        _ended: Duration,
        _outcome: Outcome,
    ) {
        todo!("does the request count, and as what?")
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
        todo!("which answers count, and for how many seconds?")
    }

    /// Returns the latency within which `p` percent of the requests were
    /// answered. Returns `None` if fewer were answered, or if there are none.
    pub fn percentile(&self, _p: f64) -> Option<Duration> {
        todo!("which rank is it, and was the request with it answered?")
    }
}

/// Returns how much a percentile differs between runs, or `None` without runs.
pub fn spread(_runs: &[Report], _p: f64) -> Option<Spread> {
    todo!("where does a run without a value stand in the order?")
}
