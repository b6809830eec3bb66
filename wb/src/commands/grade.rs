//! `grade NAME --cmd COMMAND`: holds any program, in any language, to what an
//! exercise asks of a process.

use workbook::Workbook;

use crate::error::Error;
use crate::grading::grade::grade_program;
use crate::grading::lock;
use crate::terminal::report;
use crate::terminal::status::Status;
use crate::terminal::style;

/// The exit code says the outcome. Nothing is kept of it.
pub(crate) fn grade(
    book: &Workbook,
    name: &str,
    program: &str,
) -> Result<u8, Error> {
    let exercise = book.exercise(name)?;
    if !exercise.spec.takes_program {
        let able = book.exercises().filter(|other| other.spec.takes_program);
        let able: Vec<_> = able.map(|other| &*other.name).collect();
        return Err(Error::new(format!("{name} looks at no process"))
            .fix(format!("these do: {}", able.join(", "))));
    }
    let status = Status::spinner();
    let _lock = lock::wait_for(book, "grading")?;
    let grade = grade_program(book, exercise, program, &status)?;
    drop(status);
    style::print(&report::findings(&grade, exercise));
    let notes = exercise.notes();
    let shown = style::link(&notes, &book.short(&notes).to_string());
    style::print(&format!("\nWhat is asked of a program: {shown}\n"));
    Ok(grade.exit_code())
}
