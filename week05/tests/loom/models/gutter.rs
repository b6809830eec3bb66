//! Models of `gutter`: checked for every interleaving of two threads.

use std::num::NonZero;
use std::time::{Duration, Instant};

use loom::thread;

use crate::common::explore;
use crate::gutter::Destination::{self, Gutter, Main};
use crate::gutter::{Call, Config, Router, Safety};
use crate::{sre_breaker, window};

const MINUTE: Duration = Duration::from_secs(60);
/// A random number with which a breaker allows each request.
const LUCKY: f64 = 1.0 - f64::EPSILON / 2.0;

/// For each call, where a request was sent, if at all.
type Results = [Vec<Option<Destination>>; 4];

/// What two threads see, or should see.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    results: Results,
    /// The failures and the refusals that the gutter breaker counts.
    failures: usize,
    /// Whether it allowed a request while two threads made calls.
    allowed: bool,
}

#[test]
fn two_threads_do_not_take_the_same_permit() {
    check(1, ["", "b", "b"]);
    check(1, ["m", "b", "f"]);
    check(2, ["b", "b", "mf"]);
}

#[test]
fn no_permit_is_lost_or_gained_by_calls_that_end_at_the_same_time() {
    check(2, ["", "bc", "bc"]);
    check(2, ["bm", "bf", "ff"]);
}

#[test]
fn a_permit_that_was_given_back_is_free_during_other_refusals() {
    check(1, ["e", "e", "ce"]);
    check(1, ["e", "mf", "ce"]);
    check(2, ["", "e", "ece"]);
}

/// Returns a router with breakers that have seen a failure each. They refuse
/// requests with the random number 0.
fn router(now: Instant, capacity: u32) -> &'static Router {
    let buckets = NonZero::new(2).unwrap();
    let breaker = sre_breaker::Config {
        k: 1.0,
        min_requests: 0,
        window: window::Config { bucket: 600 * MINUTE, buckets },
        probe_interval: Duration::MAX,
        slow_call: 600 * MINUTE,
    };
    let router = Router::new(
        Config {
            main: breaker,
            gutter: sre_breaker::Config {
                probe_interval: 60 * MINUTE,
                ..breaker
            },
            gutter_capacity: NonZero::new(capacity).unwrap(),
            max_staleness: MINUTE,
        },
        now,
    );
    let router = Box::leak(Box::new(router));
    for rands in [[LUCKY, LUCKY], [0.0, LUCKY]] {
        router.route(now, rands).expect("a free permit").failure(now);
    }
    router
}

/// Makes calls. `m`, `e` and `b` are requests: to the main cluster, to the
/// gutter, and back to the main cluster. `c` cancels the oldest one, and `f`
/// lets it fail over.
fn make(
    calls: &str,
    router: &'static Router,
    now: Instant,
    held: &mut Vec<Call<'static>>,
) -> Vec<Option<Destination>> {
    let make = |call| {
        let sent = match call {
            'm' => router.route(now, [LUCKY, LUCKY]).ok(),
            'e' => router.route(now, [0.0, LUCKY]).ok(),
            'b' => router.route(now, [0.0, 0.0]).ok(),
            _ if held.is_empty() => None,
            'f' => held.remove(0).fail_over(now, LUCKY, Safety::Idempotent),
            _ => {
                held.remove(0).cancel(now);
                None
            }
        };
        let to = sent.as_ref().map(Call::destination);
        held.extend(sent);
        to
    };
    calls.chars().map(make).collect()
}

/// Lets another thread make the second calls while this one makes the third.
/// This one also makes the first calls before. Then three calls `b` show how
/// many permits are free.
fn check(capacity: u32, calls: [&'static str; 3]) {
    let calls = [calls[0], calls[1], calls[2], "bbb"];
    let mut expected = Vec::new();
    let seen = Seen { failures: 1, ..Seen::default() };
    expect(capacity, &Default::default(), calls, seen, &mut expected);
    explore(None, move || {
        let now = Instant::now();
        let (router, mut held) = (router(now, capacity), Vec::new());
        let before = make(calls[0], router, now, &mut held);
        let other = thread::spawn(move || {
            let mut held = Vec::new();
            (make(calls[1], router, now + MINUTE, &mut held), held)
        });
        let own = make(calls[2], router, now + MINUTE, &mut held);
        let (other, others) = other.join().unwrap();
        let after = make(calls[3], router, now, &mut held);
        drop((held, others));
        let results = [before, other, own, after];
        let refuses = |now, rand| {
            let call = router.route(now, [LUCKY, LUCKY]).expect("main");
            call.fail_over(now, rand, Safety::Idempotent).is_none()
        };
        // A breaker refuses with the probability n / (n + 1) after n failures.
        let rand = |n| n as f64 / (n as f64 + 1.0);
        let last = (0..9).rev().find(|n| refuses(now, rand(*n)));
        let failures = last.map_or(0, |n| n + 1);
        // A request that it allowed has postponed its probe.
        let allowed = refuses(now + 60 * MINUTE, 0.0);
        let seen = Seen { results, failures, allowed };
        assert!(
            expected.contains(&seen),
            "calls {calls:?}, the second and the third at the same time, with \
             {capacity} permits ([m]ain, [e]xcess, [b]ack, [c]ancel, [f]ail \
             over): {seen:?}, expected one of {expected:?}"
        );
    });
}

/// Adds what is seen for each order of the calls. A call that is held has a
/// destination, and may have a permit.
fn expect(
    capacity: u32,
    held: &[Vec<(Destination, bool)>; 2],
    left: [&str; 4],
    seen: Seen,
    all: &mut Vec<Seen>,
) {
    let next: &[usize] = match left {
        ["", "", "", ""] => return all.push(seen),
        ["", "", "", _] => &[3],
        ["", ..] => &[1, 2],
        _ => &[0],
    };
    for &i in next.iter().filter(|i| !left[**i].is_empty()) {
        let (mut held, mut left, mut seen) = (held.clone(), left, seen.clone());
        let (call, rest) = left[i].split_at(1);
        left[i] = rest;
        let own = &mut held[usize::from(i == 1)];
        let mut wants_permit = call != "m";
        if matches!(call, "c" | "f") {
            let ended = (!own.is_empty()).then(|| own.remove(0));
            wants_permit = call == "f" && ended == Some((Main, false));
            seen.failures +=
                usize::from(call == "f" && matches!(ended, Some((Gutter, _))));
        }
        let taken = held.iter().flatten().filter(|(_, permit)| *permit).count();
        let sent = match call {
            "m" => Some((Main, false)),
            _ if !wants_permit || taken as u32 == capacity => None,
            "b" => {
                seen.failures += 1;
                Some((Main, true))
            }
            _ => {
                seen.allowed |= i == 1 || i == 2;
                Some((Gutter, true))
            }
        };
        seen.results[i].push(sent.map(|(to, _)| to));
        held[usize::from(i == 1)].extend(sent);
        expect(capacity, &held, left, seen, all);
    }
}
