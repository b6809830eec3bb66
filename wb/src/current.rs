//! Which exercise the reader is at.

use crate::progress::{Progress, State};
use crate::trouble::Trouble;
use crate::workbook::{Exercise, Workbook};

/// The one that is named, or the one that was last, or the next.
pub(crate) fn chosen<'a>(
    book: &'a Workbook,
    name: Option<&str>,
) -> Result<&'a Exercise, Trouble> {
    if let Some(name) = name {
        return book.exercise(name);
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

/// Nothing is left on this path.
pub(crate) fn all_done() -> Trouble {
    Trouble::new("every exercise on this path passes")
        .mend("`cargo wb path all` may have more")
}
