//! `hint [NAME]`: three levels, one more at each call.

use crate::current;
use crate::progress::Progress;
use crate::term;
use crate::trouble::Trouble;
use crate::workbook::{Exercise, Workbook};

pub(crate) fn hint(book: &Workbook, name: Option<&str>) -> Result<(), Trouble> {
    let exercise = current::chosen(book, name)?;
    term::print(&one_more(book, exercise)?);
    Ok(())
}

/// The hints seen so far, and the next.
pub(crate) fn one_more(
    book: &Workbook,
    exercise: &Exercise,
) -> Result<String, Trouble> {
    let hints = &exercise.spec.hints;
    let seen = Progress::read(book)?.hints(exercise).min(hints.len());
    let now = (seen + 1).min(hints.len());

    let mut text = String::new();
    for (level, hint) in (1..).zip(&hints[..now]) {
        let head = term::bold(&format!("Hint {level} of {}", hints.len()));
        text += &format!("{head}\n{}\n", term::wrap(hint.trim(), 2));
    }
    if seen == hints.len() {
        text += &format!(
            "That is all of them. `cargo wb compare {} --spoil` shows the \
             answer.\n",
            exercise.name
        );
    }
    Progress::update(book, |progress| progress.set_hints(exercise, now))?;
    Ok(text)
}
