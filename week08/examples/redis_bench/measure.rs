//! How is a kind of command measured? In several runs, by both tools in turn.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lab::ratio::Ratio;
use week08::percentiles::{Plan, Report, Spread, closed_loop, open_loop};

use crate::client::{Client, Kind, Tally};
use crate::target::{self, Target};
use crate::{cpu, peer};

/// The percentiles of [`Latencies`].
pub(crate) const PERCENTILES: [(&str, f64); 4] =
    [("p50", 50.0), ("p95", 95.0), ("p99", 99.0), ("max", 100.0)];

/// Indices of [`PERCENTILES`].
pub(crate) const P50: usize = 0;
pub(crate) const P99: usize = 2;
pub(crate) const MAX: usize = 3;

/// A latency for each percentile, or `None` if fewer requests were answered.
pub(crate) type Latencies = [Option<Duration>; PERCENTILES.len()];

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) connections: usize,
    pub(crate) runs: usize,
    pub(crate) plan: Plan,
    /// Commands per second of an open loop, or `None` for a closed loop.
    pub(crate) rate: Option<NonZero<u64>>,
    /// Whether redis-benchmark runs too.
    pub(crate) with_peer: bool,
}

/// A tool, and all its results for one kind of command.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) kind: Kind,
    pub(crate) tool: &'static str,
    pub(crate) runs: Vec<Run>,
}

#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Commands per second that were answered.
    pub(crate) throughput: f64,
    pub(crate) latencies: Latencies,
    /// The number of commands that were answered, also in the warm-up.
    pub(crate) operations: u64,
    /// The number of commands without an answer in time, after the warm-up.
    pub(crate) timed_out: u64,
    /// The processor time of the client, if it is known.
    pub(crate) client: Option<Duration>,
    /// The processor time of the server.
    pub(crate) server: Duration,
}

impl Settings {
    /// Returns the length of a run.
    pub(crate) fn length(&self) -> Duration {
        self.plan.warm_up + self.plan.duration
    }
}

/// Measures commands of this kind. The tools take turns, so a load of the
/// machine that lasts longer than a run slows both. `step` is called after each
/// run.
pub(crate) async fn measure(
    target: &Target,
    kind: Kind,
    settings: &Settings,
    step: impl Fn(),
) -> anyhow::Result<Vec<Measured>> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for number in 0..settings.runs {
        if number % 2 == 0 {
            ours.push(run(target, kind, settings).await?);
            step();
        }
        if settings.with_peer {
            // As many as this tool sends in the same time.
            let throughput = ours.last().map_or(0.0, |run| run.throughput);
            let operations = throughput * settings.length().as_secs_f64();
            let operations = (operations as u64).max(1000);
            theirs.push(run_peer(target, kind, settings, operations).await?);
            step();
        }
        if number % 2 == 1 {
            ours.push(run(target, kind, settings).await?);
            step();
        }
    }
    let mut measured = vec![Measured { kind, tool: "redis_bench", runs: ours }];
    if settings.with_peer {
        let tool = "redis-benchmark";
        measured.push(Measured { kind, tool, runs: theirs });
    }
    Ok(measured)
}

/// # Errors
///
/// When a reply is not as expected. If requests time out, they are counted.
pub(crate) async fn run(
    target: &Target,
    kind: Kind,
    settings: &Settings,
) -> anyhow::Result<Run> {
    let mut control = target.control()?;
    let server_before = target::server_cpu(&mut control)?;
    let client_before = cpu::of_this_process();
    let tally = Arc::<Tally>::default();
    let mut clients = Vec::with_capacity(settings.connections);
    for number in 0..settings.connections {
        let (node, tally) = (target.node(number), Arc::clone(&tally));
        let client = Client::connect(node, &target.keys, kind, tally);
        clients.push(client.await?);
    }
    let depth = kind.depth as u64;
    let report = match settings.rate {
        None => closed_loop(settings.plan, clients).await,
        Some(rate) => {
            let batches = NonZero::new(rate.get() / depth);
            let batches = batches.context("a batch needs a higher rate")?;
            open_loop(batches, settings.plan, clients).await
        }
    };
    let client = cpu::of_this_process() - client_before;
    let server = target::server_cpu(&mut control)?;
    let server = server.saturating_sub(server_before);
    if let Some(problem) = tally.first_problem() {
        let failed = report.failed();
        bail!("{failed} requests failed; first problem: {problem}");
    }
    Ok(Run {
        throughput: report.throughput() * depth as f64,
        latencies: latencies(&report),
        operations: tally.answered(),
        timed_out: report.timed_out() * depth,
        client: Some(client),
        server,
    })
}

