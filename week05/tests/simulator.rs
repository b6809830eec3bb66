//! The simulator: its queue follows the theory, and each request ends once.

use std::time::Duration;

use week05::simulator::overload::{
    CAPACITY, DURATION, Protection, WARM_UP, scenario,
};
use week05::simulator::{Fault, run};

const PROTECTIONS: [Protection; 5] = [
    Protection::None,
    Protection::RateLimit,
    Protection::Criticality,
    Protection::Breaker,
    Protection::All,
];

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn two_runs_with_the_same_seed_are_equal() {
    for protection in PROTECTIONS {
        let run = || run(&scenario(protection, 1.5));
        let (one, other) = (run(), run());
        assert_eq!(one.slots, other.slots, "{protection:?}");
        let latency = one.latency(0.99, WARM_UP);
        assert_eq!(latency, other.latency(0.99, WARM_UP), "{protection:?}");
    }
}

#[test]
fn another_seed_gives_another_run() {
    let mut other = scenario(Protection::None, 0.8);
    other.seed += 1;
    let one = run(&scenario(Protection::None, 0.8));
    assert_ne!(one.slots, run(&other).slots);
}

#[test]
fn each_request_ends_once() {
    for protection in PROTECTIONS {
        for load in [0.5, 1.0, 3.0] {
            let mut scenario = scenario(protection, load);
            let fault = 15 * SECOND..20 * SECOND;
            scenario.server.fault = Some((fault, Fault::Slow(5)));
            let report = run(&scenario);
            let all = report.total(Duration::ZERO);
            let ended = all.served + all.refused + all.not_sent + all.timed_out;
            assert_eq!(all.offered, ended, "{protection:?}, load {load}");
            let classes = report.classes.iter();
            let sums = classes
                .fold((0, 0), |sum, class| (sum.0 + class.0, sum.1 + class.1));
            assert_eq!(sums, (all.offered, all.served));
            let expected = load * CAPACITY * DURATION.as_secs_f64();
            let ratio = all.offered as f64 / expected;
            assert!((0.95..1.05).contains(&ratio), "{ratio}");
        }
    }
}

/// In a queue with random arrivals, random service times and `c` cores, the mean
/// wait is `C / (c - load) × service time` (Erlang C).
#[test]
fn the_mean_latency_matches_the_formula_of_erlang() {
    for load in [0.3, 0.6, 0.8] {
        let mut scenario = scenario(Protection::None, load);
        scenario.duration = 2000 * SECOND;
        scenario.client.timeout = 60 * SECOND;
        let service_time = scenario.server.service_time.as_secs_f64();
        let cores = scenario.server.cores;
        let busy = load * cores as f64;
        let term = |n: usize| {
            (1..=n).fold(1.0, |product, k| product * busy / k as f64)
        };
        let last = term(cores) / (1.0 - load);
        let waits = last / ((0..cores).map(term).sum::<f64>() + last);
        let wait = waits / (cores as f64 - busy) * service_time;
        let expected = service_time + wait;
        let mean =
            run(&scenario).mean_latency(WARM_UP).expect("all are served");
        let ratio = mean.as_secs_f64() / expected;
        assert!(
            (0.97..1.03).contains(&ratio),
            "load {load}: expected {expected} s, saw {mean:?}"
        );
    }
}

#[test]
fn goodput_collapses_without_protection_and_holds_with_all_policies() {
    let goodput = |protection, load| {
        let report = run(&scenario(protection, load));
        let seconds = (DURATION - WARM_UP).as_secs_f64();
        report.total(WARM_UP).served as f64 / seconds / CAPACITY
    };
    for load in [1.3, 2.0, 10.0] {
        let bare = goodput(Protection::None, load);
        assert!(bare < 0.05, "no protection, load {load}: {bare}");
        let protected = goodput(Protection::All, load);
        assert!(protected > 0.85, "all policies, load {load}: {protected}");
    }
}

#[test]
fn the_most_important_class_is_served_at_five_times_the_capacity() {
    let report = run(&scenario(Protection::All, 5.0));
    let shares =
        report.classes.map(|(offered, served)| served as f64 / offered as f64);
    assert!(shares[3] > 0.98, "{shares:?}");
    assert!(shares.is_sorted(), "a lower class was served more: {shares:?}");
}

#[test]
fn retries_keep_a_server_overloaded_after_a_fault() {
    let served_late = |protection| {
        let mut scenario = scenario(protection, 0.7);
        scenario.duration = 60 * SECOND;
        let fault = 20 * SECOND..30 * SECOND;
        scenario.server.fault = Some((fault, Fault::Slow(4)));
        let total = run(&scenario).total(40 * SECOND);
        total.served as f64 / total.offered as f64
    };
    let bare = served_late(Protection::None);
    assert!(bare < 0.05, "ten seconds after the fault: {bare}");
    let protected = served_late(Protection::All);
    assert!(protected > 0.9, "ten seconds after the fault: {protected}");
}
