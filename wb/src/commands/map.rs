//! `cargo wb`: where the reader stands, and what to type next.

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
    let current = current::open(book, progress);
    let mut text = String::new();
    for (line, _) in lines(book, progress, current) {
        text += &line;
        text.push('\n');
    }
    text.push('\n');
    text += &next(current, progress);
    text
}

/// The exercises on the map.
pub(crate) fn listed<'a>(
    book: &'a Workbook,
    progress: &Progress,
) -> Vec<&'a Exercise> {
    book.exercises().filter(|it| is_on_map(it, progress)).collect()
}

/// The map, line by line, and which line is the one that is `marked`.
pub(crate) fn lines(
    book: &Workbook,
    progress: &Progress,
    marked: Option<&Exercise>,
) -> Vec<(String, bool)> {
    let route = progress.route();
    let width = book.exercises().map(|e| e.name.len()).max().unwrap_or(0);

    let mut lines = Vec::new();
    let (mut passed, mut all, mut beyond) = (0, 0, 0);
    let mut has_star = false;
    for week in &book.weeks {
        let number =
            week.name.trim_start_matches("week").trim_start_matches('0');
        let title = format!("Week {number}: {}", style::bold(&week.title));
        lines.extend([(title, false), (String::new(), false)]);
        for exercise in &week.exercises {
            if !is_on_map(exercise, progress) {
                beyond += 1;
                continue;
            }
            if exercise.spec.path <= route {
                all += 1;
                passed += usize::from(progress.has_passed(exercise));
            }
            let is_marked =
                marked.is_some_and(|marked| marked.id() == exercise.id());
            let star = if exercise.spec.starred { " *" } else { "" };
            has_star |= exercise.spec.starred;
            let line = format!(
                "{} {:width$}  {}  {}{star}",
                if is_marked { ">" } else { " " },
                exercise.name,
                style::pad(&exercise.spec.title, 36),
                state(progress, exercise),
            );
            lines.push((line, is_marked));
        }
        lines.push((String::new(), false));
    }
    let mut sum = format!("{passed} of {all} on the path `{}`", route.name());
    if beyond > 0 {
        let _ = write!(sum, "; {beyond} more on `cargo wb path all`");
    }
    if has_star {
        sum += "; * starred";
    }
    lines.push((sum, false));
    lines
}

fn is_on_map(exercise: &Exercise, progress: &Progress) -> bool {
    exercise.spec.path <= progress.route()
        || progress.state(exercise) != State::Untouched
}

/// In a word or two.
pub(crate) fn state(progress: &Progress, exercise: &Exercise) -> String {
    match progress.state(exercise) {
        State::Untouched => style::dim("untouched"),
        State::Started => style::open("started"),
        State::Failing { rung, of } if progress.has_passed(exercise) => {
            style::open(&format!("passed, now rung {rung} of {of}"))
        }
        State::Failing { rung, of } => {
            style::bad(&format!("failing at rung {rung} of {of}"))
        }
        State::Passing => style::good("passing"),
        State::Changed => style::open("changed since it passed"),
    }
}

fn next(current: Option<&Exercise>, progress: &Progress) -> String {
    let Some(exercise) = current else {
        return format!("All done: {}.\n", current::all_done());
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
