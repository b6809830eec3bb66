use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{
    Config as Cases, RngAlgorithm, TestRng, TestRunner,
};
use proptest::{array::uniform4, collection::vec};
use week05::sre_breaker::{Breaker, Call, Config, Rejected};
use week05::window;

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);
const HOUR: Duration = Duration::from_secs(3_600);
const SIZES: [usize; 6] = [0, 1, 2, 17, 130, 1_500];
/// The largest number below 1: with it, a request passes by chance.
const LUCKY: f64 = 1.0 - f64::EPSILON / 2.0;
/// An hour ago, so that a call can have lasted long when it is dropped.
static START: LazyLock<Instant> = LazyLock::new(|| Instant::now() - HOUR);

mod throttle {
    use super::*;

    #[test]
    fn a_backend_that_accepts_every_request_gets_every_request() {
        for k in [1.0, 1.1, 2.0] {
            let mut pair = Pair::new(Config { k, ..config() });
            let calls = pair.pass_many(1_500, *START);
            for (i, call) in (0..).zip(calls) {
                let now = *START + i * HOUR / 4_000;
                pair.check(now, 0.0);
                pair.end(call, now, true);
                pair.check(now, 0.0);
            }
        }
    }

    #[test]
    fn the_probability_of_a_refusal_follows_the_formula() {
        for k in [1.0, 1.1, 2.0, 3.7, 100.0, 0.9, 0.0, -2.0, f64::NAN] {
            for (a, f) in SIZES.iter().flat_map(|a| SIZES.map(|f| (*a, f))) {
                let mut pair = Pair::new(Config { k, ..config() });
                pair.complete(a, f, *START);
                for _ in 0..5 {
                    let p = pair.probability(*START);
                    let mut rands = vec![p - 1e-6, p, p + 1e-6, p / 2.0, 0.0];
                    rands.retain(|rand| (0.0..1.0).contains(rand));
                    rands.into_iter().for_each(|r| pair.check(*START, r));
                }
            }
        }
    }

    #[test]
    fn with_fewer_requests_than_the_minimum_all_pass() {
        for min_requests in SIZES.map(|n| n as u64) {
            let mut pair = Pair::new(Config { min_requests, ..config() });
            for call in pair.pass_many(min_requests as usize + 2, *START) {
                pair.check(*START, 0.0);
                pair.end(call, *START, false);
            }
            pair.check(*START, 0.0);
        }
    }

    #[test]
    fn successes_and_refusals_of_4_threads_all_count() {
        let mut pair = Pair::new(Config { k: 1.0, ..config() });
        pair.complete(0, 1, *START);
        let breaker = pair.breaker;
        let send = || {
            for _ in 0..10_000 {
                breaker.allow(*START, LUCKY).unwrap().success(*START);
                breaker.allow(*START, 0.0).unwrap_err();
            }
        };
        thread::scope(|scope| [(); 4].map(|()| drop(scope.spawn(send))));
        (0..80_000).for_each(|i| pair.count(*START, i % 2 == 0));
        pair.check(*START, pair.probability(*START) + 1e-6);
        pair.check(*START, pair.probability(*START) - 1e-6);
    }

    #[test]
    fn requests_results_and_refusals_are_forgotten_after_the_window() {
        for (a, f) in [(0, 300), (300, 0), (100, 300)] {
            let probe_interval = Duration::MAX;
            let mut pair = Pair::new(Config { probe_interval, ..config() });
            pair.complete(a, f, *START);
            for tenths in 0..250 {
                let now = *START + tenths * SECOND / 10;
                pair.check(now, pair.probability(now) / 2.0);
            }
            pair.check(*START + 50 * SECOND, 0.0);
        }
    }
}

mod results {
    use super::*;

    #[test]
    fn a_cancelled_call_counts_nothing_unless_it_was_slow() {
        for slow_call in [Duration::ZERO, NANO, SECOND, HOUR, Duration::MAX] {
            let mut pair = Pair::new(Config { slow_call, ..config() });
            for after in [Duration::ZERO, NANO, SECOND, SECOND + NANO, HOUR] {
                let now = *START + after;
                for call in pair.pass_many(50, *START) {
                    pair.cancel(call, *START, now);
                }
                pair.check(now, pair.probability(now) + 1e-6);
                pair.check(now, (pair.probability(now) - 1e-6).max(0.0));
            }
        }
    }

