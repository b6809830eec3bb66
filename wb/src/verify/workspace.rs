//! Checks the whole workspace: format, lints, documentation, tests, notes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use indicatif::ProgressBar;
use workbook::{Week, Workbook};

use super::tests::Tests;
use super::{Findings, Options, figures};
use crate::error::Error;
use crate::grading::compile::{self, cargo};
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
    let status = Status::spinner();
    let runner = Runner { book, found: Mutex::new(found), status: &status };
    let packages = packages(book, options, weeks);

    let start = Instant::now();
    status.show("format");
    let mut format = cargo(book);
    runner.run("format", format.args(["fmt", "--all", "--", "--check"]))?;
    // `cargo fmt` does not find these files: they are not modules of a crate.
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.current_dir(&book.root).args(["--check", "--edition", "2024"]);
    rustfmt.args(loose_sources(weeks));
    runner.run("format", &mut rustfmt)?;
    runner.add_time("format", start);

    let start = Instant::now();
    status.show("building the tests");
    let tests = Tests::build(book, weeks, &packages)?;
    runner.add_time("build tests", start);

    // Many tests wait for a timer or a process. clippy and rustdoc use that time.
    let start = Instant::now();
    thread::scope(|scope| {
        let lints = scope.spawn(|| lint(&runner, &packages));
        match tests {
            Err(errors) => {
                runner.fault(format!(
                    "the tests do not build\n{}",
                    tail(&errors)
                ));
            }
            Ok(tests) => {
                for fault in tests.run(has_servers, &status)? {
                    runner.fault(format!("tests fail: {fault}"));
                }
            }
        }
        runner.add_time("tests", start);
        let start = Instant::now();
        status.show("clippy, docs");
        lints.join().expect("it does not panic")?;
        runner.add_time("clippy, docs", start);
        Ok::<_, Error>(())
    })?;

    // These include the code blocks of the pages. Those marked `ignore` are not
    // complete programs.
    let start = Instant::now();
    status.show("doctests");
    let mut doc_test = cargo(book);
    doc_test.args(["test", "--doc"]).args(&packages);
    runner.run("doctests", &mut doc_test)?;
    if !options.weeks.is_empty() && book.root.join("notes/Cargo.toml").exists()
    {
        let mut notes = cargo(book);
        runner.run("notes", notes.args(["test", "--package", "notes"]))?;
    }
    runner.add_time("doctests", start);

    let start = Instant::now();
    status.show("figures");
    for fault in figures::stale(book, weeks, &packages)? {
        runner.fault(fault);
    }
    runner.add_time("figures", start);
    Ok(())
}

/// Returns the arguments that select the packages for cargo.
fn packages(
    book: &Workbook,
    options: &Options,
    weeks: &[&Week],
) -> Vec<String> {
    if options.weeks.is_empty() {
        return vec!["--workspace".into()];
    }
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
}

/// Runs clippy and rustdoc with a low priority.
fn lint(runner: &Runner<'_>, packages: &[String]) -> Result<(), Error> {
    let mut clippy = compile::cargo_in_background(runner.book);
    clippy.arg("clippy").args(packages).arg("--all-targets");
    runner.run("clippy", clippy.args(["--", "-D", "warnings"]))?;

    let mut doc = compile::cargo_in_background(runner.book);
    doc.args(["doc", "--no-deps"]).args(packages);
    runner.run("docs", doc.env("RUSTDOCFLAGS", "-D warnings"))
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

/// Runs the commands of the checks. Several threads can use it.
struct Runner<'a> {
    book: &'a Workbook,
    found: Mutex<&'a mut Findings>,
    status: &'a Status,
}

impl Runner<'_> {
    /// Runs `command` with its output in a log file. If it fails, adds a fault
    /// with the end of the log.
    fn run(&self, name: &str, command: &mut Command) -> Result<(), Error> {
        let log = self.book.scratch().join(name).with_extension("log");
        let file = File::create(&log)
            .map_err(|error| Error::file("write", &log, &error))?;
        let errors = file
            .try_clone()
            .map_err(|error| Error::file("write", &log, &error))?;
        // The attempts of a reader are not part of the workbook.
        command.env("WB_SUBJECT", "").stdout(file).stderr(errors);
        let status = Group::spawn(command.stdin(Stdio::null()))?.wait();
        if !status.is_ok_and(|status| status.success()) {
            let text = fs::read(&log).unwrap_or_default();
            let end = tail(&String::from_utf8_lossy(&text));
            let log = self.book.short(&log);
            self.fault(format!("{name} fails (full log: {log})\n{end}"));
        }
        Ok(())
    }

    fn fault(&self, fault: String) {
        let mut found = self.found.lock().expect("no thread panics with it");
        self.status.suspend(|| found.fault(&ProgressBar::hidden(), fault));
    }

    fn add_time(&self, name: &str, start: Instant) {
        let mut found = self.found.lock().expect("no thread panics with it");
        found.add_time(name, start);
    }
}

/// Returns the last lines of `log`.
pub(super) fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
