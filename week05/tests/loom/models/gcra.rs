//! Properties that hold for every order in which threads run, and for every
//! value that a load can return.

use std::hash::{Hash, Hasher};
use std::num::NonZero;
use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::thread;

use crate::common::explore;
use crate::gcra::{KeyedLimiter, Limiter, Quota};

#[test]
fn two_threads_together_take_exactly_one_burst() {
    let start = Instant::now();
    for burst in [1, 2, 7] {
        explore(None, move || {
            let limiter =
                Arc::new(Limiter::new(quota_of_one_per_second(burst), start));
            let other = limiter.clone();
            let other = thread::spawn(move || other.try_acquire(start).is_ok());
            let first = [(); 5].map(|()| limiter.try_acquire(start).is_ok());
            let second = other.join().unwrap();
            let third = limiter.try_acquire(start).is_ok();
            assert_admitted(burst, &[&first[..], &[second, third]].concat());
        });
    }
}

#[test]
fn a_refusal_does_not_affect_a_request_of_another_thread() {
    let start = Instant::now();
    explore(None, move || {
        let limiter = Arc::new(Limiter::new(quota_of_one_per_second(1), start));
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
fn two_threads_together_take_one_burst_of_a_key_that_is_new_or_forgotten() {
    let start = Instant::now();
    let now = start + Duration::from_secs(1);
    let cases = [("new", now), ("idle", now), ("idle", start)];
    // The calls before: some attempts forget keys only in each 16th call.
    for ((state, first_at), calls) in
        cases.into_iter().flat_map(|case| (0..16).map(move |n| (case, n)))
    {
        explore(Some(3), move || {
            let limiter =
                Arc::new(KeyedLimiter::new(quota_of_one_per_second(1), start));
            if state == "idle" {
                // Idle from `now` on: either thread may forget it.
                let result = limiter.try_acquire(&Key(7), start);
                assert_eq!(result, Ok(()), "the first request of a key");
            }
            for _ in 0..calls {
                let _ = limiter.try_acquire(&Key(9), start);
            }
            let other = thread::spawn({
                let limiter = Arc::clone(&limiter);
                move || {
                    let _ = limiter.try_acquire(&Key(8), now);
                    limiter.try_acquire(&Key(7), now).is_ok()
                }
            });
            let first = limiter.try_acquire(&Key(7), first_at).is_ok();
            let second = other.join().unwrap();
            let third = limiter.try_acquire(&Key(7), now).is_ok();
            assert!(
                first_at == now || !first,
                "a thread whose clock is slow was admitted before the quota \
                 refilled, next to a thread that forgets the key"
            );
            assert_admitted(1, &[first, second, third]);
        });
    }
}

/// All keys have the same hash. Otherwise the seed of a hash would decide which
/// locks a model takes, and loom could not repeat an execution.
#[derive(Clone, PartialEq, Eq)]
struct Key(u32);

impl Hash for Key {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

fn quota_of_one_per_second(burst: u32) -> Quota {
    Quota {
        per_second: NonZero::<u32>::MIN,
        burst: NonZero::new(burst).unwrap(),
    }
}

/// The requests are sent at the same time, the last one after all others.
fn assert_admitted(burst: u32, admitted: &[bool]) {
    let count = admitted.iter().map(|&is_admitted| u32::from(is_admitted));
    let count = count.sum::<u32>();
    assert_eq!(
        count, burst,
        "requests at the same time, and then another one: {count} were \
         admitted {admitted:?}, expected a burst of {burst}"
    );
}
