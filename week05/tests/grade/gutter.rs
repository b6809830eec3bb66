use std::collections::VecDeque;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::{array::uniform5, collection::vec, test_runner::TestRunner};
use week05::gutter::{Call, Config, Destination::*, Refused, Router, Safety};
use week05::sre_breaker::{self, Breaker};
use week05::window;

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);
const HOUR: Duration = Duration::from_secs(3_600);
const SAFETIES: [Safety; 3] =
    [Safety::Idempotent, Safety::NotExecuted, Safety::Unsafe];
/// The largest number below 1: with it, a breaker allows each request.
const LUCKY: f64 = 1.0 - f64::EPSILON / 2.0;
/// Send requests to the main cluster, to the gutter, and back to the first.
const ROUTES: [[f64; 2]; 3] = [[LUCKY, LUCKY], [0.0, LUCKY], [0.0, 0.0]];
/// So long ago that a call is slow if it is dropped.
static START: LazyLock<Instant> = LazyLock::new(|| Instant::now() - 2 * HOUR);

mod routes {
    use super::*;

    #[test]
    fn a_healthy_main_cluster_gets_every_request() {
        for capacity in [1, 1_500, u32::MAX] {
            let mut pair = Pair::new(config(capacity));
            let calls = pair.route_many(1_501, [0.0, 0.0]);
            calls.into_iter().for_each(|sent| pair.end(sent, 0));
            pair.route_many(1, [0.0, 0.0]);
        }
    }

    #[test]
    fn the_excess_goes_to_the_gutter_up_to_its_capacity() {
        fill_and_empty([0.0, LUCKY]);
        for capacity in [65_537, 1 << 31, u32::MAX] {
            let router = Pair::failing(config(capacity)).router;
            let calls = (0..65_538).map(|_| router.route(*START, [0.0, LUCKY]));
            let taken = calls.filter_map(Result::ok).collect::<Vec<_>>().len();
            assert_eq!(taken as u32, capacity.min(65_538), "permits taken");
        }
    }

    #[test]
    fn a_broken_gutter_sends_the_excess_back_up_to_its_capacity() {
        fill_and_empty([0.0, 0.0]);
        // The probability of a refusal becomes 0.9999991.
        let mut config = config(1);
        config.main.window.buckets = 1.try_into().unwrap();
        let router = Pair::failing(config).router;
        for _ in 0..1_100_000 {
            router.route(*START, [LUCKY; 2]).unwrap().failure(*START);
        }
        let calls = [(); 2].map(|()| router.route(*START, [0.0; 2]));
        let sent = calls.each_ref().map(Result::is_ok);
        assert_eq!(sent, [true, false], "sent back with one permit");
    }

    #[test]
    fn each_breaker_decides_with_its_own_random_number() {
        let rands = [0.1, 0.3, 0.49, 0.51, 0.6, 0.7, 0.9];
        for i in 0..2 * 49 {
            let mut pair = Pair::failing(config(1));
            let held = pair.route_many(i as u32 / 49, [0.0, LUCKY]);
            pair.route_and_end([rands[i / 7 % 7], rands[i % 7]], 2);
            held.into_iter().for_each(|sent| pair.end(sent, 2));
            pair.route_and_end([0.0, 0.6], 2);
        }
    }

    #[test]
    fn an_entry_expires_max_staleness_after_its_value_was_read() {
        let (zero, max) = (Duration::ZERO, Duration::MAX);
        for max_staleness in [zero, NANO, SECOND, SECOND + NANO, HOUR, max] {
            let config = Config { max_staleness, ..config(1) };
            let router = Router::new(config, *START);
            let ttl = |now| router.ttl(*START, now);
            let some = |ttl: Duration| (ttl > zero).then_some(ttl);
            for age in [zero, NANO, SECOND - NANO, SECOND, HOUR, 9 * HOUR] {
                let rest = max_staleness.saturating_sub(age);
                assert_eq!(
                    [ttl(*START + age), ttl(*START - age)],
                    [rest, max_staleness].map(some),
                    "ttl of a value read {age:?} ago, and {age:?} ahead: seen \
                     (left), expected (right), with {max_staleness:?}"
                );
            }
        }
    }
}

mod results {
    use super::*;

