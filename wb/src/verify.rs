//! `verify`: tests the workbook itself.
//!
//! For each exercise, the answer and the variants pass, the stub fails every test,
//! and each foil fails exactly the tests that it names. Then the workspace is
//! checked: format, lints, documentation, and all tests, with their servers.
//!
//! | Module | |
//! |--------|-|
//! | [`pipeline`] | Grades the subjects of all exercises. |
//! | [`batch`] | Builds the graders of many subjects at a time. |
//! | [`manifests`] | The manifests of their workspace. |
//! | [`nested`] | Makes the graders of several subjects modules of one crate. |
//! | [`exercise`] | Compares the grade of each subject with the expected one. |
//! | [`workspace`] | Runs rustfmt, clippy and rustdoc. |
//! | [`tests`] | Builds and runs the tests of the workspace. |
//! | [`figures`] | Finds figures that differ from what their examples draw. |
//! | [`install`] | Installs missing servers. |

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
mod install;
mod manifests;
mod nested;
mod pipeline;
#[path = "../../attempts/sources.rs"]
mod sources;
mod tests;
mod workspace;

/// The arguments of `verify`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these weeks, such as week02
    weeks: Vec<String>,
    /// Only this exercise, without the checks of the workspace
    #[arg(long, value_name = "NAME", conflicts_with = "weeks")]
    exercise: Option<String>,
    /// Only the exercises, without the checks of the workspace
    #[arg(long)]
    exercises: bool,
    /// Install missing servers with apt-get (Debian, Ubuntu)
    #[arg(long)]
    install: bool,
    /// Succeed even if tests are skipped because a server is missing
    #[arg(long)]
    allow_skips: bool,
}

/// The faults, the table of exercises, and the time of each part.
#[derive(Debug, Default)]
struct Findings {
    faults: Vec<String>,
    table: Vec<exercise::Row>,
    parts: Vec<(String, f64)>,
}

/// Returns exit code 0 if there is no fault, and 1 otherwise.
pub(crate) fn verify(book: &Workbook, options: &Options) -> Result<u8, Error> {
    let weeks: Vec<&Week> = if options.weeks.is_empty() {
        book.weeks.iter().collect()
    } else {
        let named = options.weeks.iter().map(|name| book.week(name));
        named.collect::<Result<_, _>>()?
    };
    let _lock = lock::acquire(book, "grading")?;
    let mut found = Findings::default();

    let is_missing = |program: &&Program| program.find().is_none();
    let mut missing: Vec<_> = PROGRAMS.iter().filter(is_missing).collect();
    if options.install && !missing.is_empty() {
        let start = Instant::now();
        install::install(&missing)?;
        missing.retain(is_missing);
        found.add_time("install", start);
    }
    for program in &missing {
        style::print(&format!(
            "{} is missing: its tests are skipped. Install it with `apt-get \
             install {}` or `cargo wb verify --install`\n",
            program.name, program.debian
        ));
    }

    let start = Instant::now();
    let exercises: Vec<_> = match &options.exercise {
        Some(name) => vec![book.exercise(name)?],
        None => weeks.iter().flat_map(|week| &week.exercises).collect(),
    };
    pipeline::verify(book, &exercises, &mut found)?;
    found.add_time("exercises", start);
    style::print(&exercise::table(&found.table));

    if options.exercise.is_none() && !options.exercises {
        workspace::verify(
            book,
            options,
            &weeks,
            missing.is_empty(),
            &mut found,
        )?;
    }

    style::print(&found.summary(&missing, options));
    let has_passed =
        found.faults.is_empty() && (missing.is_empty() || options.allow_skips);
    Ok(u8::from(!has_passed))
}

impl Findings {
    /// Adds a fault, and prints it at once, since the rest takes minutes.
    fn fault(&mut self, bar: &ProgressBar, fault: String) {
        bar.suspend(|| {
            style::print(&format!("{} {fault}\n", style::failure("fault:")));
        });
        self.faults.push(fault);
    }

    /// Adds the time since `start` to the part `name`.
    fn add_time(&mut self, name: &str, start: Instant) {
        let seconds = start.elapsed().as_secs_f64();
        match self.parts.iter_mut().find(|(part, _)| part == name) {
            Some((_, all)) => *all += seconds,
            None => self.parts.push((name.to_owned(), seconds)),
        }
    }

    fn summary(&self, missing: &[&Program], options: &Options) -> String {
        let mut text = String::from("\ntime of each part\n");
        for (name, seconds) in &self.parts {
            let _ = writeln!(text, "  {name:12} {seconds:6.1} s");
        }
        let all: f64 = self.parts.iter().map(|(_, seconds)| seconds).sum();
        let _ = writeln!(text, "  {:12} {all:6.1} s\n", "all");
        for program in missing {
            let _ = writeln!(text, "skipped: tests that need {}", program.name);
        }
        if !missing.is_empty() {
            text.push_str("skipped: all ignored tests of `cargo test`\n");
        }
        if !missing.is_empty() && !options.allow_skips {
            text.push_str(
                "with --allow-skips, skipped tests are not a failure\n",
            );
        }
        let faults = self.faults.len();
        text += &match faults {
            0 => format!("{}\n", style::success("no faults")),
            1 => format!("{}\n", style::failure("1 fault")),
            _ => format!("{}\n", style::failure(&format!("{faults} faults"))),
        };
        text
    }
}
