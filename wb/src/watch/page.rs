//! Parts of a page: scrolling, the status line, the key line, the page of keys.

use crossterm::event::KeyCode;
use workbook::{Exercise, Workbook};

use crate::terminal::style;

/// The number of rows below a page: a separator, the status and the keys.
pub(super) const FOOTER_ROWS: usize = 3;

/// Splits `text` into lines.
pub(super) fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Returns `rows` lines of `text` from line `top` on. If `top` is too large,
/// returns the last ones. The last row tells how many lines follow.
pub(super) fn visible_lines(
    text: &str,
    top: usize,
    rows: usize,
) -> Vec<String> {
    let lines = lines(text);
    let top = top.min(lines.len().saturating_sub(rows));
    let below = lines.len().saturating_sub(top + rows);
    let mut visible: Vec<_> = lines.into_iter().skip(top).take(rows).collect();
    if below > 0
        && let Some(last) = visible.last_mut()
    {
        *last = style::dim(&format!("  … {} more lines", below + 1));
    }
    visible
}

/// Returns the first visible line of `text` after `key`. `rows` is the height
/// of the whole screen.
pub(super) fn scroll(
    text: &str,
    top: usize,
    key: KeyCode,
    rows: usize,
) -> usize {
    let visible = rows.saturating_sub(FOOTER_ROWS).max(1);
    let last = text.lines().count().saturating_sub(visible);
    move_by_key(top.min(last), last, key, rows)
}

/// Returns the position after `key`, from 0 to `last`. `rows` is the height of
/// the whole screen.
pub(super) fn move_by_key(
    position: usize,
    last: usize,
    key: KeyCode,
    rows: usize,
) -> usize {
    // The last row of a page shows no text if more lines follow.
    let page = rows.saturating_sub(FOOTER_ROWS + 2).max(1);
    match key {
        KeyCode::Up | KeyCode::Char('k') => position.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => (position + 1).min(last),
        KeyCode::PageUp | KeyCode::Char('b') => position.saturating_sub(page),
        KeyCode::PageDown | KeyCode::Char(' ') => (position + page).min(last),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => last,
        _ => position,
    }
}

/// Returns at most `rows` of `lines`, around the selected one.
pub(super) fn around_selected(
    lines: Vec<(String, bool)>,
    rows: usize,
) -> Vec<String> {
    let selected = lines.iter().position(|(_, is_selected)| *is_selected);
    let last = lines.len().saturating_sub(rows);
    let top = selected.unwrap_or(0).saturating_sub(rows / 2).min(last);
    lines.into_iter().skip(top).take(rows).map(|(line, _)| line).collect()
}

/// Returns the page of an exercise without an attempt.
pub(super) fn no_attempt(book: &Workbook, exercise: &Exercise) -> Vec<String> {
    let attempt = exercise.attempt();
    vec![
        style::bold(&format!("{}: {}", exercise.id(), exercise.spec.title)),
        String::new(),
        format!("There is no {}.", book.short(&attempt)),
        "Press s to start the exercise: it creates this file from the stub."
            .to_owned(),
    ]
}

/// Returns the page of a check that failed to grade the attempt.
pub(super) fn check_error(exercise: &Exercise, error: &str) -> Vec<String> {
    let title = format!("{}: {}", exercise.id(), exercise.spec.title);
    let mut lines = vec![
        format!("{}  {}", style::bold(&title), style::failure("no verdict")),
        String::new(),
    ];
    lines.extend(self::lines(&style::wrap(error, 0)));
    lines.push(String::new());
    lines.push("Press r to check again.".to_owned());
    lines
}

/// Returns the page of the previous verdict, dimmed, while a check runs.
pub(super) fn outdated(exercise: &Exercise, lines: Vec<String>) -> Vec<String> {
    let title = format!("{}: {}", exercise.id(), exercise.spec.title);
    let checking = style::pending("checking…");
    let head = format!("{}  {checking}", style::bold(&title));
    let dimmed = |line: String| style::dim(&console::strip_ansi_codes(&line));
    let rest = lines.into_iter().skip(1).map(dimmed);
    std::iter::once(head).chain(rest).collect()
}

/// Returns the line between a page and its footer.
pub(super) fn separator(columns: usize) -> String {
    style::dim(&"─".repeat(columns.min(style::width())))
}

/// Joins `parts` to one line, and cuts it at `columns`.
pub(super) fn status_line(parts: &[String], columns: usize) -> String {
    let line = parts.join(" · ");
    style::dim(&console::truncate_str(&line, columns, "…"))
}

/// Returns the key line, from keys and their actions. If there are too many for
/// `columns`, leaves out those before the last one.
pub(super) fn key_line(keys: &[(&str, &str)], columns: usize) -> String {
    let show =
        |(key, action): &(&str, &str)| format!("{} {action}", style::bold(key));
    let mut shown: Vec<_> = keys.iter().map(show).collect();
    while shown.len() > 1 && style::columns(&shown.join("   ")) > columns {
        shown.remove(shown.len() - 2);
    }
    shown.join("   ")
}

/// Returns the page of keys.
pub(super) fn key_help() -> String {
    format!("{}\n{KEYS}", style::bold("Keys"))
}

// A `\` after the first quote would remove the indent of the first line.
const KEYS: &str = "
  s  start the exercise: copy its stub to your file, show its question
  t  show the question; there, switch its language (English, 中文)
  h  show the hints that you have seen; there, h shows the next one
  a  show the whole report of the last check
  r  check again
  c  compare your file with the answer, once it passes
  n  go to the next exercise, once this one passes
  l  list the exercises; there, enter opens the selected one
  o  build the notes and serve them on this machine
  q  quit (also Ctrl-C); Ctrl-Z suspends, and `fg` in the shell resumes

  Scroll or select: ↑ ↓ or k j, page up/down or b/space, home/end or g/G
  enter, escape or backspace: back to the verdict; from this page, to the
  page before. A key that does not apply to a page does nothing.
";
