//! `verify`: holds the workbook itself to its promises.
//!
//! Every exercise: its answer and variants pass, its stub fails in every test,
//! each foil breaks exactly the tests that it names. Then the house: format,
//! lints, documentation, and all tests, with the servers that they need.

use std::fmt::Write;
use std::time::Instant;

use clap::Args;
use indicatif::ProgressBar;
use lab::servers::{PROGRAMS, Program};
use workbook::{Week, Workbook};

use crate::error::Error;
use crate::grading::lock;
use crate::terminal::style;

mod batch;
mod exercise;
mod figures;
mod house;
mod install;
mod pipeline;

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Only these, such as week02
    weeks: Vec<String>,
    /// Only this exercise, and nothing of the house
    #[arg(long, value_name = "NAME", conflicts_with = "weeks")]
    exercise: Option<String>,
    /// Only the exercises, and nothing of the house
    #[arg(long)]
    exercises: bool,
    /// Install the servers that are missing (Debian's packages)
    #[arg(long)]
    install: bool,
    /// Succeed also where a missing server kept tests from running
    #[arg(long)]
    allow_skips: bool,
}

/// What was found, and how long each part took.
#[derive(Debug, Default)]
struct Findings {
    faults: Vec<String>,
    table: Vec<exercise::Row>,
    parts: Vec<(String, f64)>,
}

/// 0 if all is well, else 1.
pub(crate) fn verify(book: &Workbook, plan: &Plan) -> Result<u8, Error> {
    let weeks: Vec<&Week> = if plan.weeks.is_empty() {
        book.weeks.iter().collect()
    } else {
        let named = plan.weeks.iter().map(|name| book.week(name));
        named.collect::<Result<_, _>>()?
    };
    let _lock = lock::wait_for(book, "grading")?;
    let mut found = Findings::default();

    let is_missing = |program: &&Program| program.find().is_none();
    let mut missing: Vec<_> = PROGRAMS.iter().filter(is_missing).collect();
    if plan.install && !missing.is_empty() {
        let start = Instant::now();
        install::install(&missing)?;
        missing.retain(is_missing);
        found.part("install", start);
    }
    for program in &missing {
        style::print(&format!(
            "{} is missing: its tests are skipped. `apt-get install {}`, or \
             `cargo wb verify --install`\n",
            program.name, program.debian
        ));
    }

    let start = Instant::now();
    let exercises: Vec<_> = match &plan.exercise {
        Some(name) => vec![book.exercise(name)?],
        None => weeks.iter().flat_map(|week| &week.exercises).collect(),
    };
    pipeline::verify(book, &exercises, &mut found)?;
    found.part("exercises", start);
    style::print(&exercise::table(&found.table));

    if plan.exercise.is_none() && !plan.exercises {
        house::verify(book, plan, &weeks, missing.is_empty(), &mut found)?;
    }

    style::print(&found.summary(&missing, plan));
    let is_well =
        found.faults.is_empty() && (missing.is_empty() || plan.allow_skips);
    Ok(u8::from(!is_well))
}

impl Findings {
    /// Shown at once: the rest takes minutes.
    fn fault(&mut self, bar: &ProgressBar, fault: String) {
        bar.suspend(|| {
            style::print(&format!("{} {fault}\n", style::bad("fault:")));
        });
        self.faults.push(fault);
    }

    fn part(&mut self, name: &str, start: Instant) {
        let seconds = start.elapsed().as_secs_f64();
        match self.parts.iter_mut().find(|(part, _)| part == name) {
            Some((_, all)) => *all += seconds,
            None => self.parts.push((name.to_owned(), seconds)),
        }
    }

    fn summary(&self, missing: &[&Program], plan: &Plan) -> String {
        let mut text = String::from("\ntime of each part\n");
        for (name, seconds) in &self.parts {
            let _ = writeln!(text, "  {name:12} {seconds:6.1} s");
        }
        let all: f64 = self.parts.iter().map(|(_, seconds)| seconds).sum();
        let _ = writeln!(text, "  {:12} {all:6.1} s\n", "all");
        for program in missing {
            let _ = writeln!(text, "skipped: what needs {}", program.name);
        }
        if !missing.is_empty() {
            text.push_str("skipped: all ignored tests of `cargo test`\n");
        }
        if !missing.is_empty() && !plan.allow_skips {
            text.push_str("with --allow-skips that is no failure\n");
        }
        let faults = self.faults.len();
        text += &match faults {
            0 => format!("{}\n", style::good("no faults")),
            1 => format!("{}\n", style::bad("1 fault")),
            _ => format!("{}\n", style::bad(&format!("{faults} faults"))),
        };
        text
    }
}
