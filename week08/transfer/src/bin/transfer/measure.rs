//! Measures the throughput and the latency of each pattern, without chaos,
//! against two bare local transactions.

use std::collections::HashMap;
use std::num::NonZero;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use lab::ratio::Ratio;
use lab::servers::Postgres;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use week08::money::Transfer;

use crate::cpu;
use crate::fleet::{Fleet, Note, Receiver};
use crate::pattern::{Pattern, Role, name};
use crate::print;
use crate::report::Mode;
use crate::wire::Caller;
use crate::world::{FROM, SETTINGS, TO, World};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The transfers that are made at the same time. Each client waits until its
    /// transfer is credited.
    #[arg(long, default_value = "64")]
    in_flight: NonZero<usize>,
    /// The rounds, at least six. A round measures each pattern once.
    #[arg(long, default_value = "12")]
    rounds: usize,
    /// The length of a measurement in seconds.
    #[arg(long, default_value = "1")]
    seconds: NonZero<u64>,
    /// Each commit waits for the disk that `TMPDIR` is on.
    #[arg(long)]
    sync: bool,
}

/// The patterns, and first the limit that they are compared with.
const PATTERNS: [Pattern; 5] = [
    Pattern::Bare,
    Pattern::Outbox,
    Pattern::Tail,
    Pattern::Half,
    Pattern::Tcc,
];

/// The processes run for so long before the measurement.
const WARM_UP: Duration = Duration::from_millis(500);

/// A transfer that takes longer is a fault.
const LIMIT: Duration = Duration::from_secs(20);

const SYNC: [&str; 2] = ["fsync=on", "full_page_writes=on"];

struct Run {
    per_second: f64,
    /// In microseconds, from the request to the credit.
    latencies: Histogram<u64>,
    /// The CPU time of a transfer in milliseconds, of all processes together.
    cpu: f64,
}

/// What the clients of a run share.
struct Clients {
    pattern: Pattern,
    entry: Caller,
    savings: Caller,
    next: AtomicU64,
    credits: Mutex<HashMap<u64, oneshot::Sender<()>>>,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let rounds = options.rounds;
    ensure!(rounds >= 6, "expected at least six rounds, got {rounds}");
    let server = server(options.sync)?;
    let mut runs: Vec<Vec<Run>> = PATTERNS.map(|_| Vec::new()).into();
    for round in 0..rounds {
        for i in 0..PATTERNS.len() {
            // Another order in each round.
            let i = (i + round) % PATTERNS.len();
            let url = server.url();
            let world = World::new(PATTERNS[i], &url)?;
            world.create().await?;
            let run = measure(&world, options).await?;
            world.delete().await?;
            eprintln!(
                "round {} of {rounds}: {}, {:.0} transfers a second",
                round + 1,
                name(&PATTERNS[i]),
                run.per_second
            );
            runs[i].push(run);
        }
    }
    print::line(format_args!(
        "{} transfers in flight, {rounds} rounds of {} s; commits {}. \
         Throughput and CPU\nare ratios to {} in the same round.\n",
        options.in_flight,
        options.seconds,
        if options.sync { "wait for the disk" } else { "do not wait" },
        name(&PATTERNS[0]),
    ))?;
    print::line(
        "| Pattern | Transfers a second | p50, p99 in ms | Throughput | CPU |\n\
         |---------|--------------------|----------------|------------|-----|",
    )?;
    for (pattern, all) in PATTERNS.iter().zip(&runs) {
        let ratio = |of: fn(&Run) -> f64| {
            let ratios = all.iter().zip(&runs[0]).map(|(a, b)| of(a) / of(b));
            Ratio::of(&ratios.collect::<Vec<_>>())
        };
        let mut speeds: Vec<_> = all.iter().map(|run| run.per_second).collect();
        speeds.sort_by(f64::total_cmp);
        let mut latencies = Histogram::new(3)?;
        for run in all {
            latencies.add(&run.latencies)?;
        }
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        print::line(format_args!(
            "| {} | {:.0} | {:.1}, {:.1} | {} | {} |",
            name(pattern),
            speeds[speeds.len() / 2],
            ms(0.5),
            ms(0.99),
            ratio(|run| run.per_second),
            ratio(|run| run.cpu),
        ))?;
    }
    Ok(())
}

