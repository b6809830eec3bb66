//! A task for each request, a pool of connections, and exact latencies.
//!
//! One task knows the schedule. It starts a task for each request when it is
//! due, and this task waits for a connection in the queue of a semaphore. All
//! latencies are stored and sorted: percentiles are exact, and the memory grows
//! with the number of requests.

use std::future::Future;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet, coop::consume_budget};
use tokio::time::{Instant, sleep_until, timeout_at};

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
    /// The latencies of answered requests, in no order.
    latencies: Vec<Duration>,
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

/// Connections that are free, and a permit for each of them.
struct Pool<C> {
    permits: Semaphore,
    free: Mutex<Vec<C>>,
}

/// Puts the connection back when it is dropped, before the permit.
struct Lease<'a, C> {
    connection: Option<C>,
    pool: &'a Pool<C>,
}

impl<C> Drop for Lease<'_, C> {
    fn drop(&mut self) {
        if let (Some(connection), Ok(mut free)) =
            (self.connection.take(), self.pool.free.lock())
        {
            free.push(connection);
        }
    }
}

/// Sends `rate` requests per second, whatever the server does.
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
    let start = Instant::now();
    let end = plan.warm_up.saturating_add(plan.duration);
    let permits = Semaphore::new(connections.len());
    let pool = Arc::new(Pool { permits, free: Mutex::new(connections) });
    let mut report = Report::new(plan);
    let mut requests = JoinSet::new();
    for number in 0.. {
        let after = due(rate, number);
        if after >= end {
            break;
        }
        // A panic ends the run at once, not when the next request is due.
        while start.elapsed() < after {
            match timeout_at(start + after, requests.join_next()).await {
                Ok(Some(ended)) => report.add(ended),
                Ok(None) => sleep_until(start + after).await,
                Err(_) => {}
            }
        }
        consume_budget().await;
        requests.spawn(request(Arc::clone(&pool), number, start, after, plan));
        while let Some(ended) = requests.try_join_next() {
            report.add(ended);
        }
    }
    while let Some(ended) = requests.join_next().await {
        report.add(ended);
    }
    report
}

/// Waits for a connection, and sends a request on it.
async fn request<C: Connection>(
    pool: Arc<Pool<C>>,
    number: u64,
    start: Instant,
    due: Duration,
    plan: Plan,
) -> Ended {
    let exchange = async {
        let permit = pool.permits.acquire().await;
        let _permit = permit.expect("the semaphore is never closed");
        if start.elapsed().saturating_sub(due) >= plan.timeout {
            return Outcome::TimedOut;
        }
        let connection = pool.free.lock().expect("no panic with the lock held");
        let connection = { connection }.pop();
        let mut lease = Lease { connection, pool: &pool };
        let connection = lease.connection.as_mut();
        let connection = connection.expect("there is one for each permit");
        match connection.request(number).await {
            Ok(()) => Outcome::Answered,
            Err(Failed) => Outcome::Failed,
        }
    };
    let outcome = until(start, due, plan, exchange).await;
    (due, start.elapsed(), outcome)
}

/// Sends a request on each connection when the one before has ended.
///
/// # Panics
///
/// Panics if there are no connections, or with the panic of a connection.
pub async fn closed_loop<C: Connection>(
    plan: Plan,
    connections: Vec<C>,
) -> Report {
    assert!(!connections.is_empty(), "no connection can send the requests");
    let start = Instant::now();
    let numbers = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let numbers = Arc::clone(&numbers);
        tasks.spawn(async move {
            let mut all = Vec::new();
            let end = plan.warm_up.saturating_add(plan.duration);
            loop {
                let sent = start.elapsed();
                if sent >= end {
                    return all;
                }
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let exchange = async {
                    match connection.request(number).await {
                        Ok(()) => Outcome::Answered,
                        Err(Failed) => Outcome::Failed,
                    }
                };
                let outcome = until(start, sent, plan, exchange).await;
                all.push((sent, start.elapsed(), outcome));
                consume_budget().await;
            }
        });
    }
    let mut report = Report::new(plan);
    while let Some(ended) = tasks.join_next().await {
        let all = ended.unwrap_or_else(|e| resume_unwind(e.into_panic()));
        for (due, ended, outcome) in all {
            report.record(due, ended, outcome);
        }
    }
    report
}

type Ended = (Duration, Duration, Outcome);

async fn until(
    start: Instant,
    due: Duration,
    plan: Plan,
    exchange: impl Future<Output = Outcome>,
) -> Outcome {
    match (start + due).checked_add(plan.timeout) {
        None => exchange.await,
        Some(at) => timeout_at(at, exchange).await.unwrap_or(Outcome::TimedOut),
    }
}

/// Returns when a request is due, after the start of the run.
pub fn due(rate: NonZero<u64>, number: u64) -> Duration {
    let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate.get());
    let seconds = nanos / 1_000_000_000;
    Duration::new(seconds as u64, (nanos % 1_000_000_000) as u32)
}

impl Report {
    /// Creates a report without requests.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            latencies: Vec::new(),
            answered_in_duration: 0,
            failed: 0,
            timed_out: 0,
        }
    }

    fn add(&mut self, ended: Result<Ended, JoinError>) {
        match ended {
            Ok((due, ended, outcome)) => self.record(due, ended, outcome),
            Err(error) => resume_unwind(error.into_panic()),
        }
    }

    /// Records a request. The times count from the start of the run.
    pub fn record(&mut self, due: Duration, ended: Duration, outcome: Outcome) {
        let end = self.plan.warm_up.saturating_add(self.plan.duration);
        let latency = ended.saturating_sub(due);
        if !(self.plan.warm_up..end).contains(&due) {
        } else if outcome == Outcome::TimedOut || latency > self.plan.timeout {
            self.timed_out += 1;
        } else if outcome == Outcome::Failed {
            self.failed += 1;
        } else {
            self.latencies.push(latency);
            self.answered_in_duration += u64::from(ended <= end);
        }
    }

    /// Adds the requests of another generator that ran at the same time.
    pub fn merge(&mut self, other: &Self) {
        self.latencies.extend(&other.latencies);
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
        self.latencies.len() as u64
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
        if self.plan.duration.is_zero() {
            return 0.0;
        }
        self.answered_in_duration as f64 / self.plan.duration.as_secs_f64()
    }

    /// Returns the latency within which `p` percent of the requests were
    /// answered. Returns `None` if fewer were answered, or if there are none.
    pub fn percentile(&self, p: f64) -> Option<Duration> {
        let mut latencies = self.latencies.clone();
        let rank = (p / 100.0 * self.requests() as f64).ceil() as usize;
        let index = rank.saturating_sub(1);
        (index < latencies.len())
            .then(|| *latencies.select_nth_unstable(index).1)
    }
}

/// Returns how much a percentile differs between runs, or `None` without runs.
pub fn spread(runs: &[Report], p: f64) -> Option<Spread> {
    // `Err` is greater than `Ok`.
    let values = runs.iter().map(|run| run.percentile(p).ok_or(()));
    let mut values: Vec<_> = values.collect();
    values.sort();
    let last = values.len().checked_sub(1)?;
    let [min, median, max] =
        [0, values.len() / 2, last].map(|index| values[index].ok());
    Some(Spread { min, median, max })
}
