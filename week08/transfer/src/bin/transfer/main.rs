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

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use week06_service::broker;

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
mod publishers;
mod report;
mod tailer;
mod tcc;
mod wire;
mod world;

#[derive(Parser)]
#[command(about, args_conflicts_with_subcommands = true)]
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

fn main() -> Result<()> {
    broker::run_if_asked();
    let Arguments { command, chaos } = Arguments::parse();
    match command {
        Some(Command::Child(options)) => {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, child::run(options))
        }
        Some(Command::Measure(options)) => {
            Runtime::new()?.block_on(measure::run(&options))
        }
        Some(Command::Publishers(options)) => {
            Runtime::new()?.block_on(publishers::run(&options))
        }
        None => Runtime::new()?.block_on(chaos::run(&chaos)),
    }
}
