//! Money moves between two services while processes crash and messages are
//! repeated: which transfers are debited, and which are credited?
//!
//! ```console
//! $ cargo run -p week08 --example transfer
//! $ cargo run -p week08 --example transfer -- --pattern tcc --chaos 7
//! ```
//!
//! The services run the code of the exercises on simulated databases and queues.
//! A number chooses the order of all effects, and the faults. `cargo run -p
//! week08-transfer` runs them as processes on Postgres and the mock Kafka, and
//! kills them. It also has the pattern `tail`.

#[path = "../../tests/grade/tcc/cluster.rs"]
mod cluster;
#[path = "../../tests/grade/half_message/cluster.rs"]
mod half_message;
#[path = "../../tests/grade/pipeline.rs"]
mod pipeline;
mod size;

use std::error::Error;
use std::fmt;

use clap::{Parser, ValueEnum};
use fastrand::Rng;
use lab::guess;
use size::{ATTEMPTS, BALANCE, FAULTS, MAX_ACTIONS, MAX_CHECKS, TRANSFERS};
use week08::money::cluster::{Action, Cluster, FROM, Process, Service, TO};
use week08::money::explore::{System, run_at_random};

#[derive(Parser)]
struct Arguments {
    /// The protocol between the services.
    #[arg(long, value_enum, default_value = "outbox")]
    pattern: Pattern,
    /// Chooses the order of effects, and the faults.
    #[arg(long, default_value = "1", value_name = "SEED")]
    chaos: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Pattern {
    /// An outbox and a relay, and an inbox.
    Outbox,
    /// Half messages in a broker, with check-backs, and an inbox.
    Half,
    /// Try, confirm, cancel.
    Tcc,
}

/// The number of actions of each kind.
#[derive(Default)]
struct Counts {
    crashes: u32,
    repeats: u32,
    losses: u32,
    failures: u32,
    received: u32,
}

/// The number of runs after the run that is shown.
const RUNS: u64 = 1_000;

/// The width of a line's text.
const WIDTH: usize = 62;

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { pattern, chaos } = Arguments::parse();
    match pattern {
        Pattern::Outbox => {
            show(&pipeline::pipeline(TRANSFERS, 2, FAULTS), chaos)
        }
        Pattern::Half => {
            let setup = half_message::Setup {
                transfers: TRANSFERS,
                balance: BALANCE,
                attempts: ATTEMPTS,
                max_checks: MAX_CHECKS,
                retries: 0,
                must_complete: false,
            };
            show(&half_message::cluster(setup, FAULTS), chaos)
        }
        Pattern::Tcc => {
            show(&cluster::cluster(TRANSFERS, BALANCE, None, FAULTS), chaos)
        }
    }
}

fn show<P: Process>(
    start: &Cluster<P>,
    seed: u64,
) -> Result<(), Box<dyn Error>> {
    println!(
        "{TRANSFERS} transfers of 1, 10, 100, … cents from the payment service \
         to the savings\nservice, with {} crashes, {} repeated messages, and \
         {} effects that fail or whose\nanswer is lost.\n",
        FAULTS.crashes, FAULTS.repeats, FAULTS.failures
    );
    let guess = guess::ask(
        "How many messages and calls does the savings service receive for \
         them?",
    )?;
    println!(
        "\nEach digit of a sum is a transfer: 1 if it was debited or credited, 0 \
         if not.\n\n{:WIDTH$}  debited  credited",
        "What happens"
    );
    let (mut system, mut random) = (start.clone(), Rng::with_seed(seed));
    let mut counts = Counts::default();
    let mut before = sums(&system, start);
    for _ in 0..MAX_ACTIONS {
        let mut actions = system.actions();
        if actions.is_empty() {
            break;
        }
        let action = actions.swap_remove(random.usize(..actions.len()));
        let text = system.describe(&action);
        counts.add(&action, &text);
        system.perform(&action);
        system.check()?;
        let sums = sums(&system, start);
        if sums != before || system.is_fault(&action) {
            let [debited, credited] = sums;
            let digits = TRANSFERS as usize;
            println!(
                "{:WIDTH$}  {debited:>7}  {credited:>8}",
                shortened(&text),
                debited = format!("{debited:0digits$}"),
                credited = format!("{credited:0digits$}"),
            );
        }
        before = sums;
    }
    system.check_settled()?;
    let [_, credited] = before;
    let complete = credited.to_string().matches('1').count();
    println!(
        "\n{complete} of {TRANSFERS} transfers were debited once and credited \
         once, and the others\nwere not made. {counts}\nThe savings service has \
         received {} messages and calls.{}",
        counts.received,
        guess::remark(guess.as_deref(), counts.received)
    );
    let wrong = (0..RUNS).filter(|run| {
        let mut random = Rng::with_seed(seed ^ (run << 32) ^ 1);
        let choose = |actions| random.usize(..actions);
        run_at_random(start.clone(), MAX_ACTIONS, choose).is_err()
    });
    println!(
        "{} of {RUNS} more runs have lost or created money.",
        wrong.count()
    );
    Ok(())
}

/// Returns the sums that were debited and credited.
fn sums<P: Process>(system: &Cluster<P>, start: &Cluster<P>) -> [i64; 2] {
    let balance = |system: &Cluster<P>, service, account| {
        system.database(service).accounts[&account]
    };
    let from = |system| balance(system, Service::Payment, FROM);
    let to = |system| balance(system, Service::Savings, TO);
    [from(start) - from(system), to(system) - to(start)]
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= WIDTH {
        return text.to_owned();
    }
    let start: String = text.chars().take(WIDTH - 1).collect();
    start + "…"
}

impl Counts {
    fn add<M>(&mut self, action: &Action<M>, text: &str) {
        match action {
            Action::Crash(_) => self.crashes += 1,
            Action::Repeat(..) | Action::TimeOut(_) => self.repeats += 1,
            Action::Lose(..) => self.losses += 1,
            Action::Perform(_, fate) => {
                use week08::money::cluster::Fate;
                self.failures += u32::from(*fate != Fate::Performed);
            }
            Action::Deliver(..) | Action::Call(..) => {
                self.received += u32::from(text.starts_with("savings"));
            }
            Action::Wake(_) => {}
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { crashes, repeats, losses, failures, .. } = self;
        write!(
            f,
            "There were {crashes} crashes, {repeats} repeated messages or early\n\
             time-outs, {losses} lost calls, and {failures} failed effects or \
             lost answers."
        )
    }
}
