//! `check [NAME]`: grades the attempt, and remembers how far it came.

use std::fs;
use std::io;

use crate::grade::{self, Grade, Outcome};
use crate::progress::Progress;
use crate::trouble::Trouble;
use crate::workbook::{Exercise, Workbook};
use crate::{compile, current, lock, show, term};

/// The exit code says the outcome.
pub(crate) fn check(
    book: &Workbook,
    name: Option<&str>,
    json: bool,
) -> Result<u8, Trouble> {
    let exercise = current::chosen(book, name)?;
    if json {
        console::set_colors_enabled(false);
    }
    let grade = grade_attempt(book, exercise)?;
    if json {
        let json = serde_json::to_string_pretty(&grade)
            .expect("a grade is strings and numbers");
        term::print(&format!("{json}\n"));
    } else {
        term::print(&show::report(&grade, exercise));
    }
    Ok(grade.exit_code())
}

fn grade_attempt(
    book: &Workbook,
    exercise: &Exercise,
) -> Result<Grade, Trouble> {
    let file = exercise.attempt();
    let _lock = lock::wait_for(book, "grading")?;
    let attempt = fs::read(&file).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Trouble::new(format!("there is no {}", book.short(&file)))
                .mend(format!("`cargo wb start {}`", exercise.name))
        } else {
            Trouble::file("read", &file, &error)
        }
    })?;

    let progress = compile::spinner();
    let grade = grade::grade(book, exercise, &file, &progress);
    progress.finish_and_clear();
    let grade = grade?;

    // Only what was graded is remembered: it may have been saved meanwhile.
    let is_same = fs::read(&file).is_ok_and(|now| now == attempt);
    Progress::update(book, |progress| {
        progress.set_current(exercise);
        match grade.outcome {
            _ if !is_same => {}
            Outcome::Passes => progress.set_passed(exercise, &attempt),
            Outcome::Wrong | Outcome::Hangs => {
                progress.set_failed(exercise, &attempt, grade.rung());
            }
            Outcome::DoesNotCompile => {}
        }
    })?;
    Ok(grade)
}
