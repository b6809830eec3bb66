//! A server stalls for a second in every ten. What do a closed loop and an open
//! loop report?
//!
//! ```console
//! $ cargo run -p week08 --example coordinated_omission
//! $ cargo run -p week08 --example coordinated_omission -- --figure percentiles
//! ```
//!
//! The server is simulated, in virtual time. With `--figure percentiles`, the
//! program prints an SVG file: see `notes/pages/figures/week08`.

use std::error::Error;
use std::num::NonZero;
use std::time::Duration;

use lab::guess;
use plotters::prelude::*;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};
use week08::percentiles::{
    Connection, Failed, Plan, Report, closed_loop, open_loop,
};

const CONNECTIONS: usize = 10;

/// Requests per second of the open loop.
const RATE: NonZero<u64> = NonZero::new(1_000).unwrap();

/// How long the server needs for a request.
const SERVICE: Duration = Duration::from_millis(2);

/// The server stalls for the last second of this time.
const PERIOD: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(1);

const PLAN: Plan = Plan {
    warm_up: Duration::from_secs(1),
    duration: Duration::from_secs(60),
    timeout: Duration::from_secs(5),
};

/// A connection to the server.
struct Client {
    start: Instant,
}

impl Connection for Client {
    async fn request(&mut self, _number: u64) -> Result<(), Failed> {
        sleep(answer_after(self.start.elapsed())).await;
        Ok(())
    }
}

/// Returns how long a request takes that comes at `now`.
fn answer_after(now: Duration) -> Duration {
    let periods = now.as_millis() / PERIOD.as_millis();
    let rest = PERIOD * (periods as u32 + 1) - now;
    if rest <= STALL { rest + SERVICE } else { SERVICE }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => compare(),
        ["--figure", "percentiles"] => {
            print!("{}", figure()?);
            Ok(())
        }
        _ => Err("usage: coordinated_omission [--figure percentiles]".into()),
    }
}

fn compare() -> Result<(), Box<dyn Error>> {
    println!(
        "A server needs {SERVICE:?} for each request, but stalls for {STALL:?} \
         in every {PERIOD:?}.\nTwo load generators have {CONNECTIONS} \
         connections each, and run for {:?}:\n\nclosed loop  each connection \
         sends when its request before has ended\nopen loop    {RATE} requests \
         a second are due, and latency counts from then\n\nThe closed loop \
         reports a 99th percentile of 2 ms.",
        PLAN.duration
    );
    let guess = guess::ask(
        "\nHow many milliseconds is the 99th percentile of the open loop?",
    )?;
    let [closed, open] = [closed()?, open()?];
    println!(
        "\n{:11}{:>10}{:>8}{:>8}{:>8}{:>8}{:>8}{:>9}",
        "", "requests", "per s", "p50", "p90", "p99", "p99.9", "p99.99"
    );
    for (name, report) in [("closed loop", &closed), ("open loop", &open)] {
        print!("{name:11}{:10}", report.requests());
        print!("{:8.0}", report.throughput());
        for p in [50.0, 90.0, 99.0, 99.9] {
            print!("{:8}", millis(report, p));
        }
        println!("{:9}", millis(report, 99.99));
    }
    println!(
        "\nIn milliseconds. The open loop's 99th percentile is {} ms.{} The \
         closed loop has sent one\nrequest on each connection in a stall: {} \
         slow requests of {}. But users do not wait\nfor each other.",
        millis(&open, 99.0),
        guess::remark(guess.as_deref(), millis(&open, 99.0)),
        CONNECTIONS * (PLAN.duration.as_secs() / PERIOD.as_secs()) as usize,
        closed.requests(),
    );
    Ok(())
}

fn closed() -> Result<Report, Box<dyn Error>> {
    paused(async { closed_loop(PLAN, clients()).await })
}

fn open() -> Result<Report, Box<dyn Error>> {
    paused(async { open_loop(RATE, PLAN, clients()).await })
}

fn clients() -> Vec<Client> {
    let start = Instant::now();
    (0..CONNECTIONS).map(|_| Client { start }).collect()
}

/// Runs the future in virtual time.
fn paused<T>(future: impl Future<Output = T>) -> Result<T, Box<dyn Error>> {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build()?;
    Ok(runtime.block_on(future))
}

/// Returns a percentile in milliseconds. Each request is answered.
fn millis(report: &Report, p: f64) -> u128 {
    report.percentile(p).unwrap_or(Duration::MAX).as_millis()
}

/// Draws the percentiles of both reports. Each step to the right has a tenth of
/// the requests above it.
fn figure() -> Result<String, Box<dyn Error>> {
    let lines = [
        ("open loop: latency from when a request was due", open()?, RED),
        ("closed loop: latency from when it was sent", closed()?, BLUE),
    ];
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (760, 400));
    let area = area.into_drawing_area();
    area.fill(&WHITE)?;
    let title = "The same server, which stalls for a second in every ten";
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(14)
        .margin_right(28)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..5.0, 0.0..1_200.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(6)
        .x_desc("percentile")
        .y_desc("latency in milliseconds")
        .x_label_formatter(&|x| format!("{}", percent(*x)))
        .y_label_formatter(&|y| format!("{y}"))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    for (name, report, colour) in &lines {
        let style = colour.stroke_width(2);
        let points = (0..=500).map(|step| {
            let x = f64::from(step) / 100.0;
            (x, millis(report, percent(x)) as f64)
        });
        chart.draw_series(LineSeries::new(points, style))?.label(*name).legend(
            move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style),
        );
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}

/// Returns the percentile with a share of `10^-x` above it.
fn percent(x: f64) -> f64 {
    let above = 10.0_f64.powf(2.0 - x);
    ((100.0 - above) * 1e6).round() / 1e6
}
