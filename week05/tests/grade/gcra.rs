use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use proptest::test_runner::TestRunner;
use proptest::{collection::vec, prelude::*, strategy::ValueTree};
use week05::gcra::{KeyedLimiter, Limiter, Quota, Throttled};

/// The interval at 10 requests a second.
const INTERVAL: Duration = Duration::from_millis(100);

type Outcome = Result<(), Throttled>;
const NANOS: i128 = 1_000_000_000;
const CENTURY: i128 = 100 * 365 * 24 * 3600 * NANOS;

mod limiter {
    use super::*;

    #[test]
    fn a_new_limiter_and_an_idle_one_admit_one_burst_at_once() {
        for burst in [1, 2, 17, 130, 1500] {
            let mut now = Instant::now();
            let limiter = Limiter::new(quota(10, burst), now);
            for idle in [0, burst, burst + 1, 1_000_000, u32::MAX] {
                now += idle * INTERVAL;
                let send = |_: &_| limiter.try_acquire(now).is_ok();
                let admitted = (0..2000).filter(send).count();
                assert_eq!(
                    admitted, burst as usize,
                    "admitted after {idle} idle intervals (left), burst (right)"
                );
            }
        }
    }

    #[test]
    fn the_interval_is_rounded_up_to_whole_nanoseconds() {
        for (rate, nanos) in [(3, 333_333_334), (17, 58_823_530)] {
            let now = Instant::now();
            let limiter = Limiter::new(quota(rate, 1), now);
            let results = [(); 2].map(|()| limiter.try_acquire(now));
            let expected = [Ok(()), throttled(Duration::from_nanos(nanos))];
            assert_eq!(results, expected, "{rate} a second: seen, expected");
        }
    }

    #[test]
    fn each_decision_matches_an_exact_token_bucket() {
        check((1..2_u8, 1..200, 600), true, true, |quota, start| {
            let limiter = Limiter::new(quota, start);
            move |_, now| limiter.try_acquire(now)
        });
    }
}

mod keys {
    use super::*;

    #[test]
    fn each_of_20000_keys_has_a_quota_and_so_do_30_with_the_same_hash() {
        for (n, hashes, burst) in [(20_000, u32::MAX, 1), (30, 1, 130)] {
            let start = Instant::now();
            let limiter = KeyedLimiter::new(quota(10, burst), start);
            for (round, id) in (0..n * (burst + 1)).map(|i| (i / n, i % n)) {
                let key = (id % hashes, SameHash(id));
                let result = limiter.try_acquire(&key, start);
                let refused = throttled(INTERVAL);
                let expected = if round < burst { Ok(()) } else { refused };
                assert_eq!(result, expected, "key {id} after {round} requests");
            }
        }
    }

    #[test]
    fn threads_that_share_keys_admit_one_burst_of_each_key() {
        let start = Instant::now();
        let limiter = KeyedLimiter::new(quota(10, 5), start);
        let send = || {
            let send = |n| limiter.try_acquire(&(n % 1000), start).is_ok();
            (0..10_000).filter(|&n| send(n)).count()
        };
        let admitted: usize = thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(send));
            threads.map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!(admitted, 5000, "admitted by 4 threads, 5 of each of 1,000");
    }

    #[test]
    fn each_key_is_limited_as_by_a_limiter_of_its_own() {
        check((0..40, 1..3000, 40), false, true, keyed);
    }

    #[test]
    fn a_slow_clock_gets_no_extra_requests_of_a_forgotten_key() {
        check((0..40, 1..3000, 40), true, false, keyed);
    }

    fn keyed(quota: Quota, start: Instant) -> impl Fn(u8, Instant) -> Outcome {
        let limiter = KeyedLimiter::new(quota, start);
        move |key, now| limiter.try_acquire(&key, now)
    }
}

mod memory {
    use super::*;

