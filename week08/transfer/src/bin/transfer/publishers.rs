//! Compares a relay that polls the outbox with a tailer of the log: how long
//! does a message take, and how busy is the database?
//!
//! Messages are inserted at fixed times, whether or not the earlier ones are
//! published: an open loop. The latency of a message begins when its commit is
//! answered, and ends when Kafka acknowledges the message. The same inserts
//! without a publisher show what the publisher adds to the load.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use lab::ratio::Ratio;
use lab::servers::Postgres;
use rdkafka::producer::FutureProducer;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use week08::money::{Message, Table, Transfer, Tx as _};
use week08_transfer::sql::{Ledger, SqlTx};
use week08_transfer::tail::{self, Publisher};

use crate::child::now_s;
use crate::outbox::{poll, publish};
use crate::pattern::{Pattern, Role};
use crate::world::{FROM, TO, World};
use crate::{cpu, kafka, measure, print, tailer};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The rounds, at least six. A round measures each publisher at each rate.
    #[arg(long, default_value = "6")]
    rounds: usize,
    /// The length of a measurement in seconds.
    #[arg(long, default_value = "3")]
    seconds: NonZero<u64>,
    /// Each commit waits for the disk that `TMPDIR` is on.
    #[arg(long)]
    sync: bool,
}

/// What publishes the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing: the inserts alone.
    None,
    /// A relay with a pause.
    Relay(Duration),
    /// A tailer.
    Tailer,
}

const KINDS: [Kind; 4] = [
    Kind::None,
    Kind::Relay(Duration::from_millis(10)),
    Kind::Relay(Duration::from_millis(100)),
    Kind::Tailer,
];

/// The messages a second.
const RATES: [u32; 4] = [0, 10, 100, 1_000];

/// Messages are sent for so long before the measurement.
const WARM_UP: Duration = Duration::from_millis(500);

/// How often the end of the backends is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// A message that takes longer is a fault.
const LIMIT: Duration = Duration::from_secs(60);

/// What a measurement has found.
struct Run {
    /// In microseconds, from the commit to the acknowledgment.
    latencies: Histogram<u64>,
    /// The messages that were committed, in each second.
    committed: f64,
    /// The CPU time of all processes of the server, in milliseconds a second.
    cpu: f64,
    /// The transactions.
    commits: f64,
    /// The seconds until the last message was acknowledged.
    time: f64,
}

/// When messages were committed and acknowledged.
#[derive(Default)]
struct Times {
    committed: Mutex<HashMap<u64, Instant>>,
    acknowledged: watch::Sender<HashMap<u64, Instant>>,
}

/// Kafka, and the times of its acknowledgments.
struct Timed {
    producer: FutureProducer,
    times: Arc<Times>,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let rounds = options.rounds;
    ensure!(rounds >= 6, "expected at least six rounds, got {rounds}");
    let server = measure::server(options.sync)?;
    let all: Vec<_> =
        RATES.iter().flat_map(|rate| KINDS.map(|kind| (*rate, kind))).collect();
    // The transactions of a run before its first message is due.
    let mut setups = Vec::new();
    for kind in KINDS {
        let run = measure(&server, kind, 0, Duration::ZERO, Duration::ZERO);
        setups.push(run.await?.commits);
    }
    let time = Duration::from_secs(options.seconds.get());
    let mut runs: Vec<Vec<Run>> = all.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for i in 0..all.len() {
            // Another order in each round.
            let i = (i + round * (KINDS.len() + 1)) % all.len();
            let (rate, kind) = all[i];
            let mut run = measure(&server, kind, rate, WARM_UP, time).await?;
            run.commits -= setups[i % KINDS.len()];
            eprintln!(
                "round {} of {rounds}: {kind}, {rate} messages a second",
                round + 1
            );
            runs[i].push(run);
        }
    }
    print::line(format_args!(
        "{rounds} rounds of {} s; commits {}.\n\
         A latency begins when the commit is answered. It is 0 if Kafka's \
         acknowledgment\ncomes earlier.\n",
        options.seconds,
        if options.sync { "wait for the disk" } else { "do not wait" }
    ))?;
    print::line(
        "| Messages a second | Publisher | p50, p99 in ms | CPU in ms a second \
         | Transactions a second |\n\
         |-------------------|-----------|----------------|--------------------\
         |-----------------------|",
    )?;
    for ((rate, kind), runs) in all.iter().zip(&runs) {
        let cpu: Vec<_> = runs.iter().map(|run| run.cpu).collect();
        let Ratio { median, low, high } = Ratio::of(&cpu);
        let mut latencies = Histogram::<u64>::new(3)?;
        for run in runs {
            latencies.add(&run.latencies)?;
        }
        let ms = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        let latency = match latencies.len() {
            0 => "–".to_owned(),
            _ => format!("{:.1}, {:.1}", ms(0.5), ms(0.99)),
        };
        print::line(format_args!(
            "| {rate} | {kind} | {latency} | {median:.0} ({low:.0} to \
             {high:.0}) | {:.0} |",
            median_of(runs, |run| run.commits / run.time),
        ))?;
        let committed = median_of(runs, |run| run.committed);
        if committed < f64::from(*rate) * 0.95 {
            eprintln!("only {committed:.0} of {rate} messages were committed");
        }
    }
    Ok(())
}

