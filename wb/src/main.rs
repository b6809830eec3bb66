//! `cargo wb`: lists the exercises of the workbook, grades attempts, and records
//! which exercises pass.

#![forbid(unsafe_code)]

use std::env;
use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use workbook::Workbook;
use workbook::spec::Route;

use crate::commands::check::OutputFormat;
use crate::error::Error;
use crate::reader::language::Language;

mod commands;
mod error;
mod grading;
mod reader;
mod terminal;
mod verify;
mod watch;

/// The Backend Workbook: solve exercises and have your code graded. Without a
/// command, opens an interactive screen.
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
    /// Start an exercise: copy its stub to attempts/ and print its question
    Start {
        /// The exercise [default: the current one until it passes, then the
        /// next one]
        name: Option<String>,
        /// The language of the question [default: from LC_ALL, LC_MESSAGES or
        /// LANG]
        #[arg(long)]
        lang: Option<Language>,
    },
    /// Grade your attempt at an exercise
    #[command(after_help = "Exit code: 0 passes, 1 wrong, 2 not graded, 3 \
                            hangs, 4 does not compile")]
    Check {
        /// The exercise [default: the current one]
        name: Option<String>,
        /// Print the result as JSON, for editors and scripts
        #[arg(long)]
        json: bool,
        /// For `watch`: print JSON, and each step as a line on stderr
        #[arg(long, hide = true, conflicts_with = "json")]
        watched: bool,
    },
    /// Grade a program in any language, for exercises that test a process
    #[command(after_help = "Exit code: 0 passes, 1 wrong, 2 not graded, 3 \
                            hangs")]
    Grade {
        /// The exercise, such as `signals`
        name: String,
        /// The shell command that starts the program: './my-server', 'python3
        /// server.py'
        #[arg(long)]
        cmd: String,
    },
    /// Grade your attempt each time you save it, in an interactive screen
    Watch {
        /// The exercise [default: the current one]
        name: Option<String>,
    },
    /// Show the next hint; each exercise has three
    Hint {
        /// The exercise [default: the current one]
        name: Option<String>,
        /// Repeat the hints that you have seen, without a new one
        #[arg(long)]
        again: bool,
    },
    /// Compare your attempt with the answer, once it passes
    Compare {
        /// The exercise [default: the current one]
        name: Option<String>,
        /// Show the answer even if your attempt does not pass
        #[arg(long)]
        spoil: bool,
    },
    /// Replace your attempt with the stub; your file is kept under another name
    Reset {
        /// The exercise [default: the current one]
        name: Option<String>,
    },
    /// List the exercises and your progress
    List,
    /// Show or choose the path: which exercises are listed
    Path {
        /// The path to choose
        #[arg(value_name = "PATH", value_parser = route())]
        route: Option<Route>,
    },
    /// List the examples, or run one
    Demo {
        /// The example to run
        name: Option<String>,
        /// Arguments for the example, after `--`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Build the book of notes and serve it on this machine
    Notes {
        /// The port [default: 3000, or another one if 3000 is in use]
        #[arg(long)]
        port: Option<u16>,
        /// For `watch`: print each step as a line on stderr
        #[arg(long, hide = true)]
        watched: bool,
    },
    /// Check that the programs that the workbook uses are installed
    Doctor,
    /// For `watch`: compile the dependencies of an exercise
    #[command(hide = true)]
    Prepare { name: String },
    /// Test the workbook itself (for contributors)
    Verify(verify::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match grading::process::stop_all_on_signals().and_then(|()| run(arguments))
    {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cargo wb: {error}");
            ExitCode::from(2)
        }
    }
}

/// Parses the name of a path, and lists the names in the help.
fn route() -> impl TypedValueParser<Value = Route> {
    let names =
        Route::ALL.map(|it| PossibleValue::new(it.name()).help(it.about()));
    let names = PossibleValuesParser::new(names);
    names.map(|name| name.parse().expect("clap accepts only these names"))
}

fn run(arguments: Arguments) -> Result<u8, Error> {
    let folder = env::current_dir().map_err(|error| {
        Error::new(format!("cannot find the current directory: {error}"))
    })?;
    let book = Workbook::around(&folder)?;
    match arguments.command {
        None if watch::is_possible() => {
            watch::watch(&book, None, watch::StartPage::Map)?;
        }
        None | Some(Command::List) => commands::map::map(&book)?,
        Some(Command::Start { name, lang }) => {
            commands::start::start(&book, name.as_deref(), lang)?;
        }
        Some(Command::Check { name, json, watched }) => {
            let format = match (json, watched) {
                (true, _) => OutputFormat::Json,
                (_, true) => OutputFormat::JsonWithSteps,
                _ => OutputFormat::Report,
            };
            return commands::check::check(&book, name.as_deref(), format);
        }
        Some(Command::Grade { name, cmd }) => {
            return commands::grade::grade(&book, &name, &cmd);
        }
        Some(Command::Watch { name }) => {
            watch::watch(&book, name.as_deref(), watch::StartPage::Verdict)?;
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
        Some(Command::Verify(options)) => {
            return verify::verify(&book, &options);
        }
    }
    Ok(0)
}
