//! `list`: the exercises with their state, and the next step.

use std::fmt::Write;

use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::reader::current;
use crate::reader::progress::{Progress, State};
use crate::terminal::report;
use crate::terminal::style;

pub(crate) fn map(book: &Workbook) -> Result<(), Error> {
    let progress = Progress::read(book)?;
    style::print(&text(book, &progress));
    Ok(())
}

fn text(book: &Workbook, progress: &Progress) -> String {
    let current = current::unfinished(book, progress);
    let mut text = String::new();
    for (line, _) in lines(book, progress, current) {
        text += &line;
        text.push('\n');
    }
    text.push('\n');
    text += &next(current, progress);
    text
}

/// Returns the exercises that the map lists.
pub(crate) fn listed<'a>(
    book: &'a Workbook,
    progress: &Progress,
) -> Vec<&'a Exercise> {
    book.exercises().filter(|it| is_on_map(it, progress)).collect()
}

/// Returns the lines of the map, each with whether it shows `selected`.
pub(crate) fn lines(
    book: &Workbook,
    progress: &Progress,
    selected: Option<&Exercise>,
) -> Vec<(String, bool)> {
    let route = progress.route();
    let width = book.exercises().map(|e| e.name.len()).max().unwrap_or(0);

    let mut lines = Vec::new();
    let (mut passed, mut all, mut hidden) = (0, 0, 0);
    let mut has_star = false;
    for week in &book.weeks {
        let number =
            week.name.trim_start_matches("week").trim_start_matches('0');
        let title = format!("Week {number}: {}", style::bold(&week.title));
        lines.extend([(title, false), (String::new(), false)]);
        for exercise in &week.exercises {
            if !is_on_map(exercise, progress) {
                hidden += 1;
                continue;
            }
            if exercise.spec.path <= route {
                all += 1;
                passed += usize::from(progress.has_passed(exercise));
            }
            let is_selected =
                selected.is_some_and(|it| it.id() == exercise.id());
            let star = if exercise.spec.starred { " *" } else { "" };
            has_star |= exercise.spec.starred;
            let line = format!(
                "{} {:width$}  {}  {}{star}",
                if is_selected { ">" } else { " " },
                exercise.name,
                style::pad(&exercise.spec.title, 36),
                state(progress, exercise),
            );
            lines.push((line, is_selected));
        }
        lines.push((String::new(), false));
    }
    let mut sum =
        format!("{passed} of {all} passed on the path `{}`", route.name());
    if hidden > 0 {
        let _ = write!(sum, "; {hidden} more on `cargo wb path all`");
    }
    if has_star {
        sum += "; * research level";
    }
    lines.push((sum, false));
    lines
}

fn is_on_map(exercise: &Exercise, progress: &Progress) -> bool {
    exercise.spec.path <= progress.route()
        || progress.state(exercise) != State::Untouched
}

/// Returns the state of an exercise in a few words.
pub(crate) fn state(progress: &Progress, exercise: &Exercise) -> String {
    match progress.state(exercise) {
        State::Untouched => style::dim("not started"),
        State::Started => style::pending("started"),
        State::Failing { rung, of } if progress.has_passed(exercise) => {
            style::pending(&format!("passed, now rung {rung} of {of}"))
        }
        State::Failing { rung, of } => {
            style::failure(&format!("failing at rung {rung} of {of}"))
        }
        State::Passing => style::success("passing"),
        State::Changed => style::pending("changed since it passed"),
    }
}

/// Returns the next command to type.
fn next(current: Option<&Exercise>, progress: &Progress) -> String {
    let Some(exercise) = current else {
        return format!("All done: {}.\n", current::all_pass());
    };
    if progress.state(exercise) == State::Untouched {
        let Exercise { name, spec, .. } = exercise;
        return format!(
            "Next: `cargo wb start {name}` ({} minutes)\n",
            spec.minutes
        );
    }
    let attempt = report::attempt(exercise);
    format!("Next: edit {attempt}, then `cargo wb check {}`\n", exercise.name)
}
