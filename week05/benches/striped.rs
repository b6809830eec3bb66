//! Measures `striped` against the same counter with one stripe, that is one
//! atomic word for each bucket, and against a `Window` behind a mutex: on one
//! thread and on two.
//!
//! "With a clock" is the call of a user, with `Instant::now`. "At a fixed time"
//! is the same call without the clock.

use std::hint::black_box;
use std::num::NonZero;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use lab::ratio::{Plan, measure};
use week05::striped::{Config, Counter};
use week05::window::{self, Window};

const BUCKET: Duration = Duration::from_millis(250);
const BUCKETS: NonZero<usize> = NonZero::new(40).unwrap();

/// The number of calls in one measured call.
const CALLS: u32 = 10_000;

/// The number of calls of each of two threads. It is large, since starting a
/// thread takes as long as many calls.
const CALLS_TOGETHER: u32 = 500_000;

fn main() {
    let now = Instant::now();
    let (fixed, clock) = (move || now, Instant::now);
    let (two, one) = (counter(2, now), counter(1, now));
    let config = window::Config { bucket: BUCKET, buckets: BUCKETS };
    let mutex = Mutex::new(Window::new(config, now));
    let lock = || mutex.lock().expect("no call panics");

    compare(
        "one stripe, at a fixed time",
        |thread| two.add(thread, fixed(), 1),
        |thread| one.add(thread, fixed(), 1),
    );
    compare(
        "one stripe, with a clock",
        |thread| two.add(thread, clock(), 1),
        |thread| one.add(thread, clock(), 1),
    );
    compare(
        "mutex, at a fixed time",
        |thread| two.add(thread, fixed(), 1),
        |_| lock().add(fixed(), 1),
    );
    compare(
        "mutex, with a clock",
        |thread| two.add(thread, clock(), 1),
        |_| lock().add(clock(), 1),
    );
    let plan = Plan { rounds: 51, sample: Duration::from_millis(10) };
    let ratio = measure(
        plan,
        || _ = black_box(two.sum(now)),
        || _ = black_box(lock().summary(now)),
    );
    println!("a sum: two stripes / mutex = {ratio}");
}

fn counter(stripes: usize, now: Instant) -> Counter {
    let stripes = NonZero::new(stripes).expect("at least one stripe");
    Counter::new(Config { bucket: BUCKET, buckets: BUCKETS, stripes }, now)
}

/// Prints the time of `ours` divided by the time of `peer`. Both get the number
/// of the thread.
fn compare(
    name: &str,
    ours: impl Fn(usize) + Sync,
    peer: impl Fn(usize) + Sync,
) {
    let plan = Plan { rounds: 51, sample: Duration::from_millis(10) };
    let ratio =
        measure(plan, || calls(&ours, 0, CALLS), || calls(&peer, 0, CALLS));
    println!("an add: two stripes / {name} = {ratio}");
    let plan = Plan { rounds: 31, ..plan };
    let ratio = measure(plan, || together(&ours), || together(&peer));
    println!("an add, two threads: two stripes / {name} = {ratio}");
}

fn calls(add: &impl Fn(usize), thread: usize, calls: u32) {
    (0..calls).for_each(|_| add(black_box(thread)));
}

fn together(add: &(impl Fn(usize) + Sync)) {
    thread::scope(|scope| {
        scope.spawn(|| calls(add, 0, CALLS_TOGETHER));
        calls(add, 1, CALLS_TOGETHER);
    });
}
