//! Measures `hot` against `TopK` of the crate `heavykeeper`: the records of one
//! stream, whose keys follow Zipf's distribution.
//!
//! The stream has a million records of up to a million keys, and is repeated.
//! `HotKeys` has `capacity` counters, and a window of ten buckets of a second,
//! to which 100,000 records come each second. `TopK` has `k = capacity`, and for
//! the rest the settings of its own benchmarks: four rows of 4,096 buckets, and
//! a decay of 0.9. It has no window, and takes no time. `HotKeys` has the hasher
//! of the standard library. `TopK` is measured with its default, aHash, and with
//! that of the standard library.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::num::NonZero;
use std::time::{Duration, Instant};

use heavykeeper::TopK;
use lab::ratio::{Plan, Ratio, measure};
use week05::window;
use week06::hot::{Config, HotKeys};

const KEYS: usize = 1_000_000;

const RECORDS: usize = 1_000_000;

/// The number of records in one measured call.
const CALLS: usize = 10_000;

/// The number of records that have the same time.
const AT_A_TIME: usize = 100;

fn main() {
    for exponent in [1.0, 1.1, 1.2] {
        let stream = zipf(exponent);
        for capacity in [1_000, 10_000] {
            let name = format!("exponent {exponent:.1}, capacity {capacity}");
            let peer = TopK::<u64>::new(capacity, 4_096, 4, 0.9);
            let ratio = compare(&stream, capacity, peer);
            println!("{name}: HotKeys / TopK = {ratio}");
            let hasher = RandomState::new();
            let peer = TopK::with_hasher(capacity, 4_096, 4, 0.9, hasher);
            let ratio = compare(&stream, capacity, peer);
            println!("{name}: HotKeys / TopK, same hasher = {ratio}");
        }
    }
}

/// Returns the time of `HotKeys` divided by the time of `TopK`.
fn compare<S: BuildHasher + Clone>(
    stream: &[u64],
    capacity: usize,
    mut peer: TopK<u64, S>,
) -> Ratio {
    let mut now = Instant::now();
    let mut ours = HotKeys::new(config(capacity), now);
    let mut record = |keys: &[u64]| {
        for keys in keys.chunks(AT_A_TIME) {
            now += Duration::from_millis(1);
            for key in keys {
                black_box(ours.record(black_box(key), now));
            }
        }
    };
    let mut add = |keys: &[u64]| {
        for key in keys {
            peer.add(black_box(key), 1);
        }
    };
    // After the whole stream, all counters are in use.
    record(stream);
    add(stream);
    let mut ours = stream.chunks(CALLS).cycle();
    let mut peers = ours.clone();
    let plan = Plan { rounds: 51, sample: Duration::from_millis(20) };
    measure(
        plan,
        || record(ours.next().expect("a cycle does not end")),
        || add(peers.next().expect("a cycle does not end")),
    )
}

fn config(capacity: usize) -> Config {
    let number = |n| NonZero::new(n).expect("it is not zero");
    Config {
        capacity: NonZero::new(capacity).expect("it is not zero"),
        window: window::Config {
            bucket: Duration::from_secs(1),
            buckets: NonZero::new(10).expect("it is not zero"),
        },
        hot_at: number(10_000),
        cool_below: number(8_000),
    }
}

/// Returns a stream in which key `i` comes with a probability in proportion to
/// `1 / i^exponent`.
fn zipf(exponent: f64) -> Vec<u64> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=KEYS)
        .map(|key| {
            sum += (key as f64).powf(-exponent);
            sum
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(2026);
    let records = (0..RECORDS).map(|_| {
        let at = random.f64() * sum;
        sums.partition_point(|sum| *sum <= at) as u64
    });
    records.collect()
}
