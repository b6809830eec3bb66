//! Five processes share 1,000 requests a second through Redis, which is killed and starts again empty.
//!
//! ```console
//! $ cargo run -p week05 --example quota
//! ```
//!
//! Each node is a child process: this program, started with `node`. It ends when
//! its standard input is closed, so also when its parent dies.

#![expect(
    clippy::disallowed_methods,
    reason = "real processes and a real server have no clock to pause"
)]

use std::error::Error;
use std::io::{BufRead, BufReader, Write, stdin};
use std::num::NonZero;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use lab::guess;
use lab::servers::Redis;
use week05::quota::{Config, Holder};
use week05::quota_store::RedisStore;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LIMIT: u64 = 1_000;
const LEASE: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);

/// The requests that come to each node in a second. The sum is 2,050.
const DEMANDS: [u64; 5] = [100, 150, 300, 600, 900];

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() == Some("node") {
        let number = arguments.next().ok_or("no number of the node")?;
        return node(number.parse()?);
    }
    println!(
        "Five nodes share {LIMIT} requests a second. They get {} requests a \
         second.\nRedis is killed, and starts again empty 4 seconds later. \
         Then node 5 is killed. A lease\nlasts {LEASE:?}.",
        DEMANDS.map(|demand| demand.to_string()).join(", ")
    );
    let question = "\nHow many requests a second do the nodes admit without \
                    Redis, when all leases have ended?";
    let guess = guess::ask(question)?;

    let first = Redis::start()?;
    let url = first.url();
    let mut redis = Some(first);
    let mut nodes = Vec::new();
    for number in 0..DEMANDS.len() {
        nodes.push(Some(Node::start(number)?));
    }
    send(&mut nodes, &url)?;
    println!("\nsecond  node 1  node 2  node 3  node 4  node 5    sum");
    let (mut without, mut total) = (0, Counts::default());
    let start = Instant::now();
    for second in 1..=14 {
        let note = match second {
            1 => "Redis is new, and learns for a lease",
            5 => {
                drop(redis.take());
                "Redis is killed"
            }
            9 => {
                let empty = redis.insert(Redis::start()?);
                send(&mut nodes, &empty.url())?;
                "Redis starts again, empty"
            }
            12 => {
                nodes[4] = None;
                "node 5 is killed"
            }
            _ => "",
        };
        thread::sleep((start + second * SECOND) - Instant::now());
        send(&mut nodes, "count")?;
        print!("{second:6}");
        let mut sum = 0;
        for node in &mut nodes {
            let counts = match node {
                Some(node) => node.read()?,
                None => Counts::default(),
            };
            print!("  {:6}", counts.admitted);
            sum += counts.admitted;
            total.calls += counts.calls;
        }
        println!("  {sum:5}  {note}");
        total.admitted += sum;
        if second == 7 || second == 8 {
            without += sum;
        }
    }
    // The mean of both seconds, to the nearest ten.
    let without = (without + 10) / 20 * 10;
    println!(
        "\nWithout Redis, the nodes admitted about {without} a second.{} Each \
         had its safe share, {LIMIT} / 5, but not more than came.\nIn all, \
         Redis was called {} times for {} requests.",
        guess::remark(guess.as_deref(), without),
        total.calls,
        total.admitted
    );
    Ok(())
}

/// Sends a line to each node: the URL of Redis, or `count`.
fn send(nodes: &mut [Option<Node>], line: &str) -> Result<()> {
    for node in nodes.iter_mut().flatten() {
        writeln!(node.input, "{line}")?;
    }
    Ok(())
}

/// What a node has done.
#[derive(Default)]
struct Counts {
    admitted: u64,
    /// Calls of the script in Redis, and those that failed.
    calls: u64,
}

/// A child process. It is killed on drop.
struct Node {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Node {
    fn start(number: usize) -> Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .args(["node", &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("no standard input")?;
        let output = process.stdout.take().ok_or("no standard output")?;
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    /// Returns what the node has done since the last call.
    fn read(&mut self) -> Result<Counts> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let (admitted, calls) =
            line.trim().split_once(' ').ok_or("a node has failed")?;
        Ok(Counts { admitted: admitted.parse()?, calls: calls.parse()? })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has already ended if it failed.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// Runs a child process until its standard input is closed.
fn node(number: usize) -> Result<()> {
    let demand = DEMANDS[number];
    let config = Config {
        name: format!("node-{number}-{}", process::id()),
        class: 0,
        limit: LIMIT,
        holders: NonZero::new(5).ok_or("no holders")?,
        lease: LEASE,
        refresh: LEASE / 5,
        burst: Duration::from_millis(50),
    };
    let holder = Holder::new(config, Instant::now());
    let store = Mutex::new(None);
    let (admitted, calls) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| keep_lease(&holder, demand, &store, &calls));
        scope.spawn(|| receive_requests(&holder, demand, &admitted));
        for line in stdin().lines() {
            let line = line.unwrap_or_default();
            if line == "count" {
                let (admitted, calls) =
                    (admitted.swap(0, Relaxed), calls.swap(0, Relaxed));
                println!("{admitted} {calls}");
            } else if !line.is_empty() {
                *store.lock().expect("no thread panics") = connect(&line);
            }
        }
        process::exit(0)
    })
}

fn connect(url: &str) -> Option<RedisStore> {
    RedisStore::new(url, "quota:{example}", LEASE / 20).ok()
}

/// Sends each request that is due to Redis. If that fails, there is nothing to
/// do: the next one is due soon.
fn keep_lease(
    holder: &Holder,
    demand: u64,
    store: &Mutex<Option<RedisStore>>,
    calls: &AtomicU64,
) {
    loop {
        if let Some(store) = &mut *store.lock().expect("no thread panics")
            && let Some(request) = holder.refresh(demand, Instant::now())
        {
            calls.fetch_add(1, Relaxed);
            if let Ok((_, Some(grant))) = store.grant(&request) {
                holder.receive(grant, Instant::now());
            }
        }
        thread::sleep(LEASE / 200);
    }
}

/// Gets `demand` requests a second, in steps of a few milliseconds.
fn receive_requests(holder: &Holder, demand: u64, admitted: &AtomicU64) {
    let (start, mut received) = (Instant::now(), 0);
    loop {
        let now = Instant::now();
        let all = (now - start).as_secs_f64() * demand as f64;
        while received < all as u64 {
            received += 1;
            if holder.try_acquire(now).is_ok() {
                admitted.fetch_add(1, Relaxed);
            }
        }
        thread::sleep(Duration::from_millis(4));
    }
}
