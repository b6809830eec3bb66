//! `cargo wb`: hands out the exercises of the workbook, grades attempts, says
//! why a wrong one is wrong, and keeps the score.

#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use workbook::Workbook;
use workbook::spec::Route;

use crate::commands::check::Reader;
use crate::error::Error;

mod commands;
mod error;
mod grading;
mod reader;
mod terminal;
mod verify;
mod watch;

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
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
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
    Path {
        #[arg(value_parser = route())]
        route: Option<Route>,
    },
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
    match grading::process::end_all_on_signals().and_then(|()| run(arguments)) {
        Ok(code) => ExitCode::from(code),
        Err(trouble) => {
            eprintln!("cargo wb: {trouble}");
            ExitCode::from(2)
        }
    }
}

/// Parses the name of a route, and lists the names in the help.
fn route() -> impl TypedValueParser<Value = Route> {
    let names =
        Route::ALL.map(|it| PossibleValue::new(it.name()).help(it.about()));
    let names = PossibleValuesParser::new(names);
    names.map(|name| name.parse().expect("only names of routes are possible"))
}

fn run(arguments: Arguments) -> Result<u8, Error> {
    let here = env::current_dir().map_err(|error| {
        Error::new(format!("the current directory is gone: {error}"))
    })?;
    let book = Workbook::around(&here)?;
    match arguments.command {
        None if watch::is_possible() => {
            watch::watch(&book, None, watch::From::TheMap)?;
        }
        None | Some(Command::List) => commands::map::map(&book)?,
        Some(Command::Start { name }) => {
            commands::start::start(&book, name.as_deref())?;
        }
        Some(Command::Check { name, json, watched }) => {
            let reader = match (json, watched) {
                (true, _) => Reader::Program,
                (_, true) => Reader::Watch,
                _ => Reader::Person,
            };
            return commands::check::check(&book, name.as_deref(), reader);
        }
        Some(Command::Grade { name, cmd }) => {
            return commands::grade::grade(&book, &name, &cmd);
        }
        Some(Command::Watch { name }) => {
            watch::watch(&book, name.as_deref(), watch::From::TheVerdict)?;
        }
        Some(Command::Demo { name, arguments }) => {
            commands::demo::demo(&book, name.as_deref(), &arguments)?;
        }
        Some(Command::Notes { port, watched }) => {
            commands::notes::notes(&book, port, watched)?;
        }
        Some(Command::Doctor) => return commands::doctor::doctor(&book),
        Some(Command::Prepare { name }) => {
            commands::prepare::prepare(&book, &name)?;
        }
        Some(Command::Hint { name, again }) => {
            commands::hint::hint(&book, name.as_deref(), again)?;
        }
        Some(Command::Compare { name, spoil }) => {
            commands::compare::compare(&book, name.as_deref(), spoil)?;
        }
        Some(Command::Reset { name }) => {
            commands::reset::reset(&book, name.as_deref())?;
        }
        Some(Command::Path { route }) => commands::path::path(&book, route)?,
        Some(Command::Verify(plan)) => return verify::verify(&book, &plan),
    }
    Ok(0)
}
