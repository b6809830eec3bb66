//! Which exercise the reader is at.

use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::reader::progress::{Progress, State};

/// The one that is named, or the one that was last, or the next.
pub(crate) fn chosen<'a>(
    book: &'a Workbook,
    name: Option<&str>,
) -> Result<&'a Exercise, Error> {
    if let Some(name) = name {
        return Ok(book.exercise(name)?);
    }
    let progress = Progress::read(book)?;
    match progress.current(book) {
        Some(exercise) => Ok(exercise),
        None => open(book, &progress).ok_or_else(all_done),
    }
}

/// The last one, until it passes; then the next one on the path.
pub(crate) fn open<'a>(
    book: &'a Workbook,
    progress: &Progress,
) -> Option<&'a Exercise> {
    let is_open =
        |exercise: &Exercise| progress.state(exercise) != State::Passing;
    let last = progress.current(book);
    if last.is_some_and(is_open) {
        return last;
    }
    let route = progress.route();
    let mut rest = book
        .exercises()
        .filter(|exercise| exercise.spec.path <= route && is_open(exercise));
    rest.next()
}

/// What comes after `exercise`: the next one on the path that does not pass, or
/// else one before it.
pub(crate) fn after<'a>(
    book: &'a Workbook,
    progress: &Progress,
    exercise: &Exercise,
) -> Option<&'a Exercise> {
    let route = progress.route();
    let here =
        book.exercises().position(|other| other.id() == exercise.id())?;
    let order = book.exercises().skip(here + 1);
    let mut order = order.chain(book.exercises().take(here));
    order.find(|other| {
        other.spec.path <= route && progress.state(other) != State::Passing
    })
}

/// Nothing is left on this path.
pub(crate) fn all_done() -> Error {
    Error::new("every exercise on this path passes")
        .fix("`cargo wb path all` may have more")
}
