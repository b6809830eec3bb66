//! Sends requests at a fixed rate, whatever the server does (an open loop).
//!
//! **Question.** How long do users wait if a service is slow for a moment?
//!
//! **Idea.** Users do not wait for each other. So each request has a time at
//! which it is due, and is sent then, also if earlier ones have no answer. Its
//! latency counts from that time, not from the time at which the generator has
//! sent it.
//!
//! **Guarantee.** A pause of the server or of the generator is part of the
//! latency of all requests that were due in it. A generator that waits for an
//! answer before it sends the next request would send one request in the pause,
//! and would report one slow request: this is called coordinated omission.
//!
//! **Cost.** A task for each request in flight. If the server never answers,
//! they pile up, so a request needs a time limit of its own.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

/// The requests that are sent.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Requests per second.
    pub rate: f64,
    /// The time in which requests become due.
    pub duration: Duration,
}

/// How a request has ended, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client has the answer that it wanted.
    Served,
    /// The client was told that it gets no answer.
    Refused,
    /// The client gave up, or got an error.
    Failed,
}

/// What happened to the requests.
#[derive(Debug)]
pub struct Report {
    /// The time from when the first request was due to when the last one ended.
    pub elapsed: Duration,
    /// The number of requests that were served before the last one was due.
    served_in_time: u64,
    /// How late requests were sent.
    lateness: Histogram<u64>,
    served: Histogram<u64>,
    refused: Histogram<u64>,
    failed: Histogram<u64>,
}

/// Sends `load`, and waits until all requests have ended. `request` gets the
/// number of the request, from zero.
///
/// A progress bar is shown if the standard error is a terminal.
///
/// # Cancel safety
///
/// Dropping the future drops all requests in flight.
///
/// # Panics
///
/// Panics if `request` or its future panics, or if the rate is not positive.
pub async fn send<F>(
    load: Load,
    name: &str,
    mut request: impl FnMut(u64) -> F,
) -> Report
where
    F: Future<Output = Outcome> + Send + 'static,
{
    assert!(load.rate > 0.0, "the rate is {}", load.rate);
    let bar = progress_bar(load.duration, name);
    let start = Instant::now();
    let mut report = Report::new();
    let mut in_flight = JoinSet::new();
    let mut number = 0;
    loop {
        // Not the gap times the number: its rounding would add up.
        let after = Duration::from_secs_f64(number as f64 / load.rate);
        if after >= load.duration {
            break;
        }
        let due = start + after;
        // Due requests are sent together, also if the timer was late.
        if due > Instant::now() {
            sleep_until(due).await;
        } else {
            // On a runtime with one thread, the requests need a turn.
            yield_now().await;
        }
        report.lateness.saturating_record(micros(due.elapsed()));
        let future = request(number);
        in_flight.spawn(async move {
            let outcome = future.await;
            (outcome, due.elapsed(), start.elapsed() <= load.duration)
        });
        number += 1;
        while let Some(ended) = in_flight.try_join_next() {
            report.record(ended.expect("no request panics"));
        }
        bar.set_position(millis(start.elapsed()));
    }
    while let Some(ended) = in_flight.join_next().await {
        report.record(ended.expect("no request panics"));
    }
    bar.finish_and_clear();
    report.elapsed = start.elapsed();
    report
}

impl Report {
    fn new() -> Self {
        // From 1 µs to a minute, with an error of at most 1 %.
        let histogram = || {
            Histogram::new_with_bounds(1, 60_000_000, 2)
                .expect("the bounds are valid")
        };
        Self {
            elapsed: Duration::ZERO,
            served_in_time: 0,
            lateness: histogram(),
            served: histogram(),
            refused: histogram(),
            failed: histogram(),
        }
    }

    fn record(&mut self, (outcome, latency, in_time): Ended) {
        if outcome == Outcome::Served && in_time {
            self.served_in_time += 1;
        }
        self.of_mut(outcome).saturating_record(micros(latency));
    }

    /// Returns the number of requests that ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.of(outcome).len()
    }

    /// Returns a quantile of the latencies, from the time when requests were
    /// due. Returns `None` if no request ended so.
    #[must_use]
    pub fn quantile(&self, outcome: Outcome, q: f64) -> Option<Duration> {
        let histogram = self.of(outcome);
        let micros = histogram.value_at_quantile(q);
        (!histogram.is_empty()).then(|| Duration::from_micros(micros))
    }

    /// Returns the number of requests that were served per second, in the time
    /// in which requests became due.
    #[must_use]
    pub fn goodput(&self, load: Load) -> f64 {
        self.served_in_time as f64 / load.duration.as_secs_f64()
    }

    /// Returns a quantile of the time by which requests were sent too late. If
    /// it is long, the generator is the bottleneck, and not the server.
    #[must_use]
    pub fn lateness(&self, q: f64) -> Duration {
        Duration::from_micros(self.lateness.value_at_quantile(q))
    }

    fn of(&self, outcome: Outcome) -> &Histogram<u64> {
        match outcome {
            Outcome::Served => &self.served,
            Outcome::Refused => &self.refused,
            Outcome::Failed => &self.failed,
        }
    }

    fn of_mut(&mut self, outcome: Outcome) -> &mut Histogram<u64> {
        match outcome {
            Outcome::Served => &mut self.served,
            Outcome::Refused => &mut self.refused,
            Outcome::Failed => &mut self.failed,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |outcome| self.count(outcome);
        write!(
            f,
            "{} served, {} refused, {} failed",
            count(Outcome::Served),
            count(Outcome::Refused),
            count(Outcome::Failed)
        )?;
        if let Some(p99) = self.quantile(Outcome::Served, 0.99) {
            write!(f, ", p99 {p99:?}")?;
        }
        Ok(())
    }
}

