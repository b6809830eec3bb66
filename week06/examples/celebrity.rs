//! One subject gets nine of ten reads. How many queries does the database get,
//! with each protection of this week?
//!
//! ```console
//! $ cargo run --release -p week06 --example celebrity
//! ```
//!
//! It takes half a minute. The load is open-loop: reads are sent when they are
//! due, also if earlier ones have no answer. The database serves eight queries at
//! a time, 10 ms each, which is 800 a second.

use std::collections::HashMap;
use std::error::Error;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lab::guess;
use lab::load::{self, Load, Outcome, Report};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use week05::simulator::Random;
use week05::window;
use week06::hot::{Config, HotKeys};
use week06::singleflight::Group;

/// Reads per second.
const RATE: f64 = 2000.0;

const DURATION: Duration = Duration::from_secs(6);

/// How long a user waits.
const PATIENCE: Duration = Duration::from_millis(250);

/// The database serves so many queries at a time.
const CONNECTIONS: usize = 8;

const QUERY: Duration = Duration::from_millis(10);

/// How long the local cache keeps a value.
const TTL: Duration = Duration::from_secs(1);

/// Subject 0 is the celebrity's.
type Subject = u32;

/// Which protections a run uses.
#[derive(Debug, Clone, Copy)]
struct Protection {
    name: &'static str,
    merges: bool,
    caches_hot_keys: bool,
}

const PROTECTIONS: [Protection; 4] = [
    Protection { name: "none", merges: false, caches_hot_keys: false },
    Protection { name: "local cache", merges: false, caches_hot_keys: true },
    Protection { name: "single flight", merges: true, caches_hot_keys: false },
    Protection { name: "both", merges: true, caches_hot_keys: true },
];

/// A process of the comment service.
struct Service {
    protection: Protection,
    database: Arc<Database>,
    flights: Group<Subject, u64, ()>,
    hot: Mutex<HotKeys<Subject>>,
    /// Values of hot keys, and until when they may be used.
    local: Mutex<HashMap<Subject, (u64, Instant)>>,
    hits: AtomicU64,
}

struct Database {
    connections: Semaphore,
    queries: AtomicU64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{RATE} reads a second go to a process, nine of ten for one subject. \
         The database\ncan answer 800 queries a second. A user waits for \
         {PATIENCE:?}."
    );
    let guess = guess::ask(
        "\nReads of one subject that come at the same time are merged into one \
         query. How many\nqueries a second does the database get?",
    )?;
    println!(
        "\nprotection     queries/s  hits  answered  failed  p50 ms  p99 ms"
    );
    let mut merged = 0.0;
    let mut bars = Vec::new();
    for protection in PROTECTIONS {
        let (service, report) = run(protection).await;
        let queries = service.database.queries.load(Relaxed) as f64;
        let queries = queries / DURATION.as_secs_f64();
        let reads = report.count(Outcome::Served)
            + report.count(Outcome::Refused)
            + report.count(Outcome::Failed);
        let percent = |count| 100.0 * count as f64 / reads as f64;
        let ms = |q| match report.quantile(Outcome::Served, q) {
            Some(latency) => latency.as_millis().to_string(),
            None => "-".to_owned(),
        };
        println!(
            "{:13} {queries:10.0} {:4.0}% {:8.0}% {:6.0}% {:>7} {:>7}",
            protection.name,
            percent(service.hits.load(Relaxed)),
            percent(report.count(Outcome::Served)),
            percent(report.count(Outcome::Failed)),
            ms(0.5),
            ms(0.99),
        );
        if protection.merges && !protection.caches_hot_keys {
            merged = queries;
        }
        bars.push((protection.name, queries));
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

async fn run(protection: Protection) -> (Arc<Service>, Report) {
    let service = Arc::new(Service::new(protection));
    let mut random = Random(2026);
    let load = Load { rate: RATE, duration: DURATION };
    let report = load::send(load, protection.name, |_| {
        let celebrity = random.uniform() < 0.9;
        let other = 1 + (random.uniform() * 100_000.0) as Subject;
        let subject = if celebrity { 0 } else { other };
        let service = Arc::clone(&service);
        async move {
            match timeout(PATIENCE, service.read(subject)).await {
                Ok(_) => Outcome::Served,
                Err(_gave_up) => Outcome::Failed,
            }
        }
    });
    let report = report.await;
    (service, report)
}

impl Service {
    fn new(protection: Protection) -> Self {
        let number = |n| NonZero::new(n).expect("it is not zero");
        let config = Config {
            capacity: number(1000),
            window: window::Config {
                bucket: Duration::from_millis(100),
                buckets: number(10),
            },
            // Per second, since the window is a second.
            hot_at: NonZero::new(100).expect("it is not zero"),
            cool_below: NonZero::new(50).expect("it is not zero"),
        };
        Self {
            protection,
            database: Arc::new(Database {
                connections: Semaphore::new(CONNECTIONS),
                queries: AtomicU64::new(0),
            }),
            flights: Group::default(),
            hot: Mutex::new(HotKeys::new(config, Instant::now())),
            local: Mutex::default(),
            hits: AtomicU64::new(0),
        }
    }

    /// Returns the number of comments of a subject.
    async fn read(&self, subject: Subject) -> u64 {
        let now = Instant::now();
        let is_hot = self.protection.caches_hot_keys
            && lock(&self.hot).record(&subject, now);
        if is_hot && let Some(value) = self.cached(subject, now) {
            self.hits.fetch_add(1, Relaxed);
            return value;
        }
        let database = Arc::clone(&self.database);
        let value = if self.protection.merges {
            let query =
                move || async move { Ok(database.query(subject).await) };
            self.flights.run(subject, query).await.unwrap_or_default()
        } else {
            database.query(subject).await
        };
        if is_hot {
            lock(&self.local).insert(subject, (value, Instant::now() + TTL));
        }
        value
    }

    fn cached(&self, subject: Subject, now: Instant) -> Option<u64> {
        let local = lock(&self.local);
        let (value, until) = local.get(&subject)?;
        (now < *until).then_some(*value)
    }
}

impl Database {
    async fn query(&self, subject: Subject) -> u64 {
        let permit = self.connections.acquire().await;
        let _connection = permit.expect("it is never closed");
        self.queries.fetch_add(1, Relaxed);
        sleep(QUERY).await;
        u64::from(subject)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
