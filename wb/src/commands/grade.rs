//! `grade NAME --cmd COMMAND`: holds any program, in any language, to what an
//! exercise asks of a process.

use crate::grade::grade_program;
use crate::status::Status;
use crate::trouble::Trouble;
use crate::workbook::Workbook;
use crate::{lock, show, term};

/// The exit code says the outcome. Nothing is kept of it.
pub(crate) fn grade(
    book: &Workbook,
    name: &str,
    program: &str,
) -> Result<u8, Trouble> {
    let exercise = book.exercise(name)?;
    if !exercise.spec.takes_program {
        let able = book.exercises().filter(|other| other.spec.takes_program);
        let able: Vec<_> = able.map(|other| &*other.name).collect();
        return Err(Trouble::new(format!("{name} looks at no process"))
            .mend(format!("these do: {}", able.join(", "))));
    }
    let status = Status::spinner();
    let _lock = lock::wait_for(book, "grading")?;
    let grade = grade_program(book, exercise, program, &status)?;
    drop(status);
    term::print(&show::findings(&grade, exercise));
    let notes = exercise.notes();
    let shown = term::link(&notes, &book.short(&notes).to_string());
    term::print(&format!("\nWhat is asked of a program: {shown}\n"));
    Ok(grade.exit_code())
}
