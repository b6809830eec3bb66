//! `hint [NAME]`: three levels, one more at each call, or those again that were
//! seen.

use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::reader::current;
use crate::reader::progress::Progress;
use crate::terminal::style;

pub(crate) fn hint(
    book: &Workbook,
    name: Option<&str>,
    again: bool,
) -> Result<(), Error> {
    let exercise = current::chosen(book, name)?;
    let text =
        if again { seen(book, exercise) } else { one_more(book, exercise) };
    style::print(&text?);
    Ok(())
}

/// The hints seen so far, or else the first.
pub(crate) fn seen(
    book: &Workbook,
    exercise: &Exercise,
) -> Result<String, Error> {
    match Progress::read(book)?.hints(exercise) {
        0 => one_more(book, exercise),
        seen => Ok(text(exercise, seen)),
    }
}

/// The hints seen so far, and the next.
pub(crate) fn one_more(
    book: &Workbook,
    exercise: &Exercise,
) -> Result<String, Error> {
    let asked = Progress::read(book)?.hints(exercise) + 1;
    let seen = asked.min(exercise.spec.hints.len());
    Progress::update(book, |progress| progress.set_hints(exercise, seen))?;
    Ok(text(exercise, asked))
}

/// Whether there is one that was not seen.
pub(crate) fn is_one_left(progress: &Progress, exercise: &Exercise) -> bool {
    progress.hints(exercise) < exercise.spec.hints.len()
}

/// So many hints, and what to do where there are no more.
fn text(exercise: &Exercise, asked: usize) -> String {
    let hints = &exercise.spec.hints;
    let mut text = String::new();
    for (level, hint) in (1..).zip(hints.iter().take(asked)) {
        let head = style::bold(&format!("Hint {level} of {}", hints.len()));
        text += &format!("{head}\n{}\n", style::wrap(hint.trim(), 2));
    }
    if asked > hints.len() {
        text += &format!(
            "That is all of them. `cargo wb compare {} --spoil` shows the \
             answer.\n",
            exercise.name
        );
    }
    text
}
