//! Models of `sre_breaker`: checked for every interleaving of two threads.

use std::num::NonZero;
use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::thread;

use crate::common::explore;
use crate::sre_breaker::{Breaker, Config};
use crate::window;

const SECOND: Duration = Duration::from_secs(1);

/// Returns a breaker that has seen some requests, which have failed.
fn breaker(k: f64, failures: u32, now: Instant) -> Arc<Breaker> {
    let buckets = NonZero::new(2).unwrap();
    let breaker = Arc::new(Breaker::new(
        Config {
            k,
            min_requests: 0,
            window: window::Config { bucket: 60 * SECOND, buckets },
            probe_interval: SECOND,
            slow_call: 3_600 * SECOND,
        },
        now,
    ));
    for _ in 0..failures {
        breaker.allow(now, 0.9).expect("0.9 is above p").failure(now);
    }
    breaker
}

#[test]
fn two_threads_send_one_probe_and_not_two() {
    explore(None, || {
        let start = Instant::now();
        let breaker = breaker(2.0, 1, start);
        let due = start + SECOND;
        let other = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || breaker.allow(due, 0.0).is_ok()
        });
        let passed = breaker.allow(due, 0.0).is_ok();
        let other = other.join().unwrap();
        let seen = u32::from(passed) + u32::from(other);
        assert_eq!(
            seen, 1,
            "requests that passed when a probe was due: seen (left), expected \
             (right)"
        );
    });
}

#[test]
fn a_result_and_a_refusal_at_the_same_time_both_count() {
    explore(None, || {
        let now = Instant::now();
        let breaker = breaker(2.0, 1, now);
        let call = breaker.allow(now, 0.9).expect("0.9 is above 1/2");
        let refused = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || breaker.allow(now, 0.4).is_err()
        });
        call.failure(now);
        assert!(refused.join().unwrap(), "passed: expected a refusal");
        // Now there are three requests and no accept.
        let passes = |rand| breaker.allow(now, rand).is_ok();
        let seen = (passes(0.76), passes(0.74));
        assert_eq!(
            seen,
            (true, false),
            "after 2 failures and 1 refusal, passed with rand 0.76, and with \
             0.74: seen (left), expected (right), since p is 0.75"
        );
    });
}

#[test]
fn a_success_counts_as_request_and_accept_at_the_same_time() {
    for (failures, rand, passes) in [(0, 0.0, true), (1, 0.2, false)] {
        explore(None, move || {
            let now = Instant::now();
            let breaker = breaker(1.0, failures, now);
            let call = breaker.allow(now, 0.9).expect("0.9 is above p");
            let other = thread::spawn({
                let breaker = Arc::clone(&breaker);
                move || breaker.allow(now, rand).is_ok()
            });
            call.success(now);
            assert_eq!(
                other.join().unwrap(),
                passes,
                "after {failures} failures, next to a success, passed with \
                 rand {rand}: seen (left), expected (right)"
            );
        });
    }
}

#[test]
fn the_later_of_two_requests_that_pass_at_once_postpones_the_probe() {
    explore(None, || {
        let start = Instant::now();
        let breaker = breaker(2.0, 1, start);
        let chance = thread::spawn({
            let breaker = Arc::clone(&breaker);
            move || breaker.allow(start + SECOND / 2, 0.9).is_ok()
        });
        let probe = breaker.allow(start + 2 * SECOND, 0.0).is_ok();
        let chance = chance.join().unwrap();
        let early = start + 3 * SECOND - Duration::from_nanos(1);
        let early = breaker.allow(early, 0.0).is_ok();
        assert_eq!(
            (chance, probe, early),
            (true, true, false),
            "passed by chance after 1/2 s, as a probe after 2 s, and 1 ns \
             before 3 s: seen (left), expected (right)"
        );
    });
}
