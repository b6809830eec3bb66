//! A cluster fails, and a small spare cluster takes the excess.

use std::collections::VecDeque;
use std::num::NonZero;
use std::time::{Duration, Instant};

use week05::gutter::{Call, Config, Destination, Router};
use week05::simulator::Random;
use week05::{sre_breaker, window};

use crate::SECOND;
use crate::draw::{Axis, Chart, Line};

/// Requests per second.
const RATE: u32 = 5000;

/// The gutter serves so many requests at a time, each in `SERVICE_TIME`: 1,500
/// requests per second.
const CAPACITY: u32 = 15;
const SERVICE_TIME: Duration = Duration::from_millis(10);

const SECONDS: u32 = 60;

/// The main cluster is down from second 15 to second 35.
const OUTAGE: std::ops::Range<u32> = 15..35;

/// Draws who answers the requests while the main cluster is down.
pub(crate) fn gutter() -> String {
    let [main, gutter, refused] = simulate();
    let line = |name, counts: Vec<u32>| Line {
        name,
        points: counts
            .into_iter()
            .zip(0..)
            .map(|(count, second)| (f64::from(second), Some(f64::from(count))))
            .collect(),
    };
    Chart {
        title: "A gutter takes the excess: the main cluster is down",
        x: Axis {
            name: "seconds",
            range: (0.0, f64::from(SECONDS)),
            logarithmic: false,
        },
        y: Axis {
            name: "requests per second",
            range: (0.0, 7000.0),
            logarithmic: false,
        },
        lines: vec![
            line("answered by the main cluster", main),
            line("answered by the gutter", gutter),
            line("not answered", refused),
        ],
        shaded: Some((
            f64::from(OUTAGE.start),
            f64::from(OUTAGE.end),
            "main is down",
        )),
    }
    .to_svg()
}

fn simulate() -> [Vec<u32>; 3] {
    let start = Instant::now();
    let breaker = sre_breaker::Config {
        k: 2.0,
        min_requests: 20,
        window: window::Config {
            bucket: SECOND / 2,
            buckets: NonZero::new(6).expect("it is not zero"),
        },
        probe_interval: SECOND / 10,
        slow_call: SECOND,
    };
    let config = Config {
        main: breaker,
        gutter: breaker,
        gutter_capacity: NonZero::new(CAPACITY).expect("it is not zero"),
        max_staleness: 10 * SECOND,
    };
    let router = Router::new(config, start);
    let mut random = Random(2026);
    let mut at_gutter: VecDeque<(Instant, Call<'_>)> = VecDeque::new();
    let [mut main, mut gutter, mut refused] =
        [(); 3].map(|()| vec![0; SECONDS as usize]);
    for request in 0..SECONDS * RATE {
        let second = request / RATE;
        let now = start + SECOND * request / RATE;
        while at_gutter.front().is_some_and(|(end, _)| *end <= now) {
            let (end, call) = at_gutter.pop_front().expect("there is one");
            call.success(end);
        }
        let rands = [random.uniform(), random.uniform()];
        let slot = second as usize;
        match router.route(now, rands) {
            Err(_refused) => refused[slot] += 1,
            Ok(call) => match call.destination() {
                Destination::Gutter => {
                    gutter[slot] += 1;
                    at_gutter.push_back((now + SERVICE_TIME, call));
                }
                Destination::Main if OUTAGE.contains(&second) => {
                    call.failure(now);
                    refused[slot] += 1;
                }
                Destination::Main => {
                    call.success(now);
                    main[slot] += 1;
                }
            },
        }
    }
    for (end, call) in at_gutter {
        call.success(end);
    }
    [main, gutter, refused]
}
