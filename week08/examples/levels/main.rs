//! Twelve processes share a Redis, and a price changes: which process sells at
//! the old price, and for how long?
//!
//! ```console
//! $ cargo run -p week08 --example levels
//! $ cargo run -p week08 --example levels -- --redis
//! ```
//!
//! Redis, the database and the time are simulated, so the program ends at once.
//! With `--redis`, two caches share a real `redis-server`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Parser;
use fastbloom::AtomicBloomFilter;
use lab::guess;
use tokio::sync::mpsc::{Receiver, Sender, channel as queue};
use tokio::time::{Instant, sleep};
use week08::levels::{Config, Levels, Origin, Remote, Stored, Value};

#[cfg(unix)]
mod real;
#[cfg(unix)]
#[path = "../../tests/grade/levels/redis_level.rs"]
mod redis_level;

const PROCESSES: usize = 12;
const BOOK: &str = "book";
const OLD: Price = Price(20);
const NEW: Price = Price(15);
/// The time between two reads of a process.
const TICK: Duration = Duration::from_millis(10);
/// The time of a message to Redis, or from it.
const WAY: Duration = Duration::from_millis(2);
/// How long the channel of the last process is broken.
const BROKEN: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Options {
    /// Uses a real redis-server, which it starts
    #[arg(long)]
    redis: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if options.redis {
        #[cfg(unix)]
        return real::run();
        #[cfg(not(unix))]
        return Err("redis-server needs Unix".into());
    }
    simulate()
}

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn simulate() -> Result<(), Box<dyn Error>> {
    println!(
        "{PROCESSES} processes read a price {} times a second. A local copy \
         lives up to 30 s,\nan entry of Redis 60 s. Process 1 changes the \
         price, and invalidates the levels.\n",
        Duration::from_secs(1).as_millis() / TICK.as_millis()
    );
    let question = "If it sends the message first, and deletes the entry of \
                    Redis after that:\nhow many processes read the old price \
                    a second later?";
    let guess = guess::ask(question)?;

    println!("\nInvalidation                       old a second later   until");
    let mut answer = 0;
    for order in
        [Order::NoMessage, Order::LocalFirst, Order::MessageFirst, Order::Right]
    {
        let old = price_change(order, Channel::Good).await;
        let processes = print(order.name(), &old);
        if matches!(order, Order::MessageFirst) {
            answer = processes;
        }
    }
    println!(
        "\n{answer} processes copied the old price back from Redis.{}",
        guess::remark(guess.as_deref(), answer)
    );

    println!(
        "\nThe right order, but the channel of process {PROCESSES} breaks just \
         before the change,\nfor {} s:\n",
        BROKEN.as_secs()
    );
    println!("What the process does              old a second later   until");
    for channel in [Channel::Ignored, Channel::Restored, Channel::Lost] {
        let old = price_change(Order::Right, channel).await;
        print(channel.name(), &old);
    }
    Ok(())
}

/// Prints a row, and returns the number of processes that read the old price a
/// second after the change.
fn print(name: &str, old: &[Duration]) -> usize {
    let second = Duration::from_secs(1);
    let processes = old.iter().filter(|last| **last >= second).count();
    let last = old.iter().max().copied().unwrap_or_default();
    let mut until = String::new();
    let _ = match last {
        _ if last < second => write!(until, "{} ms", last.as_millis()),
        _ => write!(until, "{:.0} s", last.as_secs_f64()),
    };
    println!("{name:34} {processes:18} {until:>7}");
    processes
}

#[derive(Clone, Copy)]
enum Order {
    NoMessage,
    LocalFirst,
    MessageFirst,
    Right,
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Self::NoMessage => "Redis, local",
            Self::LocalFirst => "local, Redis, message to others",
            Self::MessageFirst => "message, Redis, local",
            Self::Right => "Redis, local, message: `invalidate`",
        }
    }
}

/// What the last process does when its channel breaks.
#[derive(Clone, Copy)]
enum Channel {
    Good,
    Ignored,
    Restored,
    Lost,
}

impl Channel {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "it does not break",
            Self::Ignored => "subscribes again, no more",
            Self::Restored => "calls `channel_restored`",
            Self::Lost => "calls `channel_lost`, too",
        }
    }
}

type Process = Arc<Levels<Redis, Database>>;

