//! Checks the whole workspace: format, lints, documentation, tests, notes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use indicatif::ProgressBar;
use workbook::{Week, Workbook};

use super::{Findings, Options, figures};
use crate::error::Error;
use crate::grading::compile::cargo;
use crate::grading::process::Group;
use crate::terminal::status::Status;

/// How many lines of a failed command's output are shown.
const TAIL_LINES: usize = 60;

/// Runs all checks, and adds faults and times to `found`.
pub(super) fn verify(
    book: &Workbook,
    options: &Options,
    weeks: &[&Week],
    has_servers: bool,
    found: &mut Findings,
) -> Result<(), Error> {
    let mut runner = Runner { book, found };
    let packages: Vec<String> = if options.weeks.is_empty() {
        vec!["--workspace".into()]
    } else {
        let of_week = |week: &&Week| {
            let bench = book.root.join(&week.name).join("benches/Cargo.toml");
            let bench = bench.exists().then_some("bench");
            let kinds = ["week", "attempt"].into_iter().chain(bench);
            kinds
                .map(|kind| week.name.replacen("week", kind, 1))
                .flat_map(|package| ["--package".to_owned(), package])
                .collect::<Vec<_>>()
        };
        weeks.iter().flat_map(of_week).collect()
    };

    let mut format = cargo(book);
    runner.run("format", format.args(["fmt", "--all", "--", "--check"]))?;
    // `cargo fmt` does not find these files: they are not modules of a crate.
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.current_dir(&book.root).args(["--check", "--edition", "2024"]);
    rustfmt.args(loose_sources(weeks));
    runner.run("format", &mut rustfmt)?;

    let mut clippy = cargo(book);
    clippy.arg("clippy").args(&packages).arg("--all-targets");
    runner.run("clippy", clippy.args(["--", "-D", "warnings"]))?;

    let mut doc = cargo(book);
    doc.args(["doc", "--no-deps"]).args(&packages);
    runner.run("docs", doc.env("RUSTDOCFLAGS", "-D warnings"))?;

    let mut test = cargo(book);
    test.arg("test").args(&packages);
    // Everything but the doc tests. `figures` builds the examples: cargo would
    // build them as tests here.
    test.args(["--lib", "--bins", "--tests"]);
    if has_servers {
        test.args(["--", "--include-ignored"]);
    }
    runner.run("tests", &mut test)?;

    // These include the code blocks of the pages. Those marked `ignore` are not
    // complete programs.
    let mut doc_test = cargo(book);
    doc_test.args(["test", "--doc"]).args(&packages);
    runner.run("doctests", &mut doc_test)?;
    if !options.weeks.is_empty() && book.root.join("notes/Cargo.toml").exists()
    {
        let mut notes = cargo(book);
        runner.run("notes", notes.args(["test", "--package", "notes"]))?;
    }

    let start = Instant::now();
    for fault in figures::stale(book, weeks, &packages)? {
        found.fault(&ProgressBar::hidden(), fault);
    }
    found.add_time("figures", start);
    Ok(())
}

/// Returns the files of all stubs, variants and foils.
fn loose_sources(weeks: &[&Week]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for exercise in weeks.iter().flat_map(|week| &week.exercises) {
        files.push(exercise.stub());
        files.extend(exercise.variants());
        let foils = exercise.spec.foils.keys();
        let foils = foils.map(|foil| exercise.foil_file(foil));
        files.extend(foils.filter(|file| file.exists()));
    }
    files
}

/// Runs the commands of the checks.
struct Runner<'a> {
    book: &'a Workbook,
    found: &'a mut Findings,
}

impl Runner<'_> {
    /// Runs `command` with its output in a log file. If it fails, adds a fault
    /// with the end of the log.
    fn run(&mut self, name: &str, command: &mut Command) -> Result<(), Error> {
        let start = Instant::now();
        let log = self.book.scratch().join(name).with_extension("log");
        let file = File::create(&log)
            .map_err(|error| Error::file("write", &log, &error))?;
        let errors = file
            .try_clone()
            .map_err(|error| Error::file("write", &log, &error))?;
        // The attempts of a reader are not part of the workbook.
        command.env("WB_SUBJECT", "").stdout(file).stderr(errors);
        let spinner = Status::spinner();
        spinner.show(name);
        let status = Group::spawn(command.stdin(Stdio::null()))?.wait();
        drop(spinner);
        if !status.is_ok_and(|status| status.success()) {
            let end = tail(&log);
            let log = self.book.short(&log);
            self.found.fault(
                &ProgressBar::hidden(),
                format!("{name} fails (full log: {log})\n{end}"),
            );
        }
        self.found.add_time(name, start);
        Ok(())
    }
}

/// Returns the last lines of `log`.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
