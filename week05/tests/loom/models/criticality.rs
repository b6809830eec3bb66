//! Models of `criticality`: checked for every interleaving of two threads.

use std::num::NonZero;

use loom::sync::Arc;
use loom::thread;

use crate::common::explore;
use crate::criticality::Criticality::{Critical, Sheddable};
use crate::criticality::{Config, Quality, Shedder};

/// Two may be in flight. With one, a sheddable request is refused.
fn shedder(degrade_at: u8) -> Arc<Shedder> {
    Arc::new(Shedder::new(Config {
        max_in_flight: NonZero::new(2).unwrap(),
        degrade_at: [degrade_at; 4],
        refuse_at: [50, 50, 101, 101],
    }))
}

#[test]
fn two_requests_at_the_same_time_take_two_places_and_not_one() {
    // The number of critical requests in flight, `degrade_at`, and how many are
    // then admitted with a full answer, with a degraded one, and refused.
    for (in_flight, degrade_at, expected) in [
        (0, 50, [1, 1, 0]),
        (0, 101, [2, 0, 0]),
        (0, 0, [0, 2, 0]),
        (1, 50, [0, 1, 1]),
        (2, 50, [0, 0, 2]),
    ] {
        explore(None, move || {
            let shedder = shedder(degrade_at);
            let acquire =
                |shedder: &Shedder| shedder.try_acquire(Critical, 0.0).ok();
            let stats = |shedder: &Shedder| {
                let stats = shedder.stats(Critical);
                [stats.full, stats.degraded, stats.refused]
            };
            let permits: Vec<_> =
                (0..in_flight).map(|_| acquire(&shedder)).collect();
            let before = stats(&shedder);
            let other = thread::spawn({
                let shedder = Arc::clone(&shedder);
                move || acquire(&shedder)
            });
            let own = acquire(&shedder);
            let other = other.join().unwrap();
            let counted = stats(&shedder);
            let counted = [0, 1, 2].map(|i| counted[i] - before[i]);
            let qualities =
                [&own, &other].map(|seen| seen.as_ref().map(|p| p.quality));
            let seen = [Some(Quality::Full), Some(Quality::Degraded), None]
                .map(|kind| qualities.iter().filter(|q| **q == kind).count());
            assert_eq!(
                (seen, counted),
                (expected, expected.map(|count| count as u64)),
                "two requests at the same time, with {in_flight} in flight, of \
                 at most 2: [full, degraded, refused] and the statistics, seen \
                 (left), expected (right)"
            );
            let third = acquire(&shedder).is_some();
            assert!(!third, "with 2 in flight: admitted, expected a refusal");
            drop((own, other, permits));
        });
    }
}

#[test]
fn a_refused_request_takes_no_place_from_another_one() {
    explore(None, || {
        let shedder = shedder(50);
        let permit = shedder.try_acquire(Critical, 0.0);
        assert!(permit.is_ok(), "with none in flight: refused");
        let other = thread::spawn({
            let shedder = Arc::clone(&shedder);
            move || shedder.try_acquire(Sheddable, 0.0).is_err()
        });
        let own = shedder.try_acquire(Critical, 0.0);
        assert!(other.join().unwrap(), "at 50 %, sheddable: admitted");
        assert!(
            own.is_ok(),
            "with 1 of 2 in flight, next to a request that is refused: a \
             critical request was refused as well, expected a permit"
        );
    });
}

#[test]
fn a_request_and_a_drop_at_the_same_time_both_count() {
    explore(None, || {
        let shedder = shedder(50);
        let permit = shedder.try_acquire(Critical, 0.0);
        assert!(permit.is_ok(), "with none in flight: refused");
        let other = thread::spawn(move || drop(permit));
        let own = shedder.try_acquire(Critical, 0.0);
        assert!(own.is_ok(), "with at most 1 of 2 in flight: refused");
        other.join().unwrap();
        // One is in flight. So the next one is degraded, and then it is full.
        let next = shedder.try_acquire(Critical, 0.0);
        let last = shedder.try_acquire(Critical, 0.0);
        let quality = next.as_ref().map(|permit| permit.quality);
        assert_eq!(
            (quality, last.is_ok()),
            (Ok(Quality::Degraded), false),
            "the next request, and whether the one after it is admitted: seen \
             (left), expected (right), with 1 of 2 in flight"
        );
    });
}