/// Changes the price, and returns for each process how long after the change it
/// still got the old one.
async fn price_change(order: Order, channel: Channel) -> Vec<Duration> {
    let world = Arc::new(Mutex::new(World { price: OLD, ..World::default() }));
    let processes: Vec<Process> =
        (0..PROCESSES).map(|i| process(&world, i)).collect();
    let old = Arc::new(Mutex::new(vec![Duration::ZERO; PROCESSES]));
    let warm = Duration::from_secs(5);
    let changed = Instant::now() + warm;
    let mut tasks: Vec<_> = (0..PROCESSES)
        .map(|i| {
            let (levels, old) = (Arc::clone(&processes[i]), Arc::clone(&old));
            tokio::spawn(async move {
                // Not all in the same moment.
                sleep(TICK * i as u32 / PROCESSES as u32).await;
                loop {
                    let asked = Instant::now();
                    let price = levels.get(BOOK, rand(i)).await;
                    if price == Ok(Some(OLD)) {
                        let late = asked.saturating_duration_since(changed);
                        lock(&old)[i] = late;
                    }
                    sleep(TICK).await;
                }
            })
        })
        .collect();
    sleep(warm).await;

    let last = Arc::clone(&processes[PROCESSES - 1]);
    if !matches!(channel, Channel::Good) {
        lock(&world).subscribers[PROCESSES - 1] = None;
        let world = Arc::clone(&world);
        tasks.push(tokio::spawn(async move {
            if matches!(channel, Channel::Lost) {
                last.channel_lost();
            }
            sleep(BROKEN).await;
            subscribe(&world, PROCESSES - 1, &last);
            if !matches!(channel, Channel::Ignored) {
                last.channel_restored(products());
            }
            std::future::pending().await
        }));
    }
    tokio::task::yield_now().await;

    lock(&world).price = NEW;
    let writer = &processes[0];
    let redis = Redis(Arc::clone(&world));
    // The simulated Redis does not fail.
    match order {
        Order::NoMessage => {
            let _ = redis.delete(BOOK).await;
            writer.on_invalidation(BOOK);
        }
        Order::LocalFirst => {
            writer.on_invalidation(BOOK);
            let _ = redis.delete(BOOK).await;
            // Not to itself: it has done its part already.
            let own = lock(&world).subscribers[0].take();
            let _ = redis.publish(BOOK).await;
            lock(&world).subscribers[0] = own;
        }
        Order::MessageFirst => {
            let _ = redis.publish(BOOK).await;
            let _ = redis.delete(BOOK).await;
            writer.on_invalidation(BOOK);
        }
        Order::Right => {
            let _ = writer.invalidate(BOOK).await;
        }
    }
    sleep(Duration::from_secs(70)).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    lock(&old).clone()
}

fn process(world: &Arc<Mutex<World>>, index: usize) -> Process {
    let config = Config {
        capacity: 1_000.try_into().expect("not 0"),
        local_ttl: Duration::from_secs(30),
        remote_ttl: Duration::from_secs(60),
        negative_ttl: Duration::from_secs(5),
        unsynced_ttl: Duration::from_millis(200),
        jitter: 0.1,
        remote_timeout: Duration::from_millis(100),
        loads_without_remote: 10,
    };
    let redis = Redis(Arc::clone(world));
    let levels = Levels::new(config, redis, Database(Arc::clone(world)));
    let levels = Arc::new(levels);
    lock(world).subscribers.push(None);
    subscribe(world, index, &levels);
    levels.channel_restored(products());
    levels
}

fn products() -> AtomicBloomFilter {
    let filter = AtomicBloomFilter::with_false_pos(0.01).expected_items(10);
    filter.insert(BOOK);
    filter
}

/// Makes the process get messages.
fn subscribe(world: &Arc<Mutex<World>>, index: usize, levels: &Process) {
    let (sender, receiver) = queue(10);
    lock(world).subscribers[index] = Some(sender);
    tokio::spawn(handle(receiver, Arc::clone(levels)));
}

async fn handle(mut messages: Receiver<String>, levels: Process) {
    while let Some(key) = messages.recv().await {
        sleep(WAY).await;
        levels.on_invalidation(&key);
    }
}

/// A number for the jitter, the same in each run.
fn rand(i: usize) -> f64 {
    i as f64 / PROCESSES as f64
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Price(u32);

impl Value for Price {
    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u32::from_be_bytes(bytes)))
    }
}

#[derive(Default)]
struct World {
    price: Price,
    entries: HashMap<String, (Vec<u8>, Instant)>,
    subscribers: Vec<Option<Sender<String>>>,
}

struct Database(Arc<Mutex<World>>);

impl Origin for Database {
    type Value = Price;
    type Error = Infallible;

    async fn load(&self, _: &str) -> Result<Option<Price>, Infallible> {
        let price = lock(&self.0).price;
        sleep(10 * WAY).await;
        Ok(Some(price))
    }
}

/// The connection of a process to the simulated Redis.
struct Redis(Arc<Mutex<World>>);

impl Remote for Redis {
    type Error = Infallible;

    async fn get(&self, key: &str) -> Result<Option<Stored>, Infallible> {
        sleep(WAY).await;
        let entry = lock(&self.0).entries.get(key).cloned();
        let now = Instant::now();
        sleep(WAY).await;
        let entry = entry.filter(|(_, end)| *end > now);
        Ok(entry.map(|(bytes, end)| Stored { bytes, ttl: end - now }))
    }

    async fn set(
        &self,
        key: &str,
        bytes: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), Infallible> {
        sleep(WAY).await;
        let entry = (bytes, Instant::now() + ttl);
        lock(&self.0).entries.insert(key.to_owned(), entry);
        sleep(WAY).await;
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), Infallible> {
        // The writer's pool of connections is busy: a reader can be faster.
        sleep(10 * WAY).await;
        lock(&self.0).entries.remove(key);
        sleep(WAY).await;
        Ok(())
    }

    async fn publish(&self, key: &str) -> Result<(), Infallible> {
        sleep(WAY).await;
        for subscriber in lock(&self.0).subscribers.iter().flatten() {
            // A process that has ended has no receiver.
            let _ = subscriber.try_send(key.to_owned());
        }
        sleep(WAY).await;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
