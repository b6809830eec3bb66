//! The exercises of this week as policies: what is admitted, and what an end, a
//! drop and a refusal mean for each.

use std::num::NonZero;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use week05::bulkhead::{self, Bulkheads};
use week05::criticality::{self, Criticality, Shedder};
use week05::deadline::{self, Deadline, Latency};
use week05::gcra::{KeyedLimiter, Limiter, Quota};
use week05::layer::{Outcome, Permit as _, Policy};
use week05::policies::{DeadlineCheck, Isolated};
use week05::sre_breaker::{self, Breaker};
use week05::window;

const SECOND: Duration = Duration::from_secs(1);

fn number(n: u32) -> NonZero<u32> {
    NonZero::new(n).expect("it is not zero")
}

#[tokio::test]
async fn a_limiter_admits_its_burst_and_says_when_to_retry() {
    let quota = Quota { per_second: number(10), burst: number(2) };
    let now = Instant::now();
    let limiter = Limiter::new(quota, now);
    for _ in 0..2 {
        assert_eq!(limiter.admit((), now, 0.0).await, Ok(()));
    }
    let refused = limiter.admit((), now, 0.0).await.expect_err("too many");
    assert_eq!(refused.retry_after, SECOND / 10);
    let keyed = KeyedLimiter::new(quota, now);
    for key in ["a", "a", "b", "b"] {
        assert_eq!(keyed.admit(key, now, 0.0).await, Ok(()), "{key}");
    }
    assert!(keyed.admit("a", now, 0.0).await.is_err());
}

#[tokio::test]
async fn a_full_class_waits_and_does_not_delay_another_class() {
    let config = bulkhead::Config { permits: number(1), max_waiting: 1 };
    let bulkheads = Bulkheads::new([("a", config), ("b", config)].into());
    let now = Instant::now();
    let held = bulkheads.admit("a", now, 0.0).await.expect("one is free");
    let mut cx = Context::from_waker(Waker::noop());
    {
        let mut waiting = pin!(bulkheads.admit("a", now, 0.0));
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        let refused = bulkheads.admit("a", now, 0.0).await.expect_err("full");
        assert_eq!(refused, Isolated::Rejected(bulkhead::Rejected::Full));
        assert!(bulkheads.admit("b", now, 0.0).await.is_ok());
        // The one that waits is dropped here.
    }
    held.end(Outcome::Failure, now);
    assert!(bulkheads.admit("a", now, 0.0).await.is_ok());
    let refused = bulkheads.admit("c", now, 0.0).await.expect_err("unknown");
    assert_eq!(refused, Isolated::UnknownClass(bulkhead::UnknownClass));
}

#[tokio::test]
async fn a_request_with_less_time_than_usual_is_refused() {
    let check = DeadlineCheck { latency: Latency::new(100 * SECOND) };
    let start = Instant::now();
    let deadline = |timeout| Deadline::after(start, timeout);
    let begun = check.admit(deadline(SECOND), start, 0.0).await;
    let begun = begun.expect("nothing is known yet");
    begun.end(Outcome::Success, start + SECOND);
    let now = start + SECOND;
    let refused = check.admit(deadline(1500 * SECOND / 1000), now, 0.0).await;
    let refused = refused.expect_err("half a second is left");
    let typical = SECOND;
    let remaining = SECOND / 2;
    let expected = deadline::Rejected::NotEnoughTime { remaining, typical };
    assert_eq!(refused, expected);
    let refused = check.admit(deadline(SECOND), now, 0.0).await;
    assert_eq!(refused.expect_err("it is over"), deadline::Rejected::Expired);
    // A failure says nothing about the time of an answer.
    let begun = check.admit(Deadline::NEVER, now, 0.0).await.expect("no limit");
    begun.end(Outcome::Failure, now);
    assert_eq!(check.latency.typical(now), Some(SECOND));
}

#[tokio::test]
async fn a_dropped_request_was_at_least_as_long_as_it_lasted() {
    let check = DeadlineCheck { latency: Latency::new(100 * SECOND) };
    // It began ten minutes ago, as far as the check knows.
    let start = Instant::now().checked_sub(600 * SECOND);
    let start = start.expect("this machine has run for ten minutes");
    drop(check.admit(Deadline::NEVER, start, 0.0).await.expect("no limit"));
    let typical = check.latency.typical(Instant::now()).expect("one result");
    assert!(typical > 500 * SECOND, "{typical:?}");
    // A quick cancel says nothing about the time of an answer.
    let now = Instant::now();
    drop(check.admit(Deadline::NEVER, now, 0.0).await.expect("no limit"));
    let after = check.latency.typical(now).expect("one result");
    assert!(after > 500 * SECOND, "{typical:?} became {after:?}");
}

#[tokio::test]
async fn an_admitted_request_is_in_flight_until_it_ends_or_is_dropped() {
    let shedder = Shedder::new(criticality::Config {
        max_in_flight: number(1),
        degrade_at: [101; 4],
        refuse_at: [101; 4],
    });
    let now = Instant::now();
    let key = (Criticality::Critical, f64::NAN);
    for ends in [true, false] {
        let permit = shedder.admit(key, now, 0.0).await.expect("it is idle");
        assert!(shedder.admit(key, now, 0.0).await.is_err());
        if ends {
            permit.end(Outcome::Failure, now);
        } else {
            drop(permit);
        }
    }
    assert!(shedder.admit(key, now, 0.0).await.is_ok());
}

#[tokio::test]
async fn a_breaker_counts_each_outcome_and_no_dropped_call() {
    let breaker = || {
        let window = window::Config {
            bucket: SECOND,
            buckets: NonZero::new(10).expect("it is not zero"),
        };
        let config = sre_breaker::Config {
            k: 2.0,
            min_requests: 1,
            window,
            probe_interval: 100 * SECOND,
            slow_call: 100 * SECOND,
        };
        Breaker::new(config, Instant::now())
    };
    for (outcome, is_open) in [
        (Some(Outcome::Failure), true),
        (Some(Outcome::Success), false),
        (None, false),
    ] {
        let breaker = breaker();
        let now = Instant::now();
        for _ in 0..50 {
            // The random number is too large for a refusal.
            let call = breaker.admit((), now, 0.999).await.expect("allowed");
            match outcome {
                Some(outcome) => call.end(outcome, now),
                None => drop(call),
            }
        }
        let refused = breaker.admit((), now, 0.5).await.is_err();
        assert_eq!(refused, is_open, "after {outcome:?}");
    }
}
