//! A cache server is killed and restarted: who answers the reads meanwhile?
//!
//! ```console
//! $ cargo run -p week05 --example gutter
//! ```
//!
//! The two caches are real Redis servers. The database is simulated: a query
//! takes 10 ms, and only some can run at a time.

#![expect(
    clippy::disallowed_methods,
    reason = "the readers and the database take real time"
)]

use std::error::Error;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use lab::guess;
use lab::servers::Redis;
use redis::{Client, Commands, Connection, RedisResult};
use week05::gutter::{Config, Destination, Router, Safety};
use week05::{sre_breaker, window};

const SECONDS: u32 = 15;

/// The second in which the main cache is killed.
const KILLED: u32 = 3;

/// The second in which the main cache is restarted.
const RESTARTED: u32 = 7;

const READERS: u32 = 40;

/// The pause of each reader after a read. So the readers send almost 1,000 reads
/// a second.
const PAUSE: Duration = Duration::from_millis(40);

const KEYS: f64 = 2000.0;

/// The number of reads that the gutter may have in flight. A read that misses in
/// the gutter and queries the database is one of them.
const GUTTER_CAPACITY: NonZero<u32> = NonZero::new(6).expect("not zero");

const MAX_STALENESS: Duration = Duration::from_secs(3);

/// A query of the database takes this time.
const QUERY: Duration = Duration::from_millis(10);

/// The number of queries that the database can run at a time.
const DATABASE_CAPACITY: u32 = 12;

/// The part of the system that has answered a read.
#[derive(Clone, Copy)]
enum Answer {
    Main,
    Gutter,
    Database,
    Refused,
}

fn main() -> Result<(), Box<dyn Error>> {
    let main = Redis::start()?;
    let gutter = Redis::start()?;
    println!(
        "{READERS} readers send almost 1,000 reads a second to a cache. It is \
         killed in second {KILLED},\nand restarted, empty, in second \
         {RESTARTED}. The gutter takes {GUTTER_CAPACITY} reads at a time, and \
         the\ndatabase {DATABASE_CAPACITY} queries."
    );
    let question = "\nHow many percent of the reads are refused while the main \
                    cache is down?";
    let guess = guess::ask(question)?;

    let service = Service {
        router: Router::new(config(), Instant::now()),
        main: Mutex::new(main.url()),
        gutter: gutter.url(),
        queries: AtomicU32::new(0),
        answers: Default::default(),
    };
    let mut warm = service.connect(Destination::Main)?;
    for key in 0..KEYS as u32 {
        warm.set::<_, _, ()>(key, "value")?;
    }
    let rows = run(&service, Some(main))?;

    let down = &rows[KILLED as usize..RESTARTED as usize];
    let refused: u32 = down.iter().map(|row| row[3]).sum();
    let all: u32 = down.iter().flatten().sum();
    let percent = (refused * 100 + all / 2) / all.max(1);
    println!(
        "\nWhile the main cache was down, {percent} % of {all} reads were \
         refused.{}",
        guess::remark(guess.as_deref(), percent)
    );
    Ok(())
}

fn config() -> Config {
    let second = Duration::from_secs(1);
    let breaker = sre_breaker::Config {
        k: 2.0,
        min_requests: 20,
        window: window::Config {
            bucket: second / 10,
            buckets: NonZero::new(10).expect("ten is not zero"),
        },
        probe_interval: second / 10,
        slow_call: second,
    };
    Config {
        main: breaker,
        gutter: breaker,
        gutter_capacity: GUTTER_CAPACITY,
        max_staleness: MAX_STALENESS,
    }
}

/// Runs the readers. Prints and returns the answers of each second.
fn run(
    service: &Service,
    mut main: Option<Redis>,
) -> Result<Vec<[u32; 4]>, Box<dyn Error>> {
    println!("\nsecond  main cache  gutter  database  refused");
    let start = Instant::now();
    thread::scope(|scope| {
        for reader in 0..READERS {
            scope.spawn(move || {
                thread::sleep(PAUSE * reader / READERS);
                let mut reader = Reader { service, connections: [None, None] };
                while start.elapsed().as_secs() < SECONDS.into() {
                    let answer = reader.read();
                    service.answers[answer as usize].fetch_add(1, Relaxed);
                    thread::sleep(PAUSE);
                }
            });
        }
        let mut rows = Vec::new();
        for second in 0..SECONDS {
            let mut event = "";
            if second == KILLED {
                main = None;
                event = "  the main cache is killed";
            }
            if second == RESTARTED {
                let server = main.insert(Redis::start()?);
                *service.main.lock().expect("no panic") = server.url();
                event = "  the main cache is restarted";
            }
            let next = start + Duration::from_secs(u64::from(second) + 1);
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let row = service.answers.each_ref().map(|n| n.swap(0, Relaxed));
            let [by_main, by_gutter, by_database, refused] = row;
            println!(
                "{second:6}  {by_main:10}  {by_gutter:6}  {by_database:8}  \
                 {refused:7}{event}"
            );
            rows.push(row);
        }
        Ok(rows)
    })
}

