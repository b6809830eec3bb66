//! Lines that make a page.

use crossterm::event::KeyCode;
use workbook::{Exercise, Workbook};

use crate::terminal::style;

/// How many lines are below a page.
pub(super) const FOOT: usize = 3;

pub(super) fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// The part of `text` that begins with line `top`, as far down as there is
/// something to show.
pub(super) fn part(text: &str, top: usize, room: usize) -> Vec<String> {
    let lines = lines(text);
    let top = top.min(lines.len().saturating_sub(room));
    let below = lines.len().saturating_sub(top + room);
    let mut part: Vec<_> = lines.into_iter().skip(top).take(room).collect();
    if below > 0
        && let Some(last) = part.last_mut()
    {
        *last = style::dim(&format!("  … {} more lines", below + 1));
    }
    part
}

/// The first line to show after `key`.
pub(super) fn scrolled(
    text: &str,
    top: usize,
    key: KeyCode,
    rows: usize,
) -> usize {
    let room = rows.saturating_sub(FOOT).max(1);
    let last = text.lines().count().saturating_sub(room);
    moved(top.min(last), last, key, rows)
}

/// From `at`, of all up to `last`, where `key` leads.
pub(super) fn moved(
    at: usize,
    last: usize,
    key: KeyCode,
    rows: usize,
) -> usize {
    // The last line of a page only says that there is more.
    let page = rows.saturating_sub(FOOT + 2).max(1);
    match key {
        KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => (at + 1).min(last),
        KeyCode::PageUp | KeyCode::Char('b') => at.saturating_sub(page),
        KeyCode::PageDown | KeyCode::Char(' ') => (at + page).min(last),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => last,
        _ => at,
    }
}

/// So much of `lines` as fits around the one that is chosen.
pub(super) fn around(lines: Vec<(String, bool)>, room: usize) -> Vec<String> {
    let chosen = lines.iter().position(|(_, is_chosen)| *is_chosen);
    let last = lines.len().saturating_sub(room);
    let top = chosen.unwrap_or(0).saturating_sub(room / 2).min(last);
    lines.into_iter().skip(top).take(room).map(|(line, _)| line).collect()
}

pub(super) fn missing(book: &Workbook, exercise: &Exercise) -> Vec<String> {
    let attempt = exercise.attempt();
    vec![
        style::bold(&format!("{}: {}", exercise.id(), exercise.spec.title)),
        String::new(),
        format!("There is no {}.", book.short(&attempt)),
        "s starts it from the stub.".to_owned(),
    ]
}

pub(super) fn no_verdict(exercise: &Exercise, why: &str) -> Vec<String> {
    let head = format!("{}: {}", exercise.id(), exercise.spec.title);
    let mut lines = vec![
        format!("{}  {}", style::bold(&head), style::bad("no verdict")),
        String::new(),
    ];
    lines.extend(self::lines(&style::wrap(why, 0)));
    lines.push(String::new());
    lines.push("r checks again.".to_owned());
    lines
}

/// What was said of the text before this one, so that it looks like it.
pub(super) fn outdated(exercise: &Exercise, lines: Vec<String>) -> Vec<String> {
    let head = format!("{}: {}", exercise.id(), exercise.spec.title);
    let head = format!("{}  {}", style::bold(&head), style::open("checking…"));
    let dimmed = |line: String| style::dim(&console::strip_ansi_codes(&line));
    let rest = lines.into_iter().skip(1).map(dimmed);
    std::iter::once(head).chain(rest).collect()
}

pub(super) fn rule(columns: usize) -> String {
    style::dim(&"─".repeat(columns.min(style::width())))
}

/// Beside each other, as far as there is room.
pub(super) fn status(parts: &[String], columns: usize) -> String {
    let line = parts.join(" · ");
    style::dim(&console::truncate_str(&line, columns, "…"))
}

/// Each key stands out from what it does. The last one stays where there is not
/// enough room for all.
pub(super) fn keys(keys: &[&str], columns: usize) -> String {
    let key = |text: &&str| {
        let (key, does) = text.rsplit_once(' ').unwrap_or((text, ""));
        format!("{} {does}", style::bold(key))
    };
    let line =
        |keys: &[&str]| keys.iter().map(key).collect::<Vec<_>>().join("   ");
    let mut shown = keys.to_vec();
    while shown.len() > 1 && style::columns(&line(&shown)) > columns {
        shown.remove(shown.len() - 2);
    }
    line(&shown)
}

/// What there is to press.
pub(super) fn all_keys() -> String {
    format!(
        "{}\n{KEYS}",
        style::bold("Keys. They do nothing where they make no sense.")
    )
}

// Not after a `\`, which would swallow the first indent.
const KEYS: &str = "
  s  starts the exercise: its stub becomes your file
  h  the hints that you have seen; once more: the next one
  a  the whole report
  r  checks again
  c  compares yours with the answer, once it passes
  n  goes on to the next exercise, once it passes
  l  the list of exercises; enter goes to the one that is chosen
  o  builds the notes and serves them on this machine
  q  ends this, as does Ctrl-C; Ctrl-Z: the shell, and `fg` comes back

  ↑ ↓ or j k, page up and down or b and space, home and end or g and G
  enter, escape or backspace: back to the verdict; from here, to where you were
";
