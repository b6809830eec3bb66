//! Models of `sre_breaker`: checked for every interleaving of two threads.

use std::num::NonZero;
use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::thread;

use crate::common::explore;
use crate::sre_breaker::{Breaker, Config};
use crate::window;

const SECOND: Duration = Duration::from_secs(1);

/// Returns a breaker that has seen one request, which has failed.
fn breaker(now: Instant) -> Arc<Breaker> {
    let buckets = NonZero::new(2).unwrap();
    let breaker = Arc::new(Breaker::new(
        Config {
            k: 2.0,
            min_requests: 0,
            window: window::Config { bucket: 60 * SECOND, buckets },
            probe_interval: SECOND,
            slow_call: 3_600 * SECOND,
        },
        now,
    ));
    breaker.allow(now, 0.0).expect("the first request passes").failure(now);
    breaker
}

#[test]
fn two_threads_send_one_probe_and_not_two() {
    explore(None, || {
        let start = Instant::now();
        let breaker = breaker(start);
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
        let breaker = breaker(now);
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
