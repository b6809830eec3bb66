//! `cargo wb`: where the reader stands, and what to type next.

use std::fmt::Write;

use crate::progress::{Progress, State};
use crate::trouble::Trouble;
use crate::workbook::{Exercise, Workbook};
use crate::{current, show, term};

pub(crate) fn map(book: &Workbook) -> Result<(), Trouble> {
    let progress = Progress::read(book)?;
    term::print(&text(book, &progress));
    Ok(())
}

fn text(book: &Workbook, progress: &Progress) -> String {
    let route = progress.route();
    let current = current::open(book, progress);
    let is_on_map = |exercise: &&Exercise| {
        exercise.spec.path <= route
            || progress.state(exercise) != State::Untouched
    };
    let width = book.exercises().map(|e| e.name.len()).max().unwrap_or(0);

    let mut text = String::new();
    let (mut passing, mut all, mut beyond) = (0, 0, 0);
    for week in &book.weeks {
        let number =
            week.name.trim_start_matches("week").trim_start_matches('0');
        let _ = writeln!(text, "Week {number}: {}\n", term::bold(&week.title));
        for exercise in week.exercises.iter().filter(is_on_map) {
            let state = progress.state(exercise);
            if exercise.spec.path <= route {
                all += 1;
                passing += usize::from(state == State::Passing);
            }
            let is_current =
                current.is_some_and(|current| current.id() == exercise.id());
            let star = if exercise.spec.starred { " (starred)" } else { "" };
            let _ = writeln!(
                text,
                "{} {:width$}  {}  {}{star}",
                if is_current { ">" } else { " " },
                exercise.name,
                term::pad(&exercise.spec.title, 36),
                paint(state),
            );
        }
        beyond += week.exercises.iter().filter(|e| !is_on_map(e)).count();
        text.push('\n');
    }
    let _ = write!(text, "{passing} of {all} on the path `{}`", route.name());
    if beyond > 0 {
        let _ = write!(text, "; {beyond} more on `cargo wb path all`");
    }
    text.push_str("\n\n");
    text += &next(current, progress);
    text
}

fn paint(state: State) -> String {
    match state {
        State::Untouched => term::dim("untouched"),
        State::Started => term::open("started"),
        State::Failing { rung, of } => {
            term::bad(&format!("failing at rung {rung} of {of}"))
        }
        State::Passing => term::good("passing"),
        State::Changed => term::open("changed since it passed"),
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
    let attempt = show::attempt(exercise);
    format!("Next: edit {attempt}, then `cargo wb check {}`\n", exercise.name)
}
