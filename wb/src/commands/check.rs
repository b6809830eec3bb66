//! `check [NAME]`: grades the attempt, and records the result.

use std::fs;

use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::grading::grade::{self, Grade, Outcome, content_hash};
use crate::grading::lock;
use crate::reader::current;
use crate::reader::progress::Progress;
use crate::terminal::report;
use crate::terminal::status::Status;
use crate::terminal::style;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// A report for a person.
    Report,
    /// JSON on stdout.
    Json,
    /// JSON on stdout, and each step as a line on stderr.
    JsonWithSteps,
}

/// Returns the exit code, which tells the outcome.
pub(crate) fn check(
    book: &Workbook,
    name: Option<&str>,
    format: OutputFormat,
) -> Result<u8, Error> {
    let exercise = current::named_or_current(book, name)?;
    if format == OutputFormat::Json {
        console::set_colors_enabled(false);
    }
    let status = match format {
        OutputFormat::JsonWithSteps => Status::Lines,
        OutputFormat::Report | OutputFormat::Json => Status::spinner(),
    };
    let grade = grade_attempt(book, exercise, &status)?;
    drop(status);
    if format == OutputFormat::Report {
        style::print(&report::report(&grade, exercise));
        if !is_current(&grade, exercise) {
            style::print(
                "\nYour file has changed since: this is the report on the text \
                 before.\n",
            );
        }
    } else {
        let json = serde_json::to_string_pretty(&grade)
            .expect("a grade has only strings and numbers");
        style::print(&format!("{json}\n"));
    }
    Ok(grade.exit_code())
}

fn grade_attempt(
    book: &Workbook,
    exercise: &Exercise,
    status: &Status,
) -> Result<Grade, Error> {
    let file = exercise.attempt();
    let _lock = lock::acquire(book, "grading")?;
    if !file.exists() {
        return Err(Error::new(format!("there is no {}", book.short(&file)))
            .fix(format!("`cargo wb start {}`", exercise.name)));
    }
    let grade = grade::grade(book, exercise, &file, status)?;
    Progress::update(book, |progress| {
        progress.set_current(exercise);
        match grade.outcome {
            Outcome::Passes => progress.set_passed(exercise, &grade.text),
            Outcome::Wrong | Outcome::Hangs => {
                progress.set_failed(exercise, &grade.text, grade.rung());
            }
            Outcome::DoesNotCompile => {}
        }
    })?;
    Ok(grade)
}

/// Returns whether the attempt still has the text that was graded.
fn is_current(grade: &Grade, exercise: &Exercise) -> bool {
    fs::read(exercise.attempt())
        .is_ok_and(|text| content_hash(&text) == grade.text)
}
