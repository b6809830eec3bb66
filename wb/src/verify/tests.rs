//! Runs the tests of the workspace.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use workbook::{Week, Workbook};

use super::workspace::tail;
use crate::error::Error;
use crate::grading::compile::{self, Event, cargo};
use crate::grading::process::Group;
use crate::grading::run;
use crate::terminal::status::Status;

/// The deadline of one binary. The slowest takes a minute or two.
const DEADLINE: Duration = Duration::from_secs(600);

/// The test binaries of some packages.
#[derive(Debug)]
pub(super) struct Tests<'a> {
    book: &'a Workbook,
    weeks: &'a [&'a Week],
    binaries: Vec<Binary>,
}

/// A test binary.
#[derive(Debug)]
struct Binary {
    /// The folder of its package.
    package: PathBuf,
    /// The name of its target, such as `grade`.
    target: String,
    file: PathBuf,
}

impl<'a> Tests<'a> {
    /// Builds everything that has tests, except doc tests. Returns the errors of
    /// the build if it fails.
    pub(super) fn build(
        book: &'a Workbook,
        weeks: &'a [&'a Week],
        packages: &[String],
    ) -> Result<Result<Self, String>, Error> {
        let mut command = cargo(book);
        // With `--tests`, cargo builds no example or library with `test = false`.
        command.args(["test", "--no-run", "--tests"]).args(packages);
        command.env("WB_SUBJECT", "");
        let (mut binaries, mut errors) = (Vec::new(), String::new());
        let (is_built, stderr) =
            compile::run_cargo(&mut command, |event| match event {
                Event::Error { rendered, .. } => errors += &rendered,
                Event::Artifact {
                    mut manifest,
                    target,
                    is_test: true,
                    executable: Some(file),
                    ..
                } => {
                    manifest.pop();
                    let package = manifest;
                    binaries.push(Binary { package, target, file });
                }
                Event::Artifact { .. } => {}
            })?;
        if errors.is_empty() {
            // Not an error of rustc, but one of cargo itself.
            errors = stderr.join("\n");
        }
        let tests = Self { book, weeks, binaries };
        Ok(if is_built { Ok(tests) } else { Err(errors) })
    }

    /// Runs the tests, and returns a text for each binary with a test that fails.
    pub(super) fn run(
        &self,
        has_servers: bool,
        status: &Status,
    ) -> Result<Vec<String>, Error> {
        let mut log = String::new();
        let mut faults = Vec::new();
        for (n, binary) in self.binaries.iter().enumerate() {
            let all = self.binaries.len();
            let package = self.book.short(&binary.package);
            let name = format!("{package} {}", binary.target);
            status.show(&format!("tests: {name} ({} of {all})", n + 1));
            let tests = self.tests(binary)?;
            if tests.is_empty() {
                continue;
            }
            let mut command = Command::new(&binary.file);
            command.arg("--exact").args(tests);
            command.args(has_servers.then_some("--include-ignored"));
            // Tests expect the environment that cargo gives them.
            command.current_dir(&binary.package);
            command.env("CARGO_MANIFEST_DIR", &binary.package);
            let output = Group::piped(&mut command)?.output(DEADLINE);
            let text = format!("{}\n{}", output.stdout, output.stderr);
            let _ = write!(log, "\n== {name}\n{text}");
            let end = tail(&text);
            match output.status {
                Some(status) if status.success() => {}
                Some(_) => faults.push(format!("{name}\n{end}")),
                None => {
                    let seconds = DEADLINE.as_secs();
                    let why = format!("no end after {seconds} s");
                    faults.push(format!("{name}: {why}\n{end}"));
                }
            }
        }
        let file = self.book.scratch().join("tests.log");
        fs::write(&file, log)
            .map_err(|error| Error::file("write", &file, &error))?;
        Ok(faults)
    }

    /// Returns the names of the tests of `binary`, except those of the exercises:
    /// they have been run for each answer.
    fn tests(&self, binary: &Binary) -> Result<Vec<String>, Error> {
        let is_of_binary =
            |week: &&&Week| self.book.root.join(&week.name) == binary.package;
        let prefixes: Vec<_> = self
            .weeks
            .iter()
            .filter(is_of_binary)
            .flat_map(|week| &week.exercises)
            .filter_map(|exercise| match &*binary.target {
                "grade" => Some(format!("{}::", exercise.name)),
                "loom" => Some(format!("models::{}::", exercise.name)),
                _ => None,
            })
            .collect();
        let names = run::names(&binary.file, &[])?.into_iter();
        let is_graded = |name: &String| {
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        Ok(names.filter(|name| !is_graded(name)).collect())
    }
}
