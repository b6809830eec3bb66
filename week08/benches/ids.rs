//! The cost of an id, against ferroid and snowflaked.
//!
//! Both crates make Snowflake ids. ferroid allows 4,096 ids in a millisecond and
//! then waits for the next one. So for `segment`, its clock returns a later time
//! at each call, and it never waits. snowflaked reads the system clock, and
//! waits. For `snowflake`, all three are also measured with the system clock, at
//! the limit of 4,096 ids a millisecond.

use std::cell::Cell;
use std::convert::Infallible;
use std::hint::{black_box, spin_loop};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ferroid::generator::AtomicSnowflakeGenerator;
use ferroid::id::SnowflakeTwitterId;
use ferroid::time::TimeSource;
use lab::ratio::{Plan, measure};
use tokio::runtime::{Builder, Runtime};
use week08::segment::{Config, DoubleBuffer, Segments, Store};
use week08::snowflake::{self, EPOCH, Generator, Ids, Millis, Table, Worker};

/// The number of ids in one measured call.
const IDS: u64 = 100_000;

fn main() {
    segment();
    snowflake();
}

/// A row in memory.
struct Row(AtomicU64);

impl Store for Row {
    type Error = Infallible;

    async fn lease(&self, step: u64) -> Result<Range<u64>, Infallible> {
        let start = self.0.fetch_add(step, Relaxed);
        Ok(start..start + step)
    }
}

/// A clock that advances by a millisecond at each call.
struct Ticks(Cell<u64>);

impl TimeSource<u64> for Ticks {
    fn current_millis(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

/// The system clock.
struct Wall;

impl TimeSource<u64> for Wall {
    fn current_millis(&self) -> u64 {
        wall()
    }
}

fn wall() -> Millis {
    UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64
}

fn segments() -> (Segments<Row>, Runtime) {
    let step = 10_000_000.try_into().expect("not 0");
    let config = Config {
        min_step: step,
        max_step: step,
        lease_timeout: Duration::from_secs(1),
        backoff: Duration::from_secs(1),
        max_wait: Duration::from_secs(1),
    };
    // The refill runs on the second thread, as in a service.
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_time().build();
    let ids = Segments::new(Row(AtomicU64::new(1)), config);
    (ids, runtime.expect("a runtime starts"))
}

fn segment() {
    let (ids, runtime) = segments();
    let ours = || {
        runtime.block_on(async {
            for _ in 0..IDS {
                black_box(ids.next().await.expect("an id"));
            }
        });
    };
    let calls = 500;
    let start = Instant::now();
    (0..calls).for_each(|_| ours());
    let million = (calls * IDS) as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("segment: {million:.0} million ids a second on one thread");

    let plan = Plan { rounds: 51, sample: Duration::from_millis(10) };
    let peer = AtomicSnowflakeGenerator::<SnowflakeTwitterId, _>::new(
        1,
        Ticks(Cell::new(1)),
    );
    let ratio = measure(plan, ours, || {
        for _ in 0..IDS {
            black_box(peer.next_id(|_| {}));
        }
    });
    println!("segment / ferroid, which never waits = {ratio}");
    let peer = snowflaked::sync::Generator::new(1);
    let ratio = measure(plan, ours, || {
        for _ in 0..IDS {
            black_box(peer.generate::<u64>());
        }
    });
    println!("segment / snowflaked, which waits for its clock = {ratio}");

    // A buffer that never runs out, and a counter, on two threads.
    let buffer = DoubleBuffer::new();
    assert!(buffer.claim_refill(), "a new buffer needs ids");
    buffer.put(0..i64::MAX as u64).expect("a good range");
    let counter = AtomicU64::new(0);
    let ratio = measure(
        Plan { rounds: 31, ..plan },
        || together(|| buffer.try_next()),
        || together(|| Some(counter.fetch_add(1, Relaxed))),
    );
    println!("segment / one `fetch_add`, two threads = {ratio}");
}

/// Takes ids on two threads.
fn together(next: impl Fn() -> Option<u64> + Sync) {
    let take = || {
        for _ in 0..10 * IDS {
            black_box(next().expect("an id"));
        }
    };
    thread::scope(|scope| {
        scope.spawn(take);
        take();
    });
}

fn snowflake() {
    let worker = Worker::new(1).expect("10 bits");
    let plan = Plan { rounds: 51, sample: Duration::from_millis(20) };

    // At the limit: the next millisecond is awaited.
    let generator = Generator::new(worker, wall());
    let ours = || {
        for _ in 0..IDS {
            black_box(loop {
                match generator.try_next(wall()) {
                    Ok(id) => break id,
                    Err(_) => spin_loop(),
                }
            });
        }
    };
    let start = Instant::now();
    (0..50).for_each(|_| ours());
    let per_ms = (50 * IDS) as f64 / start.elapsed().as_secs_f64() / 1e3;
    println!("snowflake: {per_ms:.0} ids a millisecond, of 4,096");
    let peer = AtomicSnowflakeGenerator::<SnowflakeTwitterId, _>::new(1, Wall);
    let ratio = measure(plan, ours, || {
        for _ in 0..IDS {
            black_box(peer.next_id(|_| spin_loop()));
        }
    });
    println!("snowflake / ferroid, both at their limit = {ratio}");
    let peer = snowflaked::sync::Generator::new(1);
    let ratio = measure(plan, ours, || {
        for _ in 0..IDS {
            black_box(peer.generate::<u64>());
        }
    });
    println!("snowflake / snowflaked, both at their limit = {ratio}");

    // With clocks that advance at each call, none of them waits.
    let generator = Generator::new(worker, EPOCH);
    let mut now = EPOCH;
    let core = || {
        for _ in 0..IDS {
            now += 1;
            black_box(generator.try_next(now).expect("an id"));
        }
    };
    let ferroid = AtomicSnowflakeGenerator::<SnowflakeTwitterId, _>::new(
        1,
        Ticks(Cell::new(1)),
    );
    let peer = || {
        for _ in 0..IDS {
            black_box(ferroid.next_id(|_| {}));
        }
    };
    let ratio = measure(plan, core, peer);
    println!("snowflake / ferroid, which never wait = {ratio}");

    let now = AtomicU64::new(EPOCH);
    let clock = Arc::new(move || now.fetch_add(1, Relaxed));
    let year = Duration::from_secs(365 * 24 * 3_600);
    let config = snowflake::Config {
        ttl: 20 * year,
        margin: year,
        max_wait: Duration::from_secs(1),
    };
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().build().expect("a runtime starts");
    let ids =
        runtime.block_on(async { Ids::new(Table::new(1_024), config, clock) });
    let ratio = measure(
        plan,
        || {
            runtime.block_on(async {
                for _ in 0..IDS {
                    black_box(ids.next().await.expect("an id"));
                }
            });
        },
        peer,
    );
    println!("snowflake with its lease / ferroid, which never wait = {ratio}");
}
