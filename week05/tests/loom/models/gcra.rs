//! Properties that hold for every order in which threads run, and for every
//! value that a load can return.

use std::num::NonZero;
use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::thread;

use crate::common::explore;
use crate::gcra::{KeyedLimiter, Limiter, Quota};

#[test]
fn two_threads_together_take_exactly_one_burst() {
    let start = Instant::now();
    for burst in [1, 2] {
        explore(None, move || {
            let limiter = Arc::new(Limiter::new(one_per_second(burst), start));
            let other = limiter.clone();
            let other = thread::spawn(move || other.try_acquire(start).is_ok());
            let first = limiter.try_acquire(start).is_ok();
            let second = other.join().unwrap();
            let third = limiter.try_acquire(start).is_ok();
            assert_admitted(burst, [first, second, third]);
        });
    }
}

#[test]
fn a_refusal_does_not_affect_a_request_of_another_thread() {
    let start = Instant::now();
    explore(None, move || {
        let limiter = Arc::new(Limiter::new(one_per_second(1), start));
        let first = limiter.try_acquire(start);
        assert_eq!(first, Ok(()), "the first request");
        let other = limiter.clone();
        let other = thread::spawn(move || other.try_acquire(start));
        let second = limiter.try_acquire(start + Duration::from_secs(1));
        let early = other.join().unwrap();
        assert!(early.is_err(), "a request at the time of the first: admitted");
        assert_eq!(second, Ok(()), "1 s later, next to a refused request");
    });
}

#[test]
fn two_threads_together_take_one_burst_of_a_forgotten_key() {
    let start = Instant::now();
    let now = start + Duration::from_secs(1);
    explore(Some(3), move || {
        let limiter = Arc::new(KeyedLimiter::new(one_per_second(1), start));
        // Stored, and idle from `now` on: either thread may forget it.
        assert!(limiter.try_acquire(&7, start).is_ok(), "a new key: refused");
        let other = thread::spawn({
            let limiter = Arc::clone(&limiter);
            move || limiter.try_acquire(&7, now).is_ok()
        });
        let first = limiter.try_acquire(&7, now).is_ok();
        let second = other.join().unwrap();
        let third = limiter.try_acquire(&7, now).is_ok();
        assert_admitted(1, [first, second, third]);
    });
}

fn one_per_second(burst: u32) -> Quota {
    Quota {
        per_second: NonZero::<u32>::MIN,
        burst: NonZero::new(burst).unwrap(),
    }
}

/// The first two requests are sent at the same time, the third one afterwards.
fn assert_admitted(burst: u32, admitted: [bool; 3]) {
    let count = admitted.map(u32::from).iter().sum::<u32>();
    assert_eq!(
        count, burst,
        "two requests at the same time, and then a third one: {count} were \
         admitted {admitted:?}, expected a burst of {burst}"
    );
}