    #[test]
    fn any_sequence_of_calls_matches_two_breakers_and_the_permits() {
        let mut runner = TestRunner::deterministic();
        let steps = vec(uniform5(0.0..1.0_f64), 0..200);
        for i in 0..300 {
            let mut config = config([1, 2, 5, u32::MAX][i % 4]);
            (config.main.k, config.gutter.k) = ([1.0, 1.5, 2.0][i % 3], 1.4);
            config.main.slow_call = [SECOND, Duration::MAX][i % 2];
            config.gutter.slow_call = [Duration::MAX, SECOND / 3][i / 2 % 2];
            config.gutter.min_requests = [0, 0, 3][i % 3];
            config.main.window.bucket = [HOUR, SECOND / 2][i % 2];
            if i % 3 == 0 {
                config.main.probe_interval = SECOND / 3;
                config.gutter.probe_interval = SECOND / 2;
            }
            let mut pair = Pair::new(config);
            let mut in_flight: Vec<Sent> = Vec::new();
            let steps = steps.new_tree(&mut runner).unwrap().current();
            for [pause, what, index, a, b] in steps {
                pair.now += SECOND.mul_f64(pause.powi(4));
                if what < 0.5 || in_flight.is_empty() {
                    in_flight.extend(pair.route([a, b]));
                    continue;
                }
                let index = (index * in_flight.len() as f64) as usize;
                let sent = in_flight.swap_remove(index);
                if what < 0.75 {
                    pair.end(sent, (b * 5.0) as usize);
                    continue;
                }
                let safety = SAFETIES[(b * 3.0) as usize];
                in_flight.extend(pair.resend(sent, a, safety));
            }
        }
    }

    #[test]
    fn every_end_of_a_call_gives_its_permit_back() {
        for i in 0..15 {
            let mut pair = Pair::failing(config(3));
            for _ in 0..20 {
                let calls = pair.route_many(4, ROUTES[i % 3]);
                calls.into_iter().for_each(|sent| pair.end(sent, i / 3));
            }
        }
    }
}

mod failover {
    use super::*;

    #[test]
    fn only_a_safe_first_call_to_the_main_cluster_fails_over_and_once() {
        for i in 0..9 {
            let (safety, rands) = (SAFETIES[i / 3], ROUTES[i % 3]);
            for (rand, held) in [(LUCKY, 0), (LUCKY, 1), (LUCKY, 2), (0.0, 0)] {
                let mut pair = Pair::failing(config(2));
                let _held = pair.route_many(held, [0.0, LUCKY]);
                let mut sent = pair.route(rands);
                while let Some(call) = sent {
                    sent = pair.resend(call, rand, safety);
                }
                pair.route_many(3, [0.0, LUCKY]);
            }
        }
    }

