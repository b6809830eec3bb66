//! `hint [NAME]`: shows the hints of an exercise, one more at each call.

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
    let exercise = current::named_or_current(book, name)?;
    let text =
        if again { seen(book, exercise) } else { one_more(book, exercise) };
    style::print(&text?);
    Ok(())
}

/// Returns the hints that the reader has seen, or else the first one.
pub(crate) fn seen(
    book: &Workbook,
    exercise: &Exercise,
) -> Result<String, Error> {
    match Progress::read(book)?.hints(exercise) {
        0 => one_more(book, exercise),
        seen => Ok(text(exercise, seen)),
    }
}

/// Returns the hints that the reader has seen, and the next one.
pub(crate) fn one_more(
    book: &Workbook,
    exercise: &Exercise,
) -> Result<String, Error> {
    let wanted = Progress::read(book)?.hints(exercise) + 1;
    let seen = wanted.min(exercise.spec.hints.len());
    Progress::update(book, |progress| progress.set_hints(exercise, seen))?;
    Ok(text(exercise, wanted))
}

/// Returns whether the reader has not seen all hints.
pub(crate) fn is_one_left(progress: &Progress, exercise: &Exercise) -> bool {
    progress.hints(exercise) < exercise.spec.hints.len()
}

/// Returns the first `count` hints. If there are fewer, adds how to see the answer.
fn text(exercise: &Exercise, count: usize) -> String {
    let hints = &exercise.spec.hints;
    let mut text = String::new();
    for (level, hint) in (1..).zip(hints.iter().take(count)) {
        let head = style::bold(&format!("Hint {level} of {}", hints.len()));
        text += &format!("{head}\n{}\n", style::wrap(hint.trim(), 2));
    }
    if count > hints.len() {
        text += &format!(
            "There are no more hints. `cargo wb compare {} --spoil` shows the \
             answer.\n",
            exercise.name
        );
    }
    text
}
