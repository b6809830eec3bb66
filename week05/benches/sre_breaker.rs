//! Measures `sre_breaker` against the crates `recloser` and `failsafe`: a request
//! that is allowed and succeeds, on one thread and on two.
//!
//! The peers have a threshold on the last calls, and no sliding window in time.
//! "Fixed time" leaves out `Instant::now`, which `sre_breaker` takes as an
//! argument, `failsafe` reads, and `recloser` does not need while it is closed.

use std::hint::black_box;
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use failsafe::CircuitBreaker as _;
use lab::ratio::{Plan, measure};
use recloser::Recloser;
use week05::sre_breaker::{Breaker, Config};
use week05::window;

const CALLS: u64 = 10_000;

/// The number of calls of each of two threads.
const CALLS_TOGETHER: u64 = 500_000;

fn main() {
    let start = Instant::now();
    for buckets in [10, 40] {
        let breaker = Breaker::new(config(buckets), start);
        let clock = || {
            let call =
                breaker.allow(Instant::now(), 0.5).expect("it is closed");
            call.success(Instant::now());
        };
        let fixed = || {
            let call = breaker.allow(start, 0.5).expect("it is closed");
            call.success(start);
        };
        let recloser = Recloser::default();
        let recloser = || {
            recloser.call(|| Ok::<_, ()>(black_box(1))).expect("it is closed");
        };
        let failsafe = failsafe::Config::new().build();
        let failsafe = || {
            failsafe.call(|| Ok::<_, ()>(black_box(1))).expect("it is closed");
        };
        compare(&format!("{buckets} buckets / recloser"), &clock, &recloser);
        compare(&format!("{buckets} buckets / failsafe"), &clock, &failsafe);
        let name = format!("{buckets} buckets, fixed time / recloser");
        compare(&name, &fixed, &recloser);
        let name = format!("{buckets} buckets, fixed time / failsafe");
        compare(&name, &fixed, &failsafe);
    }
}

fn config(buckets: usize) -> Config {
    Config {
        k: 2.0,
        min_requests: 20,
        window: window::Config {
            bucket: Duration::from_millis(250),
            buckets: NonZero::new(buckets).expect("it is not zero"),
        },
        probe_interval: Duration::from_secs(1),
        slow_call: Duration::from_secs(1),
    }
}

fn compare(name: &str, ours: &(impl Fn() + Sync), peer: &(impl Fn() + Sync)) {
    let plan = Plan { rounds: 51, sample: Duration::from_millis(10) };
    let calls = |call: &dyn Fn()| (0..CALLS).for_each(|_| call());
    let ratio = measure(plan, || calls(ours), || calls(peer));
    println!("{name}: {ratio}");
    let plan = Plan { rounds: 11, ..plan };
    let ratio = measure(plan, || together(ours), || together(peer));
    println!("{name}, two threads: {ratio}");
}

fn together(call: &(impl Fn() + Sync)) {
    thread::scope(|scope| {
        scope.spawn(|| (0..CALLS_TOGETHER).for_each(|_| call()));
        (0..CALLS_TOGETHER).for_each(|_| call());
    });
}
