//! One subject gets nine of ten reads. How many queries does the database get,
//! with each part of the service?
//!
//! ```console
//! $ cargo run --release -p week06 --example celebrity
//! $ cargo run --release -p week06 --example celebrity -- --figure queries
//! ```
//!
//! Without arguments, it takes a minute. It starts the service of this week five
//! times, and sends HTTP requests to it on loopback, each when it is due (an
//! open loop). Meanwhile, the celebrity gets ten comments a second. The database
//! is SQLite, and each query takes 10 ms longer than it does: that is the stated
//! cost of a query on a database of its own. The service runs eight at a time,
//! so the database answers at most 800 queries a second.
//!
//! With `--figure queries`, it prints an SVG file from a simulation in virtual
//! time: see `notes/pages/figures/week06`.

mod client;
mod figure;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use lab::guess;
use lab::load::{self, Load, Outcome, Report};
use lab::servers::{Redis, StartError};
use tempfile::TempDir;
use tokio::time::sleep;
use week05::simulator::Random;
use week06_service::comment::Comment;
use week06_service::invalidation::Bus;
use week06_service::page::Cursor;
use week06_service::reads::{Answer, Counts, Source};
use week06_service::service::{Config, Parts, Service};
use week06_service::store::Store;

use client::Client;

/// Reads per second.
const RATE: f64 = 2000.0;

const DURATION: Duration = Duration::from_secs(6);

/// How long a user waits.
const PATIENCE: Duration = Duration::from_millis(250);

/// What a query takes longer than in SQLite.
const QUERY: Duration = Duration::from_millis(10);

/// The time between two comments about the celebrity.
const WRITE_EVERY: Duration = Duration::from_millis(100);

/// Subject 0 is the celebrity's.
const SUBJECTS: u64 = 20_000;

/// The parts of each run.
const RUNS: [(&str, Parts); 5] = [
    ("none", Parts::NONE),
    ("local cache", Parts { local_cache: true, ..Parts::NONE }),
    ("single flight", Parts { singleflight: true, ..Parts::NONE }),
    ("redis", Parts { redis: true, ..Parts::NONE }),
    ("all", Parts { kafka: false, ..Parts::ALL }),
];

/// A database on which each query has its price.
struct Slow(Store);

/// A run, and its counts.
struct Measured {
    report: Report,
    counts: Counts,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => compare().await,
        ["--figure", "queries"] => {
            // A runtime of its own: its time is virtual.
            let svg = tokio::task::spawn_blocking(figure::queries).await?;
            print!("{svg}");
            Ok(())
        }
        _ => Err("usage: celebrity [--figure queries]".into()),
    }
}

async fn compare() -> Result<(), Box<dyn Error>> {
    println!(
        "{RATE} reads a second go to a process, nine of ten for one subject, \
         which gets ten\ncomments a second. The database can answer 800 queries \
         a second. A user waits for\n{PATIENCE:?}."
    );
    let guess = guess::ask(
        "\nReads of one subject that come at the same time are merged into one \
         query. How many\nqueries a second does the database get?",
    )?;
    println!(
        "\nparts          queries/s  without query  answered  failed  p50 ms  \
         p99 ms"
    );
    let mut merged = 0.0;
    let mut bars = Vec::new();
    for (name, parts) in RUNS {
        // A server for each run: the next one begins with an empty cache.
        let redis = match parts.redis.then(Redis::start) {
            Some(Err(error @ StartError::Missing(_))) => {
                println!("{name:13} {error}");
                continue;
            }
            started => started.transpose()?,
        };
        let Measured { report, counts } = run(name, parts, &redis).await?;
        let queries = counts.queries as f64 / DURATION.as_secs_f64();
        let all = (RATE * DURATION.as_secs_f64()).round();
        let percent = |count: u64| 100.0 * count as f64 / all;
        let ms = |q| match report.quantile(Outcome::Served, q) {
            Some(latency) => latency.as_millis().to_string(),
            None => "-".to_owned(),
        };
        println!(
            "{name:13} {queries:10.0} {:13.0}% {:8.0}% {:6.0}% {:>7} {:>7}",
            100.0 - percent(counts.queries),
            percent(report.count(Outcome::Served)),
            percent(
                report.count(Outcome::Failed) + report.count(Outcome::Refused)
            ),
            ms(0.5),
            ms(0.99),
        );
        if name == "single flight" {
            merged = queries;
        }
        bars.push((name, queries));
    }
    println!("\nqueries per second; the database can answer 800:\n");
    for (name, queries) in bars {
        println!(
            "{name:13} |{} {queries:.0}",
            "#".repeat(queries as usize / 20)
        );
    }
    println!(
        "\nWith single flight alone, the database gets {merged:.0} queries a \
         second.{}",
        guess::remark(guess.as_deref(), merged.round())
    );
    Ok(())
}

/// Starts the service with some of its parts, and sends the load.
async fn run(
    name: &str,
    parts: Parts,
    redis: &Option<Redis>,
) -> Result<Measured, Box<dyn Error>> {
    let dir = TempDir::new()?;
    let config = Config {
        address: ([127, 0, 0, 1], 0).into(),
        database: format!("sqlite:{}", dir.path().join("comments").display()),
        redis: redis.as_ref().map(Redis::url),
        kafka: None,
        parts,
        bus: Bus::default(),
        node: 0,
    };
    let slow = |store| Arc::new(Slow(store)) as Arc<dyn Source>;
    let service = Service::start_with(config, slow).await?;
    fill(service.store()).await?;

    let client = Client::new(service.address());
    let writer = tokio::spawn(write(client.clone()));
    let mut random = Random(2026);
    let load = Load { rate: RATE, duration: DURATION };
    let report = load::send(load, name, |_| {
        let celebrity = random.uniform() < 0.9;
        let other = 1 + (random.uniform() * (SUBJECTS - 1) as f64) as u64;
        let subject = if celebrity { 0 } else { other };
        let client = client.clone();
        async move { client.read(subject, PATIENCE).await }
    });
    let report = report.await;
    let counts = service.api().reads.counts();
    writer.abort();
    drop(client);
    service.stop().await?;
    Ok(Measured { report, counts })
}

/// Writes a comment about each subject, and 200 about the celebrity.
async fn fill(store: &Store) -> Result<(), Box<dyn Error>> {
    let comments = (0..SUBJECTS + 200).map(|id| Comment {
        id,
        subject: id.saturating_sub(200),
        author: id % 1000,
        text: format!("This is comment {id}."),
        created_ms: 1_700_000_000_000 + id,
    });
    let comments: Vec<_> = comments.collect();
    for batch in comments.chunks(2000) {
        store.insert(batch).await?;
    }
    Ok(())
}

/// Sends comments about the celebrity until it is aborted.
async fn write(client: Client) {
    loop {
        sleep(WRITE_EVERY).await;
        client.write(0, PATIENCE).await;
    }
}

impl Source for Slow {
    fn page(
        &self,
        subject: u64,
        before: Option<Cursor>,
        limit: usize,
    ) -> Answer<'_> {
        Box::pin(async move {
            sleep(QUERY).await;
            Source::page(&self.0, subject, before, limit).await
        })
    }
}
