//! Which run shows each mistake that loses money, creates money, or leaves a
//! transfer undone?
//!
//! ```console
//! $ cargo wb demo lost_and_found
//! $ cargo wb demo lost_and_found -- --foil commits_then_publishes
//! $ cargo wb demo lost_and_found -- --matrix
//! ```
//!
//! Each mistake is a foil of an exercise. A search visits all runs with no fault,
//! then those with one fault (a crash, a repeated message, a lost call, a lost
//! answer), then those with two.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};

use clap::Parser;
use clap::builder::PossibleValuesParser;
use lab::guess;
use lost_and_found::{FOILS, Foil, Found, matrix, summary};

#[derive(Parser)]
struct Arguments {
    /// Show only this foil.
    #[arg(long, value_name = "NAME", value_parser = names())]
    foil: Option<String>,
    /// Print what a crash at each step of a transfer repeats, in Markdown.
    #[arg(long, conflicts_with = "foil")]
    matrix: bool,
}

const WIDTH: usize = 80;

fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { foil, matrix } = Arguments::parse();
    let printed = match foil {
        _ if matrix => print(&matrix::markdown()).map_err(Into::into),
        Some(name) => one(&name),
        None => all(),
    };
    let is_closed = |error: &(dyn Error + 'static)| {
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    };
    match printed {
        // The reader has enough, such as `head`.
        Err(error) if is_closed(&*error) => Ok(()),
        printed => printed,
    }
}

/// Writes to standard output. `print!` panics if its reader has closed it.
fn print(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(FOILS.iter().map(|foil| foil.name))
}

fn one(name: &str) -> Result<(), Box<dyn Error>> {
    let foil = FOILS.iter().find(|foil| foil.name == name);
    let foil = foil.ok_or("no foil has this name")?;
    show(foil, &find(foil)?)?;
    Ok(())
}

fn all() -> Result<(), Box<dyn Error>> {
    print(&format!(
        "{} answers with one mistake each. A message or request `1000 1 1 2 1` \
         has the\ntime in seconds, the id of the transfer, both accounts and the \
         cents.\n\n",
        FOILS.len()
    ))?;
    let guess = guess::ask(
        "How many of them go wrong without any fault: no crash, no repeated \
         message, no\nlost call or answer? (An answer such as \"failure\" is no fault.)",
    )?;
    print("\n")?;
    let mut all = Vec::new();
    for foil in FOILS {
        let found = find(foil)?;
        show(foil, &found)?;
        all.push(found);
    }
    let unprovoked = all.iter().filter(|found| found.faults == 0).count();
    let remark = guess::remark(guess.as_deref(), unprovoked);
    print(&format!("{}{remark}\n", summary(&all)?))?;
    Ok(())
}

fn find(foil: &Foil) -> Result<Found, String> {
    let Foil { exercise, name, .. } = foil;
    let missing = || format!("no run shows the foil {name} of {exercise}");
    foil.find().ok_or_else(missing)
}

fn show(foil: &Foil, found: &Found) -> io::Result<()> {
    let Foil { exercise, name, lesson, .. } = foil;
    let name = name.replace('_', " ");
    let faults = match found.faults {
        0 => "no fault".to_owned(),
        1 => "1 fault".to_owned(),
        number => format!("{number} faults"),
    };
    print(&format!(
        "== {exercise}: {name} ({faults})\n\n{}\n\n{}\n",
        wrapped(lesson),
        found.counterexample
    ))
}

fn wrapped(text: &str) -> String {
    let (mut lines, mut column) = (String::new(), 0);
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > WIDTH {
            lines.push('\n');
            column = 0;
        } else if column > 0 {
            lines.push(' ');
            column += 1;
        }
        let _ = write!(lines, "{word}");
        column += width;
    }
    lines
}