    #[test]
    fn a_dropped_call_counts_nothing_unless_it_was_slow() {
        let now = Instant::now();
        for slow_call in [Duration::ZERO, SECOND, HOUR / 2, Duration::MAX] {
            for started in [*START, now, now + HOUR] {
                let mut pair = Pair::new(Config { slow_call, ..config() });
                for (i, call) in (0..).zip(pair.pass_many(50, started)) {
                    let ended = Instant::now();
                    while Instant::now() == ended {}
                    if ended.saturating_duration_since(started) > slow_call {
                        pair.count(ended, false);
                    }
                    if i % 25 > 0 { drop(call) } else { drop_in_panic(call) }
                }
                let now = Instant::now();
                pair.check(now, pair.probability(now) + 1e-6);
                pair.check(now, (pair.probability(now) - 1e-6).max(0.0));
            }
        }
    }

    #[test]
    fn any_sequence_of_calls_matches_the_counts() {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Cases::default(), rng);
        let calls = vec(uniform4(0.0..1.0_f64), 0..200);
        let intervals = [0, 300, 1_000, 30_000].map(Duration::from_millis);
        for i in 0..300 {
            let mut pair = Pair::new(Config {
                k: [1.0, 1.3, 2.0][i % 3],
                min_requests: [0, 1, 5, 20, u64::MAX][i / 5 % 5],
                probe_interval: *intervals.get(i % 5).unwrap_or(&Duration::MAX),
                slow_call: SECOND,
                ..config()
            });
            // In every other run clocks disagree, and times are before `new`.
            let (mut now, step_limit, back) = match i % 2 {
                0 => (*START, 4 * SECOND, Duration::ZERO),
                _ => (*START - SECOND, SECOND / 20, SECOND / 2),
            };
            let mut in_flight = Vec::new();
            let calls = calls.new_tree(&mut runner).unwrap().current();
            for [step, rand, result, index] in calls {
                now += step_limit.mul_f64(step.powi(4));
                let slow = if index < 0.9 { now } else { now - back };
                if result < 0.5 || in_flight.is_empty() {
                    let call = pair.allow(slow, (rand - 0.2).max(0.0));
                    in_flight.extend(call.map(|call| (slow, call)));
                    continue;
                }
                let index = (index * in_flight.len() as f64) as usize;
                match (in_flight.swap_remove(index), result) {
                    ((_, call), ..0.65) => pair.end(call, now, true),
                    ((_, call), ..0.85) => pair.end(call, slow, false),
                    ((started, call), _) => pair.cancel(call, started, slow),
                }
            }
        }
    }
}

mod probes {
    use super::*;

    #[test]
    fn one_request_per_interval_passes_and_no_more() {
        for probe_interval in [SECOND, SECOND / 7, 3 * SECOND, NANO] {
            let mut pair = Pair::new(Config { probe_interval, ..config() });
            pair.complete(0, 1_500, *START);
            let mut calls = Vec::new();
            for i in 1..20 {
                let due = *START + i * probe_interval;
                pair.check(due - NANO, 0.0);
                calls.push(pair.pass(due, 0.0));
                (0..3).for_each(|_| pair.check(due, 0.0));
                if i % 3 == 0 {
                    pair.end(calls.remove(0), due, false);
                }
            }
        }
    }

    #[test]
    fn a_healed_backend_gets_all_requests_again_within_a_minute() {
        let breaker = Breaker::new(config(), *START);
        let (mut rand, mut passed) = (0.5, [0; 100]);
        for millis in 0..100_000 {
            let now = *START + millis * SECOND / 1_000;
            rand = (rand + 0.618_034) % 1.0;
            let Ok(call) = breaker.allow(now, rand) else { continue };
            passed[millis as usize / 1_000] += 1;
            match millis {
                10_000..40_000 => call.failure(now),
                _ => call.success(now),
            }
        }
        let (failing, healed) = (&passed[25..40], &passed[41..]);
        assert!(
            failing.iter().all(|n| (1..20).contains(n))
                && healed.iter().all(|n| *n > 0)
                && healed[58] == 1_000,
            "of 1,000 requests in each second passed: while the backend failed \
             {failing:?} (expected: 1 to 19); after that {healed:?} (expected: \
             at least 1, and all in the last second)"
        );
    }
}

fn drop_in_panic(call: Call<'_>) {
    let call = AssertUnwindSafe(call);
    let panics = move || panic!("on purpose, with {call:?}");
    catch_unwind(panics).unwrap_err();
}