fn progress_bar(duration: Duration, name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:24} {wide_bar} {elapsed}")
        .expect("the template is valid");
    let bar = ProgressBar::new(millis(duration)).with_style(style);
    bar.set_message(name.to_owned());
    bar
}

/// The outcome of a request, its latency, and whether it has ended before the
/// last request was due.
type Ended = (Outcome, Duration, bool);

/// Returns a number that a histogram accepts.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::task::Poll;

    use tokio::sync::Mutex;
    use tokio::time::sleep;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn each_request_is_sent_when_it_is_due() {
        let start = Instant::now();
        let load = Load { rate: 100.0, duration: 1000 * MS };
        let mut sent = Vec::new();
        let report = send(load, "test", |number| {
            sent.push((number, start.elapsed()));
            async {
                // Longer than the gap: an open loop does not wait for it.
                sleep(35 * MS).await;
                Outcome::Served
            }
        })
        .await;
        let due = (0..100).map(|n| (n, 10 * MS * n as u32));
        assert_eq!(sent, due.collect::<Vec<_>>());
        assert_eq!(report.count(Outcome::Served), 100);
        let median = report.quantile(Outcome::Served, 0.5).expect("some");
        assert!(median.abs_diff(35 * MS) <= MS, "{median:?}");
        // The last ones were answered after the time in which they were due.
        assert_eq!(report.goodput(load), 97.0);
        assert!(report.lateness(1.0) <= MS, "{:?}", report.lateness(1.0));
    }

    /// A server that pauses for half a second, once.
    #[tokio::test(start_paused = true)]
    async fn a_pause_counts_for_all_requests_that_were_due_in_it() {
        let server = Arc::new(Mutex::new(()));
        let load = Load { rate: 100.0, duration: 1000 * MS };
        let report = send(load, "test", |number| {
            let server = Arc::clone(&server);
            async move {
                let _guard = server.lock().await;
                if number == 10 {
                    sleep(500 * MS).await;
                }
                Outcome::Served
            }
        })
        .await;
        // 50 requests were due in the pause. Half of them waited for 250 ms or
        // more, and these are a quarter of all.
        let quantile = |q| report.quantile(Outcome::Served, q).expect("some");
        assert!(quantile(0.49) <= MS, "{:?}", quantile(0.49));
        let three_quarters = quantile(0.75);
        assert!(three_quarters.abs_diff(250 * MS) <= 20 * MS);
        assert!(quantile(1.0).abs_diff(500 * MS) <= 10 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_generator_counts_for_all_requests_in_it() {
        let load = Load { rate: 100.0, duration: 1000 * MS };
        let sending = send(load, "test", async |_| Outcome::Served);
        let mut sending = std::pin::pin!(sending);
        let first = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx)));
        assert!(first.await.is_pending());
        // Nothing polls the generator meanwhile.
        tokio::time::advance(500 * MS).await;
        let report = sending.await;
        let longest = report.quantile(Outcome::Served, 1.0).expect("some");
        assert!(longest.abs_diff(490 * MS) <= 15 * MS, "{longest:?}");
        let late = report.lateness(1.0);
        assert!(late.abs_diff(490 * MS) <= 15 * MS, "{late:?}");
        assert_eq!(report.count(Outcome::Served), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn outcomes_are_counted_apart() {
        let load = Load { rate: 9.0, duration: 1000 * MS };
        let kinds = [Outcome::Served, Outcome::Refused, Outcome::Failed];
        let report = send(load, "test", |number| {
            let kind = number as usize / 3;
            async move {
                sleep(10 * MS * (kind as u32 + 1)).await;
                kinds[kind]
            }
        })
        .await;
        for (index, kind) in kinds.into_iter().enumerate() {
            assert_eq!(report.count(kind), 3, "{kind:?}");
            let latency = report.quantile(kind, 0.5).expect("some");
            let expected = 10 * MS * (index as u32 + 1);
            assert!(latency.abs_diff(expected) <= 2 * MS, "{latency:?}");
        }
        assert_eq!(Report::new().quantile(Outcome::Served, 0.5), None);
    }
}
