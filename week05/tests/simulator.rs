//! The simulator: its queue follows the theory, and each request ends once.

use std::num::NonZero;
use std::time::Duration;

use week05::simulator::overload::{
    CAPACITY, DURATION, Protection, WARM_UP, scenario,
};
use week05::simulator::{Fault, Scenario, Slot, run};

const PROTECTIONS: [Protection; 5] = [
    Protection::None,
    Protection::RateLimit,
    Protection::Criticality,
    Protection::Breaker,
    Protection::All,
];

const SECOND: Duration = Duration::from_secs(1);

/// Returns the goodput after the warm-up, as a share of the capacity.
fn goodput(scenario: &Scenario) -> f64 {
    let seconds = (scenario.duration - WARM_UP).as_secs_f64();
    run(scenario).total(WARM_UP).served as f64 / seconds / CAPACITY
}

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
        scenario.duration = 1000 * SECOND;
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
            (0.96..1.04).contains(&ratio),
            "load {load}: expected {expected} s, saw {mean:?}"
        );
    }
}

#[test]
fn goodput_collapses_without_protection_and_holds_with_all_policies() {
    let goodput = |protection, load| goodput(&scenario(protection, load));
    for load in [1.2, 1.3, 2.0, 10.0] {
        let bare = goodput(Protection::None, load);
        assert!(bare < 0.05, "no protection, load {load}: {bare}");
        let protected = goodput(Protection::All, load);
        assert!(protected > 0.85, "all policies, load {load}: {protected}");
    }
}

/// At ten times the load, 30 refusals cost 15 % of a request. With nine tenths of
/// the capacity admitted, that is more than there is.
#[test]
fn a_rate_limit_has_to_leave_room_for_the_cost_of_refusals() {
    let goodput = |per_second, max_queue| {
        let mut scenario = scenario(Protection::RateLimit, 10.0);
        let quota = scenario.server.rate_limit.as_mut().expect("it has one");
        quota.per_second = NonZero::new(per_second).expect("not zero");
        scenario.server.max_queue = max_queue;
        goodput(&scenario)
    };
    let [over, under, short] =
        [goodput(180, 1000), goodput(160, 1000), goodput(180, 50)];
    assert!(over < 0.05, "180 a second, a long queue: {over}");
    assert!(under > 0.75, "160 a second, a long queue: {under}");
    assert!(short > 0.8, "180 a second, a short queue: {short}");
}

#[test]
fn a_breaker_alone_needs_a_server_with_a_short_queue() {
    let mut scenario = scenario(Protection::Breaker, 10.0);
    let long = goodput(&scenario);
    scenario.server.max_queue = 50;
    let short = goodput(&scenario);
    assert!(long < 0.5, "1,000 places: {long}");
    assert!(short > 0.9, "50 places: {short}");
}

#[test]
fn a_probe_shortens_the_recovery_of_breakers() {
    // The share of the load that is served in seconds 42 to 46.
    let recovered = |probe_interval| {
        let mut scenario = scenario(Protection::Breaker, 0.7);
        scenario.duration = 60 * SECOND;
        scenario.server.fault = Some((20 * SECOND..40 * SECOND, Fault::Down));
        let breaker = scenario.client.breaker.as_mut().expect("it has one");
        breaker.min_requests = 1;
        breaker.probe_interval = probe_interval;
        let slots = run(&scenario).slots;
        let sum = |count: fn(&Slot) -> u64| -> u64 {
            slots[42..46].iter().map(count).sum()
        };
        sum(|slot| slot.served) as f64 / sum(|slot| slot.offered) as f64
    };
    let (with, without) = (recovered(SECOND), recovered(Duration::MAX));
    assert!(with > without + 0.2, "{with} with a probe, {without} without");
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