    /// 1,000 requests a second. The gutter serves 100: five at a time, for 50 ms.
    #[test]
    fn shares_are_steady_in_an_outage_and_traffic_returns_after_it() {
        let mut breaker = config(5).main;
        breaker.k = 2.0;
        breaker.window.bucket = SECOND * 3 / 10;
        breaker.probe_interval = SECOND / 5;
        let config = Config { main: breaker, gutter: breaker, ..config(5) };
        let router = Router::new(config, *START);
        let (mut sent, mut rands) = ([[0; 2]; 80], [0.5; 2]);
        let mut in_flight = VecDeque::<(usize, Call<'_>)>::new();
        for milli in 0..80_000 {
            let now = *START + SECOND * milli as u32 / 1_000;
            let second = milli / 1_000;
            let works = [!matches!(second, 5..50), !matches!(second, 20..30)];
            while in_flight.front().is_some_and(|call| call.0 <= milli) {
                let (_, call) = in_flight.pop_front().unwrap();
                let is_served = works[call.destination() as usize];
                if is_served { call.success(now) } else { call.failure(now) }
            }
            rands = [0, 1].map(|i| (rands[i] + [0.8191, 0.671][i]) % 1.0);
            if let Ok(call) = router.route(now, rands) {
                sent[second][call.destination() as usize] += 1;
                in_flight.push_back((milli + 50, call));
            }
        }
        for (seconds, main, gutter) in [
            (0..5, 1_000..=1_000, 0..=0),
            (10..20, 4..=15, 95..=101),
            (25..30, 85..=115, 4..=15),
            (45..50, 4..=15, 95..=101),
            (75..80, 1_000..=1_000, 0..=0),
        ] {
            let seen = &sent[seconds.clone()];
            assert!(
                seen.iter()
                    .all(|[m, g]| main.contains(m) && gutter.contains(g)),
                "calls to [main, gutter] in each of the seconds {seconds:?}: \
                 {seen:?}, expected {main:?} and {gutter:?}; main fails in 5..50 \
                 and the gutter in 20..30"
            );
        }
    }
}

/// Takes and gives back all permits, several times.
fn fill_and_empty(rands: [f64; 2]) {
    for capacity in [1, 2, 17, 130, 1_500] {
        let mut pair = Pair::failing(config(capacity));
        for end in [0, 1, 2] {
            let mut held = pair.route_many(capacity, rands);
            ROUTES.into_iter().for_each(|rands| pair.route_and_end(rands, 1));
            pair.end(held.pop().unwrap(), end);
            held.extend(pair.route_many(2, rands));
            held.into_iter().for_each(|sent| pair.end(sent, end));
            for rand in (0..40).map(|i| f64::from(i) / 40.0) {
                pair.route_and_end([rand, rand * 7.0 % 1.0], 2);
            }
        }
    }
}

fn config(capacity: u32) -> Config {
    let buckets = 10.try_into().unwrap();
    let breaker = sre_breaker::Config {
        k: 1.0,
        min_requests: 0,
        window: window::Config { bucket: HOUR, buckets },
        probe_interval: Duration::MAX,
        slow_call: HOUR,
    };
    let gutter_capacity = capacity.try_into().unwrap();
    let (main, gutter, max_staleness) = (breaker, breaker, SECOND);
    Config { main, gutter, gutter_capacity, max_staleness }
}

/// A router, and what is expected of it: two breakers, with the index 0 for the
/// main cluster and 1 for the gutter, and the number of permits taken.
struct Pair {
    router: &'static Router,
    breakers: [&'static Breaker; 2],
    taken: u32,
    capacity: u32,
    now: Instant,
}

type Seen = Option<Call<'static>>;

/// A call, and the expected one.
type Sent = (Call<'static>, Expected);

/// The index of the breaker, its call, and the number of permits: 0 or 1.
type Expected = (usize, sre_breaker::Call<'static>, u32);

impl Pair {
    fn new(config: Config) -> Self {
        let router = Box::leak(Box::new(Router::new(config, *START)));
        let breakers = [config.main, config.gutter]
            .map(|config| &*Box::leak(Box::new(Breaker::new(config, *START))));
        let (taken, capacity) = (0, config.gutter_capacity.get());
        Self { router, breakers, taken, capacity, now: *START }
    }

    /// Each breaker has seen a failure, so it refuses the random number 0.
    fn failing(config: Config) -> Self {
        let mut pair = Self::new(config);
        pair.route_and_end([LUCKY, LUCKY], 1);
        pair.route_and_end([0.0, LUCKY], 1);
        pair
    }

    /// Asks an expected breaker.
    fn allow(&mut self, to: usize, rand: f64, held: u32) -> Option<Expected> {
        let call = self.breakers[to].allow(self.now, rand).ok();
        self.taken += held * u32::from(call.is_some());
        Some((to, call?, held))
    }

    fn route(&mut self, rands: [f64; 2]) -> Option<Sent> {
        let mut expected = self.allow(0, rands[0], 0);
        if expected.is_none() && self.taken < self.capacity {
            expected = self.allow(1, rands[1], 1);
            expected = expected.or_else(|| self.allow(0, LUCKY, 1));
        }
        let call = self.router.route(self.now, rands);
        self.compare(call.map_err(|Refused| ()).ok(), expected)
    }

    fn route_and_end(&mut self, rands: [f64; 2], end: usize) {
        self.route(rands).into_iter().for_each(|sent| self.end(sent, end));
    }

    fn route_many(&mut self, count: u32, rands: [f64; 2]) -> Vec<Sent> {
        (0..count).filter_map(|_| self.route(rands)).collect()
    }

    fn resend(&mut self, sent: Sent, rand: f64, how: Safety) -> Option<Sent> {
        let (call, (_, expected, held)) = sent;
        expected.failure(self.now);
        self.taken -= held;
        let is_safe = how != Safety::Unsafe && held == 0;
        let is_sent = is_safe && self.taken < self.capacity;
        let expected = is_sent.then(|| self.allow(1, rand, 1));
        let call = call.fail_over(self.now, rand, how);
        self.compare(call, expected.flatten())
    }

    fn compare(&self, call: Seen, expected: Option<Expected>) -> Option<Sent> {
        assert_eq!(
            call.as_ref().map(Call::destination),
            expected.as_ref().map(|(to, ..)| [Main, Gutter][*to]),
            "destination: seen (left), expected (right), {} of {} permits taken",
            self.taken,
            self.capacity
        );
        call.zip(expected)
    }

    /// Ends a call by success (0), failure (1), cancel (2), drop (3) or a panic.
    fn end(&mut self, sent: Sent, end: usize) {
        let (call, (_, expected, held)) = sent;
        let now = if end > 2 { Instant::now() } else { self.now };
        self.taken -= held;
        match end {
            0 => (expected.success(now), call.success(now)),
            1 => (expected.failure(now), call.failure(now)),
            2 => (expected.cancel(now), call.cancel(now)),
            3 => (expected.cancel(now), drop(call)),
            _ => {
                let panics = move || panic!("on purpose, with {call:?}");
                thread::spawn(panics).join().unwrap_err();
                (expected.cancel(now), ())
            }
        };
    }
}
