//! A fault that ends, and how fast services recover with and without policies.

use std::time::Duration;

use week05::simulator::overload::{CAPACITY, Protection, scenario};
use week05::simulator::{Fault, Report, run};

use crate::SECOND;
use crate::draw::{Axis, Chart, Line};

fn over_time<'a>(
    name: &'a str,
    report: &Report,
    y: impl Fn(&week05::simulator::Slot) -> f64,
) -> Line<'a> {
    let points = report.slots.iter().zip(0..).map(|(slot, n)| {
        // The middle of the slot.
        let x = report.slot.as_secs_f64() * (f64::from(n) + 0.5);
        (x, Some(y(slot)))
    });
    Line { name, points: points.collect() }
}

fn time_axis(seconds: u32) -> Axis<'static> {
    let range = (0.0, f64::from(seconds));
    Axis { name: "seconds", range, logarithmic: false }
}

/// Draws how retries keep a server overloaded after it has recovered.
pub(crate) fn storm() -> String {
    let storm = |protection| {
        let mut scenario = scenario(protection, 0.7);
        scenario.duration = 90 * SECOND;
        let slow = 20 * SECOND..30 * SECOND;
        scenario.server.fault = Some((slow, Fault::Slow(4)));
        scenario
    };
    let bare = run(&storm(Protection::None));
    let protected = run(&storm(Protection::All));
    let mut with_budget = storm(Protection::None);
    with_budget.client.retry_budget =
        storm(Protection::All).client.retry_budget;
    let with_budget = run(&with_budget);
    let served = |slot: &week05::simulator::Slot| slot.served as f64 / CAPACITY;
    Chart {
        title: "A retry storm: the server is slow for ten seconds",
        x: time_axis(90),
        y: Axis {
            name: "per second / capacity",
            range: (0.0, 3.2),
            logarithmic: false,
        },
        lines: vec![
            over_time("goodput, no protection", &bare, served),
            over_time("attempts, no protection", &bare, |slot| {
                slot.attempts as f64 / CAPACITY
            }),
            over_time("goodput, retry budget", &with_budget, served),
            over_time("goodput, all together", &protected, served),
        ],
        shaded: Some((20.0, 30.0, "slow")),
    }
    .to_svg()
}

/// Draws how a breaker recovers with a probe, and without.
pub(crate) fn recovery() -> String {
    let run = |probe_interval| {
        let mut scenario = scenario(Protection::Breaker, 0.7);
        scenario.duration = 90 * SECOND;
        let down = 20 * SECOND..40 * SECOND;
        scenario.server.fault = Some((down, Fault::Down));
        if let Some(breaker) = &mut scenario.client.breaker {
            breaker.probe_interval = probe_interval;
            // Each of the 80 breakers has one or two requests a second.
            breaker.min_requests = 1;
        }
        run(&scenario)
    };
    let served = |slot: &week05::simulator::Slot| slot.served as f64 / CAPACITY;
    let (with, without) = (run(SECOND), run(Duration::MAX));
    Chart {
        title: "A breaker recovers: the server is down for twenty seconds",
        x: time_axis(90),
        y: Axis {
            name: "goodput / capacity",
            range: (0.0, 1.2),
            logarithmic: false,
        },
        lines: vec![
            over_time("no probe", &without, served),
            over_time("one probe a second for each breaker", &with, served),
        ],
        shaded: Some((20.0, 40.0, "down")),
    }
    .to_svg()
}
