//! The comment service of week 4 gets ten times its capacity: how much does it
//! answer in time, with protection and without?
//!
//! ```console
//! $ cargo run --release -p week05 --example overload
//! ```
//!
//! It takes a minute and a half. The service, its clients and the load run in
//! one process, over TCP on loopback. The service has a slow database: four
//! queries at a time, 40 ms each, which is 100 requests a second. A client waits
//! 250 ms for an answer, and sends a request at most three times.

mod client;
mod server;

use std::sync::Arc;
use std::time::Duration;

use lab::guess;
use lab::load::{self, Load, Outcome, Report};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use week05::criticality::Criticality;

use self::client::Client;
use self::server::{CAPACITY, Running};

/// The offered load, in multiples of the capacity.
const LOADS: [f64; 5] = [0.5, 1.0, 2.0, 5.0, 10.0];

/// How long each load lasts.
const DURATION: Duration = Duration::from_secs(8);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    allow_many_connections()?;
    println!(
        "The service can answer {CAPACITY} requests a second. It gets up to \
         ten times as many.\nWith protection, the server sheds load by \
         criticality and knows deadlines. Its clients have\na circuit breaker \
         for each class and a retry budget."
    );
    let question = "\nThe load is ten times the capacity, and nothing protects \
                    the service. How many percent of\nits capacity does it \
                    still answer in time?";
    let guess = guess::ask(question)?;
    let bare = measure(false).await?;
    let protected = measure(true).await?;
    print_table("without protection", &bare);
    print_table("with protection", &protected);
    println!(
        "\nThe goodput is a share of the capacity. \"late\" is how late the \
         generator sent 1 %\nof the requests."
    );
    print_chart(&bare, &protected);
    let last = bare.last().map_or(0.0, Measured::goodput);
    println!(
        "\nAt ten times the capacity, the service without protection answers \
         {:.0} % of its capacity in time.{}",
        100.0 * last,
        guess::remark(guess.as_deref(), (100.0 * last).round())
    );
    Ok(())
}

/// Raises the limit of open files: without protection, more than a thousand
/// connections are open, each with two ends in this process.
fn allow_many_connections() -> anyhow::Result<()> {
    let limits = getrlimit(Resource::Nofile);
    let wanted = limits.maximum.unwrap_or(u64::MAX).min(1 << 16);
    anyhow::ensure!(wanted >= 4096, "at most {wanted} files may be open");
    let current = Some(wanted);
    Ok(setrlimit(Resource::Nofile, Rlimit { current, ..limits })?)
}

/// What one load did.
struct Measured {
    times: f64,
    report: Report,
    /// The share of requests of each class that were served.
    classes: [f64; Criticality::ALL.len()],
}

impl Measured {
    /// Returns the goodput as a share of the capacity.
    fn goodput(&self) -> f64 {
        let rate = self.times * CAPACITY;
        let load = Load { rate, duration: DURATION };
        self.report.goodput(load) / CAPACITY
    }
}

/// Sends each load to a new service.
async fn measure(is_protected: bool) -> anyhow::Result<Vec<Measured>> {
    let mut all = Vec::new();
    for times in LOADS {
        let server = Running::start(is_protected).await?;
        let client = Arc::new(Client::new(server.address(), is_protected));
        let rate = times * CAPACITY;
        let name = if is_protected { "protected" } else { "bare" };
        let name = format!("{name}, {rate:.0} a second");
        let load = Load { rate, duration: DURATION };
        let request = |number| Arc::clone(&client).request(number);
        let report = load::send(load, &name, request).await;
        server.stop().await?;
        all.push(Measured { times, report, classes: client.shares() });
    }
    Ok(all)
}

fn print_table(name: &str, all: &[Measured]) {
    println!(
        "\n{name}:\n\n load  goodput  refused  failed   p50 ms  p99 ms  late ms  \
         served of each class, the least important first"
    );
    for measured in all {
        let report = &measured.report;
        let count = |outcome| report.count(outcome);
        let total = count(Outcome::Served)
            + count(Outcome::Refused)
            + count(Outcome::Failed);
        let percent = |outcome| 100.0 * count(outcome) as f64 / total as f64;
        let latency = |q| match report.quantile(Outcome::Served, q) {
            Some(latency) => latency.as_millis().to_string(),
            None => "-".to_owned(),
        };
        print!(
            "{:4}x {:>7.0}% {:>7.0}% {:>6.0}% {:>8} {:>7} {:>8} ",
            measured.times,
            100.0 * measured.goodput(),
            percent(Outcome::Refused),
            percent(Outcome::Failed),
            latency(0.5),
            latency(0.99),
            report.lateness(0.99).as_millis(),
        );
        for share in measured.classes {
            print!(" {:>4.0}%", 100.0 * share);
        }
        println!();
    }
}

/// Prints the goodput of both as bars.
fn print_chart(bare: &[Measured], protected: &[Measured]) {
    println!("\ngoodput, as a share of the capacity:\n");
    for (bare, protected) in bare.iter().zip(protected) {
        let load = format!("{}x", bare.times);
        for (label, name, goodput) in [
            (&*load, "bare", bare.goodput()),
            ("", "protected", protected.goodput()),
        ] {
            // A bar of 40 characters is the whole capacity.
            let bar = "#".repeat((40.0 * goodput).round() as usize);
            println!("{label:>5} {name:9} |{bar} {:.0}%", 100.0 * goodput);
        }
    }
}
