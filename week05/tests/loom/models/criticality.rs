//! Models of `criticality`: checked for every interleaving of two threads.

use std::num::NonZero;

use loom::sync::Arc;
use loom::thread;

use crate::common::explore;
use crate::criticality::Criticality::{Critical, Sheddable};
use crate::criticality::Quality::Degraded;
use crate::criticality::{Config, Permit, Shedder};

/// For each request: 0 for a full answer, 1 for a degraded one, and 2 for a
/// refusal, which has a utilisation.
type Results = Vec<(usize, f64)>;

#[test]
fn two_requests_at_the_same_time_take_two_places_and_not_one() {
    for before in ["", "c", "cc"] {
        check([before, "c", "c", "cc"]);
    }
    check(["", "c", "cdc", "cc"]);
}

#[test]
fn a_refused_request_takes_no_place_from_another_one() {
    check(["c", "s", "c", "c"]);
    check(["cc", "c", "dc", "cc"]);
}

#[test]
fn a_request_and_a_drop_at_the_same_time_both_count() {
    check(["c", "c", "d", "cc"]);
    check(["cc", "s", "dd", "cc"]);
}

#[test]
fn statistics_during_a_request_count_its_result_or_nothing() {
    for before in ["", "c", "cc"] {
        explore(None, move || {
            let (shedder, mut permits) = (shedder(50), vec![]);
            make(before, &shedder, &mut permits);
            let (old, other) = (shedder.stats(Critical), Arc::clone(&shedder));
            let other = thread::spawn(move || make("c", &other, &mut vec![]));
            let seen = shedder.stats(Critical);
            other.join().unwrap();
            let expected = [old, shedder.stats(Critical)];
            let what = "the statistics during a request";
            assert!(
                expected.contains(&seen),
                "{what}: {seen:?}, expected one of {expected:?}"
            );
        });
    }
}

/// Two may be in flight. With one, a sheddable request is refused.
fn shedder(degrade_at: u8) -> Arc<Shedder> {
    Arc::new(Shedder::new(Config {
        max_in_flight: NonZero::new(2).unwrap(),
        degrade_at: [degrade_at; 4],
        refuse_at: [50, 50, 101, 101],
    }))
}

/// Makes calls: `c` is a critical request, `s` a sheddable one, and `d` drops the
/// oldest permit, if there is one.
fn make(calls: &str, shedder: &Shedder, permits: &mut Vec<Permit>) -> Results {
    let mut results = Vec::new();
    for call in calls.chars() {
        if call == 'd' {
            permits.drain(..permits.len().min(1));
            continue;
        }
        let class = if call == 's' { Sheddable } else { Critical };
        let result = shedder.try_acquire(class, 0.0);
        results.push(match &result {
            Ok(permit) => (usize::from(permit.quality == Degraded), 0.0),
            Err(error) => (2, error.utilisation),
        });
        permits.extend(result);
    }
    results
}

/// Lets another thread make the second calls while this one makes the third.
/// This one also makes the first calls before, and the last ones afterwards.
fn check(calls: [&'static str; 4]) {
    for degrade_at in [0, 50, 101] {
        let mut expected = Vec::new();
        expect(degrade_at, [0, 0], calls, Default::default(), &mut expected);
        explore(None, move || {
            let (shedder, mut permits) = (shedder(degrade_at), vec![]);
            let before = make(calls[0], &shedder, &mut permits);
            let other = thread::spawn({
                let (shedder, mut permits) = (Arc::clone(&shedder), vec![]);
                move || (make(calls[1], &shedder, &mut permits), permits)
            });
            let own = make(calls[2], &shedder, &mut permits);
            let (other, _held) = other.join().unwrap();
            let after = make(calls[3], &shedder, &mut permits);
            let seen = [before, other, own, after];
            assert!(
                expected.contains(&seen),
                "calls {calls:?} ([c]ritical, [s]heddable, [d]rop), the second \
                 and the third at the same time, with `degrade_at` {degrade_at}: \
                 (0 full, 1 degraded, 2 refused; utilisation) {seen:?}, \
                 expected one of {expected:?}"
            );
            let counted = [Sheddable, Critical].map(|c| shedder.stats(c));
            let counted = counted.map(|c| [c.full, c.degraded, c.refused]);
            for kind in 0..3 {
                let made = seen.iter().flatten().filter(|(k, _)| *k == kind);
                let (made, [s, c]) = (made.count() as u64, counted);
                let what = "counted (left), seen (right)";
                assert_eq!(s[kind] + c[kind], made, "results {kind}: {what}");
            }
        });
    }
}

/// Adds the results for each order of the calls.
fn expect(
    degrade_at: u8,
    held: [usize; 2],
    left: [&str; 4],
    results: [Results; 4],
    all: &mut Vec<[Results; 4]>,
) {
    let next: &[usize] = match left {
        ["", "", "", ""] => return all.push(results),
        ["", "", "", _] => &[3],
        ["", ..] => &[1, 2],
        _ => &[0],
    };
    for &i in next.iter().filter(|i| !left[**i].is_empty()) {
        let (mut held, mut left, mut results) = (held, left, results.clone());
        let (call, rest) = left[i].split_at(1);
        left[i] = rest;
        let n = held[0] + held[1];
        let own = &mut held[usize::from(i == 1)];
        if call == "d" {
            *own = own.saturating_sub(1);
        } else if n == 2 || (n == 1 && call == "s") {
            results[i].push((2, n as f64 / 2.0));
        } else {
            *own += 1;
            results[i].push((usize::from(n * 50 >= degrade_at.into()), 0.0));
        }
        expect(degrade_at, held, left, results, all);
    }
}
