//! `grade NAME --cmd COMMAND`: grades a program in any language with the tests of
//! an exercise.

use workbook::Workbook;

use crate::error::Error;
use crate::grading::grade::grade_program;
use crate::grading::lock;
use crate::terminal::report;
use crate::terminal::status::Status;
use crate::terminal::style;

/// Returns the exit code, which tells the outcome. The result is not recorded.
pub(crate) fn grade(
    book: &Workbook,
    name: &str,
    program: &str,
) -> Result<u8, Error> {
    let exercise = book.exercise(name)?;
    if !exercise.spec.grades_programs() {
        let others =
            book.exercises().filter(|other| other.spec.grades_programs());
        let others: Vec<_> = others.map(|other| &*other.name).collect();
        return Err(Error::new(format!(
            "the exercise {name} cannot grade a program"
        ))
        .fix(format!("these exercises can: {}", others.join(", "))));
    }
    let status = Status::spinner();
    let _lock = lock::acquire(book, "grading")?;
    let grade = grade_program(book, exercise, program, &status)?;
    drop(status);
    style::print(&report::findings(&grade, exercise));
    let notes = exercise.notes();
    let shown = style::link(&notes, &book.short(&notes).to_string());
    style::print(&format!(
        "\nThe notes describe what the program has to do: {shown}\n"
    ));
    Ok(grade.exit_code())
}