fn config() -> Config {
    let buckets = NonZero::new(10).unwrap();
    Config {
        k: 2.0,
        min_requests: 0,
        window: window::Config { bucket: SECOND, buckets },
        probe_interval: SECOND,
        slow_call: HOUR,
    }
}

/// A breaker, and the counts that are expected of it.
struct Pair {
    breaker: &'static Breaker,
    config: Config,
    latest: u64,
    /// The second of each request, and whether it was accepted.
    requests: Vec<(u64, bool)>,
    passed: Instant,
}

impl Pair {
    fn new(config: Config) -> Self {
        // Never freed, so that calls can be kept beside it.
        let breaker = Box::leak(Box::new(Breaker::new(config, *START)));
        let (requests, passed) = (Vec::new(), *START);
        Self { breaker, config, latest: 0, requests, passed }
    }

    /// Describes a call at `now`. All tests have the same window.
    fn describe(&self, now: Instant) -> String {
        let config = format!("{:?}", self.config)
            .replace(&format!("window: {:?}, ", self.config.window), "")
            .replace(&format!("{:?}", Duration::MAX), "Duration::MAX");
        let distance = match now.checked_duration_since(self.passed) {
            Some(idle) => format!("{idle:?} after"),
            None => format!("{:?} before", self.passed - now),
        };
        format!("{distance} the latest pass (or `new`), and {config}")
    }

    fn bucket(&self, now: Instant) -> u64 {
        now.saturating_duration_since(*START).as_secs().max(self.latest)
    }

    /// Returns the probability of a refusal.
    fn probability(&self, now: Instant) -> f64 {
        let oldest = self.bucket(now).saturating_sub(10);
        let counted = self.requests.iter().filter(|r| r.0 >= oldest);
        let requests = counted.clone().count();
        let accepts = counted.filter(|r| r.1).count() as f64;
        let k = if self.config.k > 1.0 { self.config.k } else { 1.0 };
        let p = (requests as f64 - k * accepts) / (requests as f64 + 1.0);
        let is_low = (requests as u64) < self.config.min_requests;
        if is_low { 0.0 } else { p.max(0.0) }
    }

    /// Calls `allow`, and compares the result with the expected one.
    fn allow(&mut self, now: Instant, rand: f64) -> Option<Call<'static>> {
        let call = self.breaker.allow(now, rand);
        let p = self.probability(now);
        let idle = now.saturating_duration_since(self.passed);
        let passes = rand >= p || idle >= self.config.probe_interval;
        // Rounding may decide, unless the probability is 0 or 1/2.
        if p == 0.0 || p == 0.5 || (p - rand).abs() > 1e-9 {
            assert_eq!(
                call.as_ref().map(drop).map_err(|error| *error),
                if passes { Ok(()) } else { Err(Rejected) },
                "allow: seen (left), expected (right), with rand {rand}, the \
                 probability {p}, {}",
                self.describe(now)
            );
        }
        match call {
            Ok(_) => self.passed = self.passed.max(now),
            Err(Rejected) => self.count(now, false),
        }
        call.ok()
    }

    /// Like `allow`, without a call that stays in flight.
    fn check(&mut self, now: Instant, rand: f64) {
        if let Some(call) = self.allow(now, rand) {
            self.cancel(call, now, now);
        }
    }

    fn pass(&mut self, now: Instant, rand: f64) -> Call<'static> {
        self.allow(now, rand).expect("the request passes")
    }

    fn pass_many(&mut self, count: usize, now: Instant) -> Vec<Call<'static>> {
        (0..count).map(|_| self.pass(now, LUCKY)).collect()
    }

    fn count(&mut self, now: Instant, accepted: bool) {
        self.latest = self.bucket(now);
        self.requests.push((self.latest, accepted));
    }

    fn end(&mut self, call: Call<'_>, now: Instant, accepted: bool) {
        self.count(now, accepted);
        if accepted { call.success(now) } else { call.failure(now) }
    }

    fn cancel(&mut self, call: Call<'_>, started: Instant, now: Instant) {
        if now.saturating_duration_since(started) > self.config.slow_call {
            self.count(now, false);
        }
        call.cancel(now);
    }

    fn complete(&mut self, accepts: usize, failures: usize, now: Instant) {
        for (i, call) in (0..).zip(self.pass_many(accepts + failures, now)) {
            self.end(call, now, i < accepts);
        }
    }
}