fn median_of(runs: &[Run], of: fn(&Run) -> f64) -> f64 {
    let mut values: Vec<_> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure(
    server: &Postgres,
    kind: Kind,
    rate: u32,
    warm_up: Duration,
    time: Duration,
) -> Result<Run> {
    let pattern = match kind {
        Kind::None | Kind::Relay(_) => Pattern::Outbox,
        Kind::Tailer => Pattern::Tail,
    };
    let world = World::new(pattern, &server.url())?;
    world.create().await?;
    let url = world.url(Role::Payment)?;
    let database = url.rsplit_once('/').context("it names a database")?.1;
    let before = commits(server, database).await?;
    let times = Arc::new(Times::default());
    let stop = CancellationToken::new();
    let timed = Timed {
        producer: kafka::producer(world.kafka())?,
        times: Arc::clone(&times),
    };
    let publishing = async {
        match kind {
            Kind::None => {
                stop.cancelled().await;
                Ok(())
            }
            Kind::Relay(pause) => {
                let ledger = Ledger::connect(&url).await?;
                let publish = async |text: &str| timed.publish(text).await;
                let polling = poll(&ledger, pause, publish, async |_| ());
                tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    never = polling => never,
                }
            }
            Kind::Tailer => {
                let config = tailer::config(&url)?;
                Ok(tail::run(config, &timed, stop.clone()).await?)
            }
        }
    };
    let sending = async {
        let ledger = Ledger::connect(&url).await?;
        let sender = Sender { ledger, kind, times: Arc::clone(&times) };
        let run = sender.run(server, rate, warm_up, time).await;
        stop.cancel();
        run
    };
    let ((), mut run) = tokio::try_join!(publishing, sending)?;
    run.commits = commits(server, database).await? - before;
    world.delete().await?;
    Ok(run)
}

/// Inserts messages.
#[derive(Clone)]
struct Sender {
    ledger: Ledger,
    kind: Kind,
    times: Arc<Times>,
}