/// The caches, the database, and what they have answered.
struct Service {
    router: Router,
    /// The URL of the main cache, which changes with a restart.
    main: Mutex<String>,
    gutter: String,
    /// The number of queries that are running.
    queries: AtomicU32,
    /// The number of reads for each [`Answer`].
    answers: [AtomicU32; 4],
}

/// One client of the caches.
struct Reader<'a> {
    service: &'a Service,
    /// To the main cache and to the gutter.
    connections: [Option<Connection>; 2],
}

impl Reader<'_> {
    /// Reads a random key. Some keys are read much more often than others.
    fn read(&mut self) -> Answer {
        let key = (fastrand::f64().powi(3) * KEYS) as u32;
        let router = &self.service.router;
        let rands = [fastrand::f64(), fastrand::f64()];
        let Ok(mut call) = router.route(Instant::now(), rands) else {
            return Answer::Refused;
        };
        loop {
            let cache = call.destination();
            match self.get(cache, key) {
                Ok(Some(_)) => {
                    call.success(Instant::now());
                    return match cache {
                        Destination::Main => Answer::Main,
                        Destination::Gutter => Answer::Gutter,
                    };
                }
                Ok(None) => {
                    // The call keeps its permit during the query, so the
                    // capacity of the gutter also protects the database.
                    let answer = self.query(cache, key);
                    call.success(Instant::now());
                    return answer;
                }
                Err(_) => {
                    self.connections[cache as usize] = None;
                    let (now, rand) = (Instant::now(), fastrand::f64());
                    match call.fail_over(now, rand, Safety::Idempotent) {
                        Some(second) => call = second,
                        None => return Answer::Refused,
                    }
                }
            }
        }
    }

    fn get(
        &mut self,
        cache: Destination,
        key: u32,
    ) -> RedisResult<Option<String>> {
        self.connection(cache)?.get(key)
    }

    /// Reads the database, and stores the value in `cache`.
    fn query(&mut self, cache: Destination, key: u32) -> Answer {
        let service = self.service;
        let one_more = |n| (n < DATABASE_CAPACITY).then_some(n + 1);
        if service.queries.fetch_update(Relaxed, Relaxed, one_more).is_err() {
            return Answer::Refused;
        }
        let read_at = Instant::now();
        thread::sleep(QUERY);
        service.queries.fetch_sub(1, Relaxed);

        let ttl = match cache {
            Destination::Main => Some(Duration::from_secs(3600)),
            Destination::Gutter => service.router.ttl(read_at, Instant::now()),
        };
        let ttl = ttl.map_or(0, |ttl| ttl.as_millis() as u64);
        // Redis rejects a TTL of zero. If the store fails, the next read misses.
        if ttl > 0
            && let Ok(connection) = self.connection(cache)
        {
            let _: RedisResult<()> = connection.pset_ex(key, "value", ttl);
        }
        Answer::Database
    }

    fn connection(
        &mut self,
        cache: Destination,
    ) -> RedisResult<&mut Connection> {
        let slot = &mut self.connections[cache as usize];
        match slot {
            Some(connection) => Ok(connection),
            None => Ok(slot.insert(self.service.connect(cache)?)),
        }
    }
}

impl Service {
    fn connect(&self, cache: Destination) -> RedisResult<Connection> {
        let url = match cache {
            Destination::Main => self.main.lock().expect("no panic").clone(),
            Destination::Gutter => self.gutter.clone(),
        };
        let timeout = Duration::from_millis(200);
        let connection =
            Client::open(url)?.get_connection_with_timeout(timeout)?;
        connection.set_read_timeout(Some(timeout))?;
        Ok(connection)
    }
}
