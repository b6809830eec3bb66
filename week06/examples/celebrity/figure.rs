//! A simulation of the event: virtual time, one thread, a fixed seed.
//!
//! The parts are those of this week, and the database is a limit and a pause.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use plotters::prelude::*;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use week05::simulator::Random;
use week05::window;
use week06::hot::{self, HotKeys};
use week06::local_cache::{self, LocalCache};
use week06::singleflight::Group;

use crate::QUERY;

/// Reads per second before the event, of 20,000 subjects.
const USUAL: u32 = 200;

/// Reads per second of the celebrity's subject, from `EVENT` on.
const EXTRA: u32 = 1800;

const EVENT: u64 = 2;
const SECONDS: u64 = 8;

/// The width of a point of the chart.
const SLOT: Duration = Duration::from_millis(50);

/// The number of queries that the database serves at a time.
const CONNECTIONS: usize = 8;

/// How long values are cached.
const TTL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq)]
enum Part {
    None,
    /// A map with times to live, as it is often written.
    NaiveCache,
    SingleFlight,
    LocalCache,
}

const LINES: [(Part, &str, RGBColor); 4] = [
    (Part::None, "no protection", RGBColor(0, 0, 0)),
    (Part::NaiveCache, "a cache that merges nothing", RGBColor(230, 159, 0)),
    (Part::SingleFlight, "single flight", RGBColor(86, 180, 233)),
    (Part::LocalCache, "the local cache", RGBColor(0, 158, 115)),
];

struct Process {
    part: Part,
    start: Instant,
    connections: Semaphore,
    /// The number of queries in each slot.
    queries: Mutex<Vec<u32>>,
    flights: Group<u64, (), ()>,
    local: LocalCache<u64, (), ()>,
    naive: Mutex<HashMap<u64, Instant>>,
}

/// Draws the queries per second that the database gets.
pub(crate) fn queries() -> String {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (760, 400));
    let area = area.into_drawing_area();
    area.fill(&WHITE).expect("a string grows");
    let title = "An event begins: the database can answer 800 queries a second";
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..SECONDS as f64, 0.0..2500.0)
        .expect("the ranges are not empty");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds")
        .y_desc("queries per second")
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| format!("{y}"))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()
        .expect("a string grows");
    for (part, name, colour) in LINES {
        let style = colour.stroke_width(2);
        let slots = simulate(part);
        let points = slots.into_iter().zip(0..).map(|(queries, slot)| {
            let width = SLOT.as_secs_f64();
            let x = (f64::from(slot) + 0.5) * width;
            (x, f64::from(queries) / width)
        });
        chart
            .draw_series(LineSeries::new(points, style))
            .expect("a string grows")
            .label(name)
            .legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], style)
            });
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .position(SeriesLabelPosition::MiddleRight)
        .draw()
        .expect("a string grows");
    area.present().expect("a string grows");
    drop(chart);
    drop(area);
    svg
}

/// Returns the number of queries in each slot.
fn simulate(part: Part) -> Vec<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing");
    runtime.block_on(async {
        let process = Arc::new(Process::new(part));
        let mut random = Random(2026);
        let mut reads = tokio::task::JoinSet::new();
        let (mut number, mut due) = (0, Duration::ZERO);
        while due < Duration::from_secs(SECONDS) {
            sleep_until(process.start + due).await;
            let is_event = due >= Duration::from_secs(EVENT);
            let rate = USUAL + if is_event { EXTRA } else { 0 };
            // Of the reads in an event, nine of ten are for the celebrity.
            let celebrity = is_event && number % (rate / USUAL) != 0;
            let other = 1 + (random.uniform() * 20_000.0) as u64;
            let subject = if celebrity { 0 } else { other };
            let rand = random.uniform();
            reads.spawn(Arc::clone(&process).read(subject, rand));
            due += Duration::from_secs(1) / rate;
            number += 1;
        }
        let queries = process.queries().clone();
        reads.shutdown().await;
        queries
    })
}

impl Process {
    fn new(part: Part) -> Self {
        let number = |n| NonZero::new(n).expect("it is not zero");
        let hot = hot::Config {
            capacity: number(1000),
            window: window::Config {
                bucket: Duration::from_millis(100),
                buckets: number(10),
            },
            hot_at: NonZero::new(50).expect("it is not zero"),
            cool_below: NonZero::new(25).expect("it is not zero"),
        };
        let config = local_cache::Config {
            capacity: number(1000),
            ttl: TTL,
            jitter: 0.2,
            negative_ttl: TTL,
            stale_for: TTL,
        };
        let start = Instant::now();
        let slots = Duration::from_secs(SECONDS).div_duration_f64(SLOT);
        Self {
            part,
            start,
            connections: Semaphore::new(CONNECTIONS),
            queries: Mutex::new(vec![0; slots as usize]),
            flights: Group::default(),
            local: LocalCache::new(config, HotKeys::new(hot, start.into_std())),
            naive: Mutex::default(),
        }
    }

    async fn read(self: Arc<Self>, subject: u64, rand: f64) {
        let process = Arc::clone(&self);
        let now = Instant::now();
        match self.part {
            Part::None => self.query().await,
            Part::NaiveCache => {
                let cached = self.naive().get(&subject).copied();
                if cached.is_none_or(|until| until <= now) {
                    self.query().await;
                    self.naive().insert(subject, Instant::now() + TTL);
                }
            }
            Part::SingleFlight => {
                let query = move || async move {
                    process.query().await;
                    Ok(())
                };
                let _ = self.flights.run(subject, query).await;
            }
            Part::LocalCache => {
                let load = move || async move {
                    process.query().await;
                    Ok(Some(()))
                };
                let now = now.into_std();
                let _ = self.local.get(&subject, now, rand, load).await;
            }
        }
    }

    /// Sends a query to the database, which may let it wait.
    async fn query(&self) {
        let slot = self.start.elapsed().div_duration_f64(SLOT) as usize;
        if let Some(count) = self.queries().get_mut(slot) {
            *count += 1;
        }
        let permit = self.connections.acquire().await;
        let _connection = permit.expect("it is never closed");
        sleep(QUERY).await;
    }

    fn queries(&self) -> MutexGuard<'_, Vec<u32>> {
        self.queries.lock().expect("no code panics with the lock held")
    }

    fn naive(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.naive.lock().expect("no code panics with the lock held")
    }
}