async fn run_peer(
    target: &Target,
    kind: Kind,
    settings: &Settings,
    operations: u64,
) -> anyhow::Result<Run> {
    let mut control = target.control()?;
    let server_before = target::server_cpu(&mut control)?;
    let client_before = cpu::of_children();
    let Target { keys, .. } = target;
    let server = &target.node(0).server;
    let result = peer::run(server, keys, kind, settings, operations).await?;
    let client = cpu::of_children();
    let server = target::server_cpu(&mut control)?;
    let server = server.saturating_sub(server_before);
    Ok(Run {
        throughput: result.throughput,
        latencies: result.latencies,
        operations,
        timed_out: 0,
        client: client.zip(client_before).map(|(now, then)| now - then),
        server,
    })
}

fn latencies(report: &Report) -> Latencies {
    PERCENTILES.map(|(_, p)| report.percentile(p))
}

impl Measured {
    /// Returns the median, the lowest and the highest throughput of the runs.
    pub(crate) fn throughput(&self) -> [f64; 3] {
        middle(self.runs.iter().map(|run| run.throughput))
    }

    /// Returns how much a latency differs between runs.
    pub(crate) fn latency(&self, index: usize) -> Spread {
        let mut values: Vec<_> =
            self.runs.iter().map(|run| run.latencies[index]).collect();
        values.sort_unstable_by_key(|value| (value.is_none(), *value));
        Spread {
            min: values.first().copied().flatten(),
            median: values.get(values.len() / 2).copied().flatten(),
            max: values.last().copied().flatten(),
        }
    }

    /// Returns the processor time of the client in microseconds per operation.
    pub(crate) fn client_micros(&self) -> Option<f64> {
        let times: Option<Vec<_>> =
            self.runs.iter().map(|run| run.client).collect();
        Some(self.per_operation(times?.into_iter().sum()))
    }

    /// Returns the processor time of the server in microseconds per operation.
    pub(crate) fn server_micros(&self) -> f64 {
        self.per_operation(self.runs.iter().map(|run| run.server).sum())
    }

    pub(crate) fn timed_out(&self) -> u64 {
        self.runs.iter().map(|run| run.timed_out).sum()
    }

    fn per_operation(&self, time: Duration) -> f64 {
        let operations: u64 = self.runs.iter().map(|run| run.operations).sum();
        time.as_secs_f64() * 1e6 / operations.max(1) as f64
    }
}

/// Returns the ratio of the throughputs of the first and the second tool: the
/// median of the pairs of runs, and its 95 % interval. Fewer than six pairs
/// have no such interval, so the lowest and the highest ratio take its place.
pub(crate) fn ratio(first: &Measured, second: &Measured) -> [f64; 3] {
    let pairs = first.runs.iter().zip(&second.runs);
    let ratios = pairs.map(|(a, b)| a.throughput / b.throughput);
    if first.runs.len().min(second.runs.len()) < 6 {
        return middle(ratios);
    }
    let Ratio { median, low, high } = Ratio::of(&ratios.collect::<Vec<_>>());
    [median, low, high]
}

/// Returns the median, the lowest and the highest value.
fn middle(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    [at(values.len() / 2), at(0), at(values.len().saturating_sub(1))]
}