/// Starts a server. If `sync` is true, each commit waits for the disk.
pub(crate) fn server(sync: bool) -> Result<Postgres> {
    let mut settings = SETTINGS.to_vec();
    settings.extend(SYNC.iter().filter(|_| sync));
    let server = Postgres::start_with(&settings);
    server.context("Postgres does not start")
}

async fn measure(world: &World, options: &Options) -> Result<Run> {
    let pattern = world.pattern;
    let (_fleet, _, notes) =
        Fleet::start(world, Mode::Credits, HashMap::new())?;
    for role in pattern.servers() {
        Caller::new(world.dir.path(), *role).wait_until_up().await?;
    }
    let clients = Arc::new(Clients {
        pattern,
        entry: Caller::new(world.dir.path(), pattern.entry()),
        savings: Caller::new(world.dir.path(), Role::Savings),
        next: AtomicU64::new(1),
        credits: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(receive(Arc::clone(&clients), notes));
    // The first transfer waits until the consumer has joined its group.
    clients.transfer().await?;
    let start = Instant::now() + WARM_UP;
    let end = start + Duration::from_secs(options.seconds.get());
    let mut running = JoinSet::new();
    for _ in 0..options.in_flight.get() {
        let clients = Arc::clone(&clients);
        running.spawn(async move { clients.transfer_until(start, end).await });
    }
    sleep_until(start.into()).await;
    let used = cpu::used(process::id());
    sleep_until(end.into()).await;
    let used =
        cpu::used(process::id()).zip(used).map(|(end, start)| end - start);
    let mut latencies = Histogram::new(3)?;
    while let Some(result) = running.join_next().await {
        latencies.add(result??)?;
    }
    let number = latencies.len() as f64;
    let per_second = number / (end - start).as_secs_f64();
    let cpu = used.map_or(f64::NAN, |used| used.as_secs_f64()) * 1e3 / number;
    Ok(Run { per_second, latencies, cpu })
}

/// Wakes the clients whose transfers are credited.
async fn receive(clients: Arc<Clients>, mut notes: Receiver<Note>) {
    while let Some(note) = notes.recv().await {
        let Note::Report(_, line) = note else { continue };
        let id = line.parse().unwrap_or_default();
        if let Some(waiting) = clients.credits().remove(&id) {
            let _ = waiting.send(());
        }
    }
}

impl Clients {
    /// Makes transfers, and returns the latencies of those that are credited
    /// between both times.
    async fn transfer_until(
        &self,
        start: Instant,
        end: Instant,
    ) -> Result<Histogram<u64>> {
        let mut latencies = Histogram::new(3)?;
        loop {
            let requested = Instant::now();
            if requested >= end {
                return Ok(latencies);
            }
            self.transfer().await?;
            let credited = Instant::now();
            if (start..end).contains(&credited) {
                let latency = (credited - requested).as_micros();
                latencies.record(latency.try_into()?)?;
            }
        }
    }

    /// Makes one transfer, and returns when it is credited.
    async fn transfer(&self) -> Result<()> {
        let id = self.next.fetch_add(1, Relaxed);
        let account = |range: std::ops::Range<u64>| {
            range.start + id % (range.end - range.start)
        };
        let (from, to) = (account(FROM), account(TO));
        let cents = NonZero::<u32>::MIN;
        let request = Transfer { id, from, to, cents }.to_string();
        let (sender, credited) = oneshot::channel();
        self.credits().insert(id, sender);
        let answer = self.entry.call(&request).await?;
        ensure!(
            ["ok", "Accepted", "Accept"].contains(&&answer[..]),
            "{answer}"
        );
        if self.pattern == Pattern::Bare {
            self.savings.call(&request).await?;
            self.credits().remove(&id);
        } else {
            timeout(LIMIT, credited).await??;
        }
        Ok(())
    }

    fn credits(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.credits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
