//! `cargo wb`: hands out the exercises of the workbook, grades attempts, says
//! why a wrong one is wrong, and keeps the score.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::check::Reader;
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
mod status;
mod term;
mod terminal;
mod trouble;
mod verify;
mod watch;
mod workbook;

/// The Backend Workbook. Without a command: where you are, and, in a terminal,
/// on from there.
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
        /// For `watch`: JSON, and on stderr a line for each step
        #[arg(long, hide = true, conflicts_with = "json")]
        watched: bool,
    },
    /// Grade any program by what an exercise asks of a process
    Grade {
        name: String,
        /// A command for the shell: './my-server', 'python3 server.py'
        #[arg(long)]
        cmd: String,
    },
    /// Grade an attempt each time you save it
    Watch {
        /// Else the one you are at
        name: Option<String>,
    },
    /// One more hint, of three
    Hint {
        name: Option<String>,
        /// Only those that you have seen
        #[arg(long)]
        again: bool,
    },
    /// The attempt beside the answer and its variants, once it passes
    Compare {
        name: Option<String>,
        /// Also when it does not pass yet
        #[arg(long)]
        spoil: bool,
    },
    /// Back to the stub; the attempt is kept as a numbered copy
    Reset {
        /// Else the one you are at
        name: Option<String>,
    },
    /// The map, and no more
    List,
    /// Which exercises are on the map
    Path { route: Option<Route> },
    /// List the examples, or run one
    Demo {
        name: Option<String>,
        /// For the example itself
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Build the book of notes, and serve it on this machine
    Notes {
        /// Else 3000, or whichever is free
        #[arg(long)]
        port: Option<u16>,
        #[arg(long, hide = true)]
        watched: bool,
    },
    /// What this machine has of what the workbook uses
    Doctor,
    /// For `watch`: compile what an exercise needs
    #[command(hide = true)]
    Prepare { name: String },
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
        None if watch::is_possible() => {
            watch::watch(&book, None, watch::From::TheMap)?;
        }
        None | Some(Word::List) => commands::map::map(&book)?,
        Some(Word::Start { name }) => {
            commands::start::start(&book, name.as_deref())?;
        }
        Some(Word::Check { name, json, watched }) => {
            let reader = match (json, watched) {
                (true, _) => Reader::Program,
                (_, true) => Reader::Watch,
                _ => Reader::Person,
            };
            return commands::check::check(&book, name.as_deref(), reader);
        }
        Some(Word::Grade { name, cmd }) => {
            return commands::grade::grade(&book, &name, &cmd);
        }
        Some(Word::Watch { name }) => {
            watch::watch(&book, name.as_deref(), watch::From::TheVerdict)?;
        }
        Some(Word::Demo { name, arguments }) => {
            commands::demo::demo(&book, name.as_deref(), &arguments)?;
        }
        Some(Word::Notes { port, watched }) => {
            commands::notes::notes(&book, port, watched)?;
        }
        Some(Word::Doctor) => return commands::doctor::doctor(&book),
        Some(Word::Prepare { name }) => {
            commands::prepare::prepare(&book, &name)?;
        }
        Some(Word::Hint { name, again }) => {
            commands::hint::hint(&book, name.as_deref(), again)?;
        }
        Some(Word::Compare { name, spoil }) => {
            commands::compare::compare(&book, name.as_deref(), spoil)?;
        }
        Some(Word::Reset { name }) => {
            commands::reset::reset(&book, name.as_deref())?;
        }
        Some(Word::Path { route }) => commands::path::path(&book, route)?,
        Some(Word::Verify(plan)) => return verify::verify(&book, &plan),
    }
    Ok(0)
}
