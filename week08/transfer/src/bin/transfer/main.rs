//! Money moves between real processes, which are killed. Is a cent lost?
//!
//! ```console
//! $ cargo run -p week08-transfer -- --pattern outbox --chaos 7
//! $ cargo run -p week08-transfer -- --pattern tcc --transfers 100 --crashes 20
//! $ cargo run --release -p week08-transfer -- measure
//! $ cargo run --release -p week08-transfer -- publishers
//! ```
//!
//! The services are child processes, each with a database of its own in a real
//! Postgres, and with a mock Kafka cluster between them. They perform the
//! effects of the exercises. The parent kills them with SIGKILL, starts them
//! again, and reads both databases all the time.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use week06_service::broker;

use crate::print::Closed;
use crate::signals::{Signals, Stopped};

mod audit;
mod bare;
mod chaos;
mod child;
mod clients;
mod cpu;
mod fleet;
mod half;
mod kafka;
mod ledger;
mod measure;
mod outbox;
mod pattern;
mod print;
mod publishers;
mod report;
mod signals;
mod tailer;
mod tcc;
mod wire;
mod world;

/// Money moves between real processes, which are killed. Is a cent lost?
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    chaos: chaos::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Measures each pattern without chaos.
    Measure(measure::Options),
    /// Compares polling an outbox with tailing the log.
    Publishers(publishers::Options),
    /// Becomes one of the processes.
    #[command(hide = true)]
    Child(child::Options),
}

fn main() -> ExitCode {
    broker::run_if_asked();
    let Err(error) = run() else { return ExitCode::SUCCESS };
    // Nobody reads any more.
    if !error.is::<Closed>() {
        eprintln!("Error: {}", print::chain(&error));
    }
    let stopped = error.downcast_ref::<Stopped>();
    stopped.map_or(ExitCode::FAILURE, |stopped| stopped.exit_code().into())
}

fn run() -> Result<()> {
    let Arguments { command, chaos } = Arguments::parse();
    match command {
        Some(Command::Child(options)) => {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, child::run(options))
        }
        Some(Command::Measure(options)) => {
            Runtime::new()?.block_on(until_signal(measure::run(&options)))
        }
        Some(Command::Publishers(options)) => {
            let run = publishers::run(&options);
            Runtime::new()?.block_on(until_signal(run))
        }
        None => Runtime::new()?.block_on(chaos::run(&chaos)),
    }
}

/// Runs a command until a signal. Its server ends, and its files are removed.
async fn until_signal(run: impl Future<Output = Result<()>>) -> Result<()> {
    Signals::new()?.or(run).await
}
