//! Measures `gcra` against the crate `governor`: one limiter, and one limiter
//! for each key, on one thread and on two.
//!
//! "With a clock" is the call of a user: `Instant::now` here, and quanta, which
//! reads the counter of the processor, in `governor`. Each key is idle again
//! after 1 ns, so that each sweep removes keys: the worst case. "Decision" is the
//! same call at a fixed time, at which all keys are active.

use std::hint::black_box;
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::clock::{Clock, FakeRelativeClock, QuantaClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use lab::ratio::{Plan, measure};
use week05::gcra::{KeyedLimiter, Limiter, Quota};

/// So high that each request is admitted.
const PER_SECOND: NonZero<u32> = NonZero::new(1_000_000_000).unwrap();
const BURST: NonZero<u32> = NonZero::<u32>::MAX;

const KEYS: u64 = 1000;

/// The number of calls in one measured call.
const CALLS: u64 = 10_000;

/// The number of calls of each of two threads. It is large, since starting a
/// thread takes as long as many calls.
const CALLS_TOGETHER: u64 = 500_000;

fn main() {
    let start = Instant::now();
    let now = start;
    let quota = Quota { per_second: PER_SECOND, burst: BURST };
    let peer_quota = governor::Quota::per_second(PER_SECOND).allow_burst(BURST);
    let (quanta, fixed) =
        (QuantaClock::default(), FakeRelativeClock::default());

    let ours = Limiter::new(quota, start);
    let peer = direct(peer_quota, quanta.clone());
    compare(
        "one limiter, with a clock",
        |_| ours.try_acquire(Instant::now()).is_ok(),
        |_| peer.check().is_ok(),
    );
    let ours = Limiter::new(quota, start);
    let peer = direct(peer_quota, fixed.clone());
    compare(
        "one limiter, decision",
        |_| ours.try_acquire(now).is_ok(),
        |_| peer.check().is_ok(),
    );
    let ours = KeyedLimiter::new(quota, start);
    let peer = keyed(peer_quota, quanta);
    compare(
        "keyed, with a clock",
        |key| ours.try_acquire(&key, Instant::now()).is_ok(),
        |key| peer.check_key(&key).is_ok(),
    );
    let ours = KeyedLimiter::new(quota, start);
    let peer = keyed(peer_quota, fixed);
    compare(
        "keyed, decision",
        |key| ours.try_acquire(&key, now).is_ok(),
        |key| peer.check_key(&key).is_ok(),
    );
}

fn direct<C: Clock>(
    quota: governor::Quota,
    clock: C,
) -> RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>> {
    RateLimiter::direct_with_clock(quota, clock)
}

fn keyed<C: Clock>(
    quota: governor::Quota,
    clock: C,
) -> RateLimiter<u64, DashMapStateStore<u64>, C, NoOpMiddleware<C::Instant>> {
    RateLimiter::new(quota, DashMapStateStore::default(), clock)
}

/// Prints the time of `ours` divided by the time of `peer`.
fn compare(
    name: &str,
    ours: impl Fn(u64) -> bool + Sync,
    peer: impl Fn(u64) -> bool + Sync,
) {
    let plan = Plan { rounds: 51, sample: Duration::from_millis(10) };
    let ratio =
        measure(plan, || calls(&ours, 0, CALLS), || calls(&peer, 0, CALLS));
    println!("{name}: gcra / governor = {ratio}");
    let plan = Plan { rounds: 31, ..plan };
    let ratio = measure(plan, || together(&ours), || together(&peer));
    println!("{name}, two threads: gcra / governor = {ratio}");
}

/// Calls `try_acquire` with the keys of one half of all keys in turn.
fn calls(try_acquire: &impl Fn(u64) -> bool, first: u64, calls: u64) {
    for call in 0..calls {
        let key = first + call % (KEYS / 2);
        assert!(try_acquire(black_box(key)), "a request was refused");
    }
}

fn together(try_acquire: &(impl Fn(u64) -> bool + Sync)) {
    thread::scope(|scope| {
        scope.spawn(|| calls(try_acquire, 0, CALLS_TOGETHER));
        calls(try_acquire, KEYS / 2, CALLS_TOGETHER);
    });
}
