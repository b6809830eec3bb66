//! The cost of an id, against ferroid and snowflaked.
//!
//! Both crates make Snowflake ids. ferroid allows 4,096 ids in a millisecond and
//! then waits for the next one. So its clock here returns a later time at each
//! call, and it never waits. snowflaked reads the system clock, and waits.

use std::cell::Cell;
use std::convert::Infallible;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ferroid::generator::AtomicSnowflakeGenerator;
use ferroid::id::SnowflakeTwitterId;
use ferroid::time::TimeSource;
use lab::ratio::{Plan, measure};
use tokio::runtime::{Builder, Runtime};
use week08::segment::{Config, DoubleBuffer, Segments, Store};

/// The number of ids in one measured call.
const IDS: u64 = 100_000;

fn main() {
    segment();
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
