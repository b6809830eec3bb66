//! A service at 0.1 to 10 times its capacity, with one policy or with all.

use std::fmt::Write as _;

use week05::criticality::Criticality;
use week05::simulator::overload::Protection::{self, All, None};
use week05::simulator::overload::{CAPACITY, DURATION, WARM_UP, scenario};
use week05::simulator::{Report, run};

use crate::draw::{Axis, Chart, Line};

const PROTECTIONS: [(Protection, &str); 5] = [
    (None, "no protection"),
    (Protection::RateLimit, "rate limit"),
    (Protection::Breaker, "breaker at the client"),
    (Protection::Criticality, "criticality"),
    (All, "all together"),
];

/// The offered load, in multiples of the capacity.
const LOADS: [f64; 16] = [
    0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.3, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0,
    10.0,
];

/// Returns the numbers of all runs as text.
pub(crate) fn table() -> String {
    let mut text = String::from(
        "The goodput is a share of the capacity. The other numbers are shares of \
         the requests.\n\n                       load  goodput  p99 ms  \
         refused  not sent  timed out  attempts  served: ",
    );
    let names = Criticality::ALL.map(Criticality::header);
    let _ = writeln!(text, "{}", names.join(", "));
    for (protection, name) in PROTECTIONS {
        for load in [0.8, 1.0, 1.3, 2.0, 4.0, 10.0] {
            let report = run(&scenario(protection, load));
            let total = report.total(WARM_UP);
            let share = |n: u64| n as f64 / total.offered as f64;
            let _ = write!(
                text,
                "{name:22} {load:4} {:8.2} {:>7} {:8.2} {:9.2} {:10.2} {:9.2} \
                 ",
                served(&report),
                report.latency(0.99, WARM_UP).map_or_else(
                    || "-".to_owned(),
                    |latency| latency.as_millis().to_string()
                ),
                share(total.refused),
                share(total.not_sent),
                share(total.timed_out),
                share(total.attempts),
            );
            for (offered, served) in report.classes {
                let _ = write!(text, " {:.2}", served as f64 / offered as f64);
            }
            text.push('\n');
        }
    }
    text
}

/// Returns the goodput as a share of the capacity.
fn served(report: &Report) -> f64 {
    let seconds = (DURATION - WARM_UP).as_secs_f64();
    report.total(WARM_UP).served as f64 / seconds / CAPACITY
}

fn lines(y: impl Fn(&Report) -> Option<f64>) -> Vec<Line<'static>> {
    let line = |(protection, name)| {
        let point = |load| (load, y(&run(&scenario(protection, load))));
        Line { name, points: LOADS.map(point).to_vec() }
    };
    PROTECTIONS.map(line).into()
}

fn load_axis() -> Axis<'static> {
    let name = "offered load, in multiples of the capacity";
    Axis { name, range: (0.1, 10.0), logarithmic: true }
}

/// Draws the goodput.
pub(crate) fn goodput() -> String {
    let y = Axis {
        name: "goodput / capacity",
        range: (0.0, 1.4),
        logarithmic: false,
    };
    Chart {
        title: "Goodput: requests that are answered in time",
        x: load_axis(),
        y,
        lines: lines(|report| Some(served(report))),
        shaded: Option::None,
    }
    .to_svg()
}

/// Draws the 99th percentile of the latency.
pub(crate) fn latency() -> String {
    let y = Axis { name: "p99, ms", range: (0.0, 1500.0), logarithmic: false };
    Chart {
        title: "Latency of requests that are answered in time",
        x: load_axis(),
        y,
        lines: lines(|report| {
            let p99 = report.latency(0.99, WARM_UP)?;
            Some(p99.as_secs_f64() * 1000.0)
        }),
        shaded: Option::None,
    }
    .to_svg()
}

/// Draws the share of requests whose last attempt was refused.
pub(crate) fn refusals() -> String {
    let y = Axis {
        name: "share of requests",
        range: (0.0, 1.4),
        logarithmic: false,
    };
    Chart {
        title: "Requests whose last attempt was refused",
        x: load_axis(),
        y,
        lines: lines(|report| {
            let total = report.total(WARM_UP);
            let refused = total.refused + total.not_sent;
            Some(refused as f64 / total.offered as f64)
        }),
        shaded: Option::None,
    }
    .to_svg()
}
