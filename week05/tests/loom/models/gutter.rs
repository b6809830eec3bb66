//! Models of `gutter`: checked for every interleaving of two threads.

use std::num::NonZero;
use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::thread;

use crate::common::explore;
use crate::gutter::{Config, Destination, Router};
use crate::{sre_breaker, window};

/// A random number with which a breaker allows each request.
const LUCKY: f64 = 1.0 - f64::EPSILON / 2.0;

/// Returns a router with a main breaker that has seen one failure. It refuses
/// requests with the random number 0.
fn router(now: Instant, gutter_capacity: u32) -> Arc<Router> {
    let buckets = NonZero::new(2).unwrap();
    let hour = Duration::from_secs(3_600);
    let breaker = sre_breaker::Config {
        k: 1.0,
        min_requests: 0,
        window: window::Config { bucket: hour, buckets },
        probe_interval: hour,
        slow_call: hour,
    };
    let config = Config {
        main: breaker,
        gutter: breaker,
        gutter_capacity: NonZero::new(gutter_capacity).unwrap(),
        max_staleness: hour,
    };
    let router = Arc::new(Router::new(config, now));
    let first = router.route(now, [LUCKY, LUCKY]);
    first.expect("the main breaker allows the first request").failure(now);
    router
}

/// Returns how many of `requests` requests of the excess get a permit at once.
fn free_permits(router: &Router, now: Instant, requests: usize) -> usize {
    let calls = (0..requests).map(|_| router.route(now, [0.0, LUCKY]));
    let calls: Vec<_> = calls.collect();
    calls.iter().filter(|call| call.is_ok()).count()
}

#[test]
fn two_threads_do_not_take_the_same_permit() {
    explore(Some(3), || {
        let now = Instant::now();
        let router = router(now, 2);
        let held = router.route(now, [0.0, LUCKY]).expect("a free permit");
        std::mem::forget(held);
        let other = thread::spawn({
            let router = Arc::clone(&router);
            move || {
                let call = router.route(now, [0.0, LUCKY]);
                call.map(std::mem::forget).is_ok()
            }
        });
        let call = router.route(now, [0.0, LUCKY]);
        let sent = u32::from(call.map(std::mem::forget).is_ok());
        let sent = sent + u32::from(other.join().unwrap());
        assert_eq!(
            sent, 1,
            "requests sent with one free permit: seen (left), expected (right)"
        );
    });
}

#[test]
fn no_permit_is_lost_or_gained_by_calls_that_end_at_the_same_time() {
    explore(Some(3), || {
        let now = Instant::now();
        let router = router(now, 2);
        let other = thread::spawn({
            let router = Arc::clone(&router);
            move || {
                let call = router.route(now, [0.0, LUCKY]);
                let call = call.expect("there are two permits");
                let is_gutter = call.destination() == Destination::Gutter;
                assert!(is_gutter, "main: expected the gutter");
                drop(call);
            }
        });
        let call = router.route(now, [0.0, LUCKY]);
        call.expect("there are two permits").success(now);
        other.join().unwrap();
        assert_eq!(
            free_permits(&router, now, 3),
            2,
            "free permits of 2, after both calls have ended: seen (left), \
             expected (right)"
        );
    });
}

#[test]
fn a_permit_that_was_given_back_is_free_during_other_refusals() {
    explore(Some(3), || {
        let now = Instant::now();
        let router = router(now, 1);
        let held = router.route(now, [0.0, LUCKY]).expect("a free permit");
        let other = thread::spawn({
            let router = Arc::clone(&router);
            move || {
                let call = router.route(now, [0.0, LUCKY]);
                call.map(std::mem::forget).is_ok()
            }
        });
        held.success(now);
        let sent = router.route(now, [0.0, LUCKY]);
        let sent = u32::from(sent.map(std::mem::forget).is_ok());
        assert_eq!(
            sent + u32::from(other.join().unwrap()),
            1,
            "requests sent after one permit was given back: seen (left), \
             expected (right)"
        );
    });
}