    #[test]
    fn calls_of_one_key_forget_all_idle_keys() {
        for n in [1, 17, 1500, 20_000] {
            let mut now = Instant::now();
            let limiter = KeyedLimiter::new(quota(10, 3), now);
            let other = (n, SameHash(0), Arc::default());
            let calls = 2 * (n + 1) + 1000;
            // In the first round the calls are refused, then admitted.
            for pause in [Duration::ZERO, INTERVAL] {
                let counters = [1, 2, 3].map(|requests| {
                    let ids = (0..n).filter(|id| id % 3 + 1 == requests);
                    add(&limiter, ids, u64::MAX, requests, now)
                });
                for counter in &counters {
                    now += INTERVAL;
                    for _ in 0..calls {
                        let _ = limiter.try_acquire(&other, now);
                        now += pause;
                    }
                    let clones = clones(counter);
                    assert!(
                        clones == 0,
                        "{clones} clones of idle keys are stored after {calls} \
                         calls of another key, {pause:?} apart: expected 0"
                    );
                }
            }
        }
    }

    #[test]
    fn a_stream_of_new_keys_does_not_accumulate_keys() {
        // Other keys remain active for long, but are not used any more.
        for (active, others) in [(1, 1), (100, 500), (2000, 0)] {
            let mut now = Instant::now();
            let limiter = KeyedLimiter::new(quota(10, 300), now);
            let ids = 40_000..40_000 + others;
            let other = add(&limiter, ids, u64::MAX, 300, now);
            let counter = Arc::new(());
            for id in 0..40_000 {
                let key = (id, SameHash(0), Arc::clone(&counter));
                let _ = limiter.try_acquire(&key, now);
                now += INTERVAL / active;
                let clones = clones(&counter) + clones(&other);
                let a = active as usize + others as usize;
                let most = 2 * (3 * a + 1000);
                assert!(
                    clones <= most,
                    "{clones} clones of keys are stored, with a = {a} active \
                     keys: expected at most 2 * (3a + 1000) = {most}"
                );
            }
        }
    }

    #[test]
    fn no_call_forgets_more_than_100_keys() {
        // The keys have different hashes, and then the same one.
        for (hashes, n) in [(u64::MAX, 20_000), (1, 2000)] {
            let start = Instant::now();
            let limiter = KeyedLimiter::new(quota(10, 3), start);
            let counter = add(&limiter, 0..n, hashes, 1, start);
            for call in 0..2 * n + 1000 {
                let before = clones(&counter);
                let other = (n + call % 5000, SameHash(0), Arc::default());
                let _ = limiter.try_acquire(&other, start + INTERVAL);
                let dropped = before - clones(&counter);
                assert!(
                    dropped <= 200,
                    "call {call} dropped {dropped} clones: expected at most 200"
                );
            }
        }
    }

    #[test]
    fn a_call_does_not_take_longer_if_more_keys_are_active() {
        let [few, many] = [20, 20_000].map(|n| {
            let start = Instant::now();
            let limiter = KeyedLimiter::new(quota(10, 3), start);
            add(&limiter, 0..n, u64::MAX, 3, start);
            let call = (n, SameHash(0), Arc::default());
            let hundred_calls = |_| {
                let before = Instant::now();
                (0..100).for_each(|_| _ = limiter.try_acquire(&call, start));
                before.elapsed()
            };
            (0..20).map(hundred_calls).min().unwrap()
        });
        assert!(
            many <= 30 * few,
            "100 calls took {few:?} with 20 active keys, and {many:?} with \
             20,000: expected at most 30 times as long"
        );
    }

    /// Sends requests of new keys. Returns a counter of the clones of these keys.
    fn add(
        limiter: &KeyedLimiter<(u64, SameHash, Arc<()>)>,
        ids: impl Iterator<Item = u64>,
        hashes: u64,
        requests: u64,
        now: Instant,
    ) -> Arc<()> {
        let counter = Arc::new(());
        let send = |id| {
            let key = (id % hashes, SameHash(id as u32), Arc::clone(&counter));
            for request in 1..=requests {
                let result = limiter.try_acquire(&key, now);
                assert_eq!(result, Ok(()), "request {request} of new key {id}");
            }
        };
        let most = 2 * ids.map(send).count();
        let clones = clones(&counter);
        assert!(
            clones <= most,
            "{clones} clones are stored: expected at most {most}, 2 of each key"
        );
        counter
    }

    fn clones(counter: &Arc<()>) -> usize {
        Arc::strong_count(counter) - 1
    }
}

fn quota(per_second: u32, burst: u32) -> Quota {
    let per_second = NonZero::new(per_second).unwrap();
    Quota { per_second, burst: NonZero::new(burst).unwrap() }
}