impl Sender {
    /// Inserts messages for `warm_up`, and then measures for `time`.
    async fn run(
        &self,
        server: &Postgres,
        rate: u32,
        warm_up: Duration,
        time: Duration,
    ) -> Result<Run> {
        // The measurement begins when the publisher is at work.
        self.insert(0).await?;
        self.wait_until_acknowledged(1).await?;
        let begin = Instant::now();
        let (start, end) = (begin + warm_up, begin + warm_up + time);
        let sending = self.insert_until(end, rate);
        let postmaster = postmaster(server);
        let measuring = async {
            sleep_until(start).await;
            let first = postmaster.and_then(cpu::used);
            sleep_until(end).await;
            let last = postmaster.and_then(cpu::used);
            last.zip(first).map(|(last, first)| last - first)
        };
        let (sent, used) = tokio::join!(sending, measuring);
        sent?;
        let mut latencies = Histogram::new(3)?;
        let mut number = 0;
        let acknowledged = self.times.acknowledged.borrow();
        for (id, committed) in self.times.committed().iter() {
            if !(start..end).contains(committed) {
                continue;
            }
            number += 1;
            if let Some(acknowledged) = acknowledged.get(id) {
                // It may be zero: the tailer can be faster than the answer.
                let latency =
                    acknowledged.saturating_duration_since(*committed);
                latencies.record(latency.as_micros().try_into()?)?;
            }
        }
        let cpu = used.map_or(f64::NAN, |used| used.as_secs_f64()) * 1e3;
        Ok(Run {
            latencies,
            committed: f64::from(number) / time.as_secs_f64(),
            cpu: cpu / time.as_secs_f64(),
            commits: f64::NAN,
            time: begin.elapsed().as_secs_f64(),
        })
    }

    /// Inserts messages at fixed times, and waits until they are acknowledged.
    async fn insert_until(&self, end: Instant, rate: u32) -> Result<()> {
        let mut tasks = JoinSet::new();
        let mut due = Instant::now();
        let mut number = 0;
        while let Some(rate) = NonZero::new(rate)
            && due < end
        {
            sleep_until(due).await;
            number += 1;
            let sender = self.clone();
            tasks.spawn(async move { sender.insert(number).await });
            due += Duration::from_secs(1) / rate.get();
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        sleep_until(end).await;
        self.wait_until_acknowledged(number as usize + 1).await
    }

    /// Commits one message.
    async fn insert(&self, id: u64) -> Result<()> {
        let cents = NonZero::<u32>::MIN;
        let from = FROM.start + id % (FROM.end - FROM.start);
        let transfer = Transfer { id, from, to: TO.start, cents };
        let message = Message { debited_s: now_s(), transfer };
        let (key, value) = (id.to_string(), message.to_string());
        let body = async |tx: &mut SqlTx| {
            tx.insert(Table::Outbox, &key, &value).await?;
            // As each pattern does.
            if !matches!(self.kind, Kind::Relay(_)) {
                tx.delete(Table::Outbox, &key).await?;
            }
            Ok(())
        };
        self.ledger.transaction(body).await?;
        self.times.committed().insert(id, Instant::now());
        Ok(())
    }

    async fn wait_until_acknowledged(&self, number: usize) -> Result<()> {
        if self.kind == Kind::None {
            return Ok(());
        }
        let mut acknowledged = self.times.acknowledged.subscribe();
        let wait = acknowledged.wait_for(|all| all.len() >= number);
        timeout(LIMIT, wait).await.context("a message is not published")??;
        Ok(())
    }
}

impl Times {
    fn committed(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Instant>> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timed {
    async fn publish(&self, text: &str) -> Option<u64> {
        let id = publish(&self.producer, text).await?;
        let now = Instant::now();
        self.times.acknowledged.send_modify(|all| {
            all.entry(id).or_insert(now);
        });
        Some(id)
    }
}

impl Publisher for Timed {
    async fn publish(&self, message: week08::tailer::Message) -> bool {
        Timed::publish(self, &message.value).await.is_some()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Relay(pause) => write!(f, "relay, {pause:?}"),
            Self::Tailer => f.write_str("tailer"),
        }
    }
}

/// Returns the transactions of a database that are committed. A backend counts
/// them for certain when it ends, so this waits until all have ended.
async fn commits(server: &Postgres, database: &str) -> Result<f64> {
    let backends = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
    );
    let wait = async {
        while server.psql(&backends)?.trim() != "0" {
            sleep(PAUSE).await;
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, wait).await.context("a backend does not end")??;
    let commits = format!(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = '{database}'"
    );
    Ok(server.psql(&commits)?.trim().parse()?)
}

/// Returns the process that is the parent of all others of the server.
fn postmaster(server: &Postgres) -> Option<u32> {
    let mut lock = server.socket().into_os_string();
    lock.push(".lock");
    fs::read_to_string(lock).ok()?.lines().next()?.parse().ok()
}
