//! Measures `singleflight` against the crates `async_singleflight` and `moka`:
//! one caller alone, and a leader with 100 followers.
//!
//! Each flight has a new key. moka's `get_with` also stores the value, here in a
//! cache of 1,000 entries; the others remember nothing. "In one task" polls all
//! callers in one task, which leaves out the cost of tasks. "In 101 tasks" spawns
//! a task for each caller, and awaits them all. Such a flight ends when all
//! callers have been polled once.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use lab::ratio::{Plan, measure};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::{spawn, unconstrained};
use week06::singleflight::Group;

/// The leader and its followers.
const CALLERS: usize = 101;

/// The number of flights in one measured call, for a caller that is alone.
const FLIGHTS: usize = 1_000;

static NEXT_KEY: AtomicU64 = AtomicU64::new(0);

trait Merge: Send + Sync {
    fn call(
        &self,
        key: u64,
        read: impl Future<Output = u64> + Send + 'static,
    ) -> impl Future<Output = u64> + Send;
}

impl Merge for Group<u64, u64, ()> {
    async fn call(
        &self,
        key: u64,
        read: impl Future<Output = u64> + Send + 'static,
    ) -> u64 {
        let read = || async { Ok(read.await) };
        self.run(key, read).await.expect("the read succeeds")
    }
}

impl Merge for async_singleflight::Group<u64, u64, ()> {
    async fn call(
        &self,
        key: u64,
        read: impl Future<Output = u64> + Send + 'static,
    ) -> u64 {
        let read = async { Ok(read.await) };
        self.work(&key, read).await.expect("the read succeeds")
    }
}

impl Merge for moka::future::Cache<u64, u64> {
    async fn call(
        &self,
        key: u64,
        read: impl Future<Output = u64> + Send + 'static,
    ) -> u64 {
        self.get_with(key, read).await
    }
}

fn main() {
    let one = Builder::new_current_thread().build();
    let two = Builder::new_multi_thread().worker_threads(2).build();
    for (name, runtime) in [("current_thread", one), ("two workers", two)] {
        let runtime = runtime.expect("a runtime starts");
        let ours: &'static _ = Box::leak(Box::new(Group::default()));
        let group: &'static _ =
            Box::leak(Box::new(async_singleflight::Group::new()));
        let cache: &'static _ =
            Box::leak(Box::new(moka::future::Cache::new(1_000)));
        compare(&format!("{name}: async_singleflight"), &runtime, ours, group);
        compare(&format!("{name}: moka"), &runtime, ours, cache);
    }
}

/// Prints the time of `ours` divided by the time of `peer`.
fn compare<M: Merge>(
    name: &str,
    runtime: &Runtime,
    ours: &'static Group<u64, u64, ()>,
    peer: &'static M,
) {
    let plan = Plan { rounds: 51, sample: Duration::from_millis(10) };
    let ratio = measure(
        plan,
        || spawned(runtime, alone(ours, async || 7)),
        || spawned(runtime, alone(peer, async || 7)),
    );
    println!("{name}, alone, no await: {ratio}");
    let ratio = measure(
        plan,
        || spawned(runtime, alone(ours, yield_once)),
        || spawned(runtime, alone(peer, yield_once)),
    );
    println!("{name}, alone, one await: {ratio}");
    let ratio = measure(
        plan,
        || spawned(runtime, in_one_task(ours)),
        || spawned(runtime, in_one_task(peer)),
    );
    println!("{name}, 100 followers in one task: {ratio}");
    let ratio = measure(
        plan,
        || spawned(runtime, in_tasks(ours)),
        || spawned(runtime, in_tasks(peer)),
    );
    println!("{name}, 100 followers in 101 tasks: {ratio}");
}

/// Runs `future` on a worker, as `block_on` would run it outside of the pool.
fn spawned(
    runtime: &Runtime,
    future: impl Future<Output = ()> + Send + 'static,
) {
    let task = runtime.spawn(unconstrained(future));
    runtime.block_on(task).expect("the task does not panic");
}

async fn alone<M: Merge, F: Future<Output = u64> + Send + 'static>(
    merge: &M,
    read: impl Fn() -> F + Send,
) {
    for _ in 0..FLIGHTS {
        let key = NEXT_KEY.fetch_add(1, Relaxed);
        assert_eq!(merge.call(key, read()).await, 7, "the value");
    }
}

async fn yield_once() -> u64 {
    let mut has_yielded = false;
    poll_fn(|context| {
        if has_yielded {
            return Poll::Ready(7);
        }
        has_yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

async fn in_one_task<M: Merge>(merge: &M) {
    let key = NEXT_KEY.fetch_add(1, Relaxed);
    close_gate();
    let mut callers: Vec<_> =
        (0..CALLERS).map(|_| Some(Box::pin(merge.call(key, read())))).collect();
    let (mut waiting, mut is_first) = (CALLERS, true);
    poll_fn(|context| {
        for caller in &mut callers {
            let Some(future) = caller else { continue };
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                assert_eq!(value, 7, "the value");
                *caller = None;
                waiting -= 1;
            }
            if is_first {
                join_gate();
            }
        }
        is_first = false;
        if waiting == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn in_tasks<M: Merge>(merge: &'static M) {
    let key = NEXT_KEY.fetch_add(1, Relaxed);
    close_gate();
    let call = || async move {
        let mut caller = pin!(merge.call(key, read()));
        let poll = poll_fn(|cx| Poll::Ready(caller.as_mut().poll(cx))).await;
        join_gate();
        match poll {
            Poll::Ready(value) => value,
            Poll::Pending => caller.await,
        }
    };
    let callers: Vec<_> = (0..CALLERS).map(|_| spawn(call())).collect();
    for caller in callers {
        let value = caller.await.expect("a caller does not panic");
        assert_eq!(value, 7, "the value");
    }
}

/// The number of callers that have been polled.
static JOINED: AtomicUsize = AtomicUsize::new(0);

/// Has a permit when all callers have been polled once: a flight may end.
static GATE: Semaphore = Semaphore::const_new(0);

fn close_gate() {
    JOINED.store(0, Relaxed);
    GATE.forget_permits(1);
}

fn join_gate() {
    if JOINED.fetch_add(1, Relaxed) == CALLERS - 1 {
        GATE.add_permits(1);
    }
}

async fn read() -> u64 {
    // The permit returns at once: a caller may come too late, and start a flight
    // of its own.
    drop(GATE.acquire().await.expect("it is never closed"));
    7
}
