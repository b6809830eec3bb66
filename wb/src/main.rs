//! `cargo wb`: hands out the exercises of the workbook, grades attempts, says
//! why a wrong one is wrong, and keeps the score.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::spec::Route;
use crate::trouble::Trouble;
use crate::workbook::Workbook;

mod commands;
mod compile;
mod current;
mod grade;
mod lock;
mod process;
mod progress;
mod properties;
mod run;
mod show;
mod spec;
mod term;
mod trouble;
mod verify;
mod workbook;

/// The Backend Workbook. Without a command: where you are, and what is next.
#[derive(Debug, Parser)]
#[command(
    name = "cargo wb",
    bin_name = "cargo wb",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Word>,
}

#[derive(Debug, Subcommand)]
enum Word {
    /// Begin an exercise: copies its stub to attempts/
    Start {
        /// Else what comes next
        name: Option<String>,
    },
    /// Grade an attempt (exit code 0 passes, 1 wrong, 3 hangs, 4 does not
    /// compile)
    Check {
        /// Else the one you are at
        name: Option<String>,
        /// For editors and classrooms
        #[arg(long)]
        json: bool,
    },
    /// One more hint, of three
    Hint { name: Option<String> },
    /// The attempt beside the answer and its variants, once it passes
    Compare {
        name: Option<String>,
        /// Also when it does not pass yet
        #[arg(long)]
        spoil: bool,
    },
    /// Back to the stub; the attempt is kept as a numbered copy
    Reset { name: String },
    /// Which exercises are on the map
    Path { route: Option<Route> },
    /// Hold the workbook itself to its promises (for contributors)
    Verify(verify::Plan),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match process::end_all_on_signals().and_then(|()| run(arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(trouble) => {
            eprintln!("cargo wb: {trouble}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<u8, Trouble> {
    let book = Workbook::open()?;
    match arguments.command {
        None => commands::map::map(&book)?,
        Some(Word::Start { name }) => {
            commands::start::start(&book, name.as_deref())?;
        }
        Some(Word::Check { name, json }) => {
            return commands::check::check(&book, name.as_deref(), json);
        }
        Some(Word::Hint { name }) => {
            commands::hint::hint(&book, name.as_deref())?;
        }
        Some(Word::Compare { name, spoil }) => {
            commands::compare::compare(&book, name.as_deref(), spoil)?;
        }
        Some(Word::Reset { name }) => commands::reset::reset(&book, &name)?,
        Some(Word::Path { route }) => commands::path::path(&book, route)?,
        Some(Word::Verify(plan)) => return verify::verify(&book, &plan),
    }
    Ok(0)
}
