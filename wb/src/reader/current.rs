//! The current exercise and the next one.

use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::reader::progress::{Progress, State};

/// Returns the exercise `name`. Without a name, returns the current exercise, or
/// else the first one on the path that does not pass.
pub(crate) fn named_or_current<'a>(
    book: &'a Workbook,
    name: Option<&str>,
) -> Result<&'a Exercise, Error> {
    if let Some(name) = name {
        return Ok(book.exercise(name)?);
    }
    let progress = Progress::read(book)?;
    match progress.current(book) {
        Some(exercise) => Ok(exercise),
        None => unfinished(book, &progress).ok_or_else(all_pass),
    }
}

/// Returns the current exercise if it does not pass, or else the first one on
/// the path that does not pass.
pub(crate) fn unfinished<'a>(
    book: &'a Workbook,
    progress: &Progress,
) -> Option<&'a Exercise> {
    let is_unfinished =
        |exercise: &Exercise| progress.state(exercise) != State::Passing;
    let current = progress.current(book);
    if current.is_some_and(is_unfinished) {
        return current;
    }
    let route = progress.route();
    let mut unfinished = book.exercises().filter(|exercise| {
        exercise.spec.path <= route && is_unfinished(exercise)
    });
    unfinished.next()
}

/// Returns the next exercise after `exercise` that is on the path and does not
/// pass. After the last exercise, the search continues with the first one.
pub(crate) fn next_after<'a>(
    book: &'a Workbook,
    progress: &Progress,
    exercise: &Exercise,
) -> Option<&'a Exercise> {
    let route = progress.route();
    let position =
        book.exercises().position(|other| other.id() == exercise.id())?;
    let order = book.exercises().skip(position + 1);
    let mut order = order.chain(book.exercises().take(position));
    order.find(|other| {
        other.spec.path <= route && progress.state(other) != State::Passing
    })
}

/// Returns the error that no exercise is left on the path.
pub(crate) fn all_pass() -> Error {
    Error::new("all exercises on this path pass")
        .fix("`cargo wb path all` may list more")
}