fn throttled(retry_after: Duration) -> Outcome {
    Err(Throttled { retry_after })
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SameHash(u32);

impl Hash for SameHash {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// The model. Times are nanoseconds after `new`. A request costs an interval.
#[derive(Debug, Clone)]
struct Bucket {
    interval: i128,
    full: i128,
    credit: i128,
    /// The time of the latest admitted request.
    at: i128,
    /// The limiter must decide as the model: it may not have forgotten the key.
    is_exact: bool,
}

impl Bucket {
    fn new(quota: Quota) -> Self {
        let per_second = i128::from(quota.per_second.get());
        let interval = (NANOS + per_second - 1) / per_second;
        let full = interval * i128::from(quota.burst.get());
        Self { interval, full, credit: full, at: 0, is_exact: true }
    }

    fn try_acquire(&mut self, now: i128) -> Outcome {
        let now = now.max(0);
        let credit = (self.credit + now - self.at).min(self.full);
        if credit < self.interval {
            let wait = (self.interval - credit) as u64;
            return throttled(Duration::from_nanos(wait));
        }
        let latest = self.at.max(now);
        self.credit = credit + latest - now - self.interval;
        self.at = latest;
        Ok(())
    }
}

/// Returns the time of a call, from the calls before it.
fn time(step: (u8, i128), now: i128, latest: i128, of: &Bucket) -> i128 {
    let Bucket { interval, full, credit, at, .. } = of;
    let (kind, size) = step;
    match kind {
        0..4 => now,
        // The earliest time at which the request is admitted, or 1 ns beside it.
        4..8 => at - credit + interval + size % 3 - 1,
        // Up to three intervals later.
        8..11 => now + interval * size / 1000,
        // Up to six intervals before the latest call.
        11..13 => latest - interval * size / 500,
        // After an idle time in which the quota refills up to three times.
        _ => latest + full * size / 1000,
    }
}

/// Compares the decisions of a limiter with those of the model, for `cases`
/// generated lists of calls. Times go back only if `clocks_disagree`. Unless the
/// limiter `is_exact`, it may then be stricter with a key that was idle.
fn check<F: Fn(u8, Instant) -> Outcome>(
    (keys, calls, cases): (Range<u8>, Range<usize>, u32),
    clocks_disagree: bool,
    is_exact: bool,
    limiter: impl Fn(Quota, Instant) -> F,
) {
    let is_keyed = keys.len() > 1;
    let step = (0..14_u8, 0..=3000_i128);
    let any = || prop_oneof![1..=u32::MAX, Just(u32::MAX)];
    let rate = prop_oneof![2 => 1..=20_u32, 1 => any()];
    let burst = prop_oneof![2 => 1..=5_u32, 1 => any()];
    let quota = (rate, burst).prop_map(|(rate, burst)| quota(rate, burst));
    let inputs = (quota, vec((step, keys), calls));
    let mut runner = TestRunner::deterministic();
    for _ in 0..cases {
        let (quota, calls) = inputs.new_tree(&mut runner).unwrap().current();
        let before_new = Instant::now();
        let try_acquire = limiter(quota, before_new + 10 * INTERVAL);
        let mut buckets = HashMap::new();
        let (mut now, mut latest) = (0, 0);
        for (step, key) in calls {
            let bucket = buckets.entry(key).or_insert(Bucket::new(quota));
            let earliest = if clocks_disagree { -NANOS } else { latest };
            now = time(step, now, latest, bucket).clamp(earliest, CENTURY);
            let full_at = bucket.at + bucket.full - bucket.credit;
            bucket.is_exact &= is_exact || now >= latest || full_at > latest;
            latest = latest.max(now);
            let before = bucket.clone();
            let expected = bucket.try_acquire(now);
            let nanos = Duration::from_nanos((now + NANOS) as u64);
            let result = try_acquire(key, before_new + nanos);
            assert!(
                result == expected || (!bucket.is_exact && result.is_err()),
                "{quota:?}: request{} at `new` {now:+} ns: seen {result:?}, \
                 expected {expected:?}; latest request at `new` {latest:+} ns",
                ["", &format!(" of key {key}")][usize::from(is_keyed)]
            );
            if result.is_err() {
                *bucket = before;
            }
        }
    }
}
