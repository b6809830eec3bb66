//! One client of five sends more and more. What do the other four get?

use std::num::NonZero;

use week05::max_min::{Demand, share};

use crate::draw::{Axis, Chart, Line};

/// Requests per second that are shared.
const CAPACITY: u64 = 1000;

/// What each of four quiet clients wants.
const QUIET: u64 = 150;

/// What the hot client wants at most.
const MAX: u64 = 4000;

/// Draws the shares in proportion to what is wanted, and max-min shares.
pub(crate) fn fairness() -> String {
    let in_proportion = |wanted: u64, hot: u64| {
        let all = (hot + 4 * QUIET).max(CAPACITY);
        (wanted * CAPACITY) as f64 / all as f64
    };
    let max_min = |index: usize, hot: u64| {
        let wanted = [QUIET, QUIET, QUIET, QUIET, hot];
        let weight = NonZero::<u32>::MIN;
        let demands = wanted.map(|wanted| Demand { wanted, weight });
        share(CAPACITY, &demands)[index] as f64
    };
    let line = |name, y: &dyn Fn(u64) -> f64| Line {
        name,
        points: (0..=MAX / 50)
            .map(|step| (step as f64 * 50.0, Some(y(step * 50))))
            .collect(),
    };
    Chart {
        title: "A hot client: 1,000 a second, four others want 150 each",
        x: Axis {
            name: "requests per second that the hot client wants",
            range: (0.0, MAX as f64),
            logarithmic: false,
        },
        y: Axis {
            name: "share, requests per second",
            range: (0.0, 1400.0),
            logarithmic: false,
        },
        lines: vec![
            line("hot client, first come first served", &|hot| {
                in_proportion(hot, hot)
            }),
            line("quiet client, first come first served", &|hot| {
                in_proportion(QUIET, hot)
            }),
            line("hot client, max-min", &|hot| max_min(4, hot)),
            line("quiet client, max-min", &|hot| max_min(0, hot)),
        ],
        shaded: None,
    }
    .to_svg()
}
