//! `check [NAME]`: grades the attempt, and remembers how far it came.

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

/// For whom a check is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Person,
    /// JSON.
    Program,
    /// JSON, and on stderr a line for each step.
    Watch,
}

/// The exit code says the outcome.
pub(crate) fn check(
    book: &Workbook,
    name: Option<&str>,
    reader: Reader,
) -> Result<u8, Error> {
    let exercise = current::chosen(book, name)?;
    if reader == Reader::Program {
        console::set_colors_enabled(false);
    }
    let status = match reader {
        Reader::Watch => Status::Lines,
        Reader::Person | Reader::Program => Status::spinner(),
    };
    let grade = grade_attempt(book, exercise, &status)?;
    drop(status);
    if reader == Reader::Person {
        style::print(&report::report(&grade, exercise));
        if !is_of(&grade, exercise) {
            style::print(
                "\nYour file has changed since: this is what it was before.\n",
            );
        }
    } else {
        let json = serde_json::to_string_pretty(&grade)
            .expect("a grade is strings and numbers");
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
    let _lock = lock::wait_for(book, "grading")?;
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

fn is_of(grade: &Grade, exercise: &Exercise) -> bool {
    fs::read(exercise.attempt())
        .is_ok_and(|text| content_hash(&text) == grade.text)
}
