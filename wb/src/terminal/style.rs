//! Colours, line breaks and links in a terminal. A pipe gets plain text.

use std::io::{self, Write};
use std::path::Path;

use console::{Style, Term};
use unicode_width::UnicodeWidthChar;

/// The longest line, also in a wider terminal: longer lines are hard to read.
const MAX_WIDTH: usize = 100;

/// Writes `text` to stdout. A closed pipe (`| head`) is not an error.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("cannot write: {error}");
        }
        _ => {}
    }
}

/// Returns the width of the text, in columns.
pub(crate) fn width() -> usize {
    let (_, columns) = Term::stdout().size_checked().unwrap_or((24, 80));
    usize::from(columns).clamp(40, MAX_WIDTH)
}

/// Returns `text` as a link to `file`, in a terminal with colours.
pub(crate) fn link(file: &Path, text: &str) -> String {
    if !Term::stdout().is_term() || !console::colors_enabled() {
        return text.to_owned();
    }
    let file = file.display().to_string().replace(' ', "%20");
    format!("\x1b]8;;file://{file}\x1b\\{text}\x1b]8;;\x1b\\")
}

pub(crate) fn bold(text: &str) -> String {
    Style::new().bold().apply_to(text).to_string()
}

pub(crate) fn dim(text: &str) -> String {
    Style::new().dim().apply_to(text).to_string()
}

/// For what passes.
pub(crate) fn success(text: &str) -> String {
    Style::new().green().apply_to(text).to_string()
}

/// For what fails.
pub(crate) fn failure(text: &str) -> String {
    Style::new().red().bold().apply_to(text).to_string()
}

/// For what is not finished.
pub(crate) fn pending(text: &str) -> String {
    Style::new().yellow().apply_to(text).to_string()
}

/// Wraps `text` at the width of the terminal, and indents each line by `indent`.
///
/// Breaks at spaces and between wide (CJK) characters, but never before closing
/// punctuation.
pub(crate) fn wrap(text: &str, indent: usize) -> String {
    let mut wrapped = String::new();
    for line in text.lines() {
        wrap_line(line, indent, width(), &mut wrapped);
    }
    wrapped
}

fn wrap_line(line: &str, indent: usize, width: usize, wrapped: &mut String) {
    let room = width.saturating_sub(indent).max(20);
    let mut column = 0;
    wrapped.push_str(&" ".repeat(indent));
    for word in words(line) {
        let length = columns(word.trim_end());
        if column > 0 && column + length > room {
            wrapped.truncate(wrapped.trim_end_matches(' ').len());
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            column = 0;
        }
        wrapped.push_str(word);
        column += columns(word);
    }
    wrapped.truncate(wrapped.trim_end_matches(' ').len());
    wrapped.push('\n');
}

/// Splits `line` where it may break. Each part keeps the spaces after it.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        let mut end = 0;
        for (at, c) in rest.char_indices() {
            let breaks_here = at > 0
                && c != ' '
                && !is_closing(c)
                && (rest[..at].ends_with(' ')
                    || is_wide(c)
                    || rest[..at].ends_with(is_wide));
            if breaks_here {
                break;
            }
            end = at + c.len_utf8();
        }
        let (word, next) = rest.split_at(end);
        rest = next;
        (!word.is_empty()).then_some(word)
    })
}

fn is_wide(c: char) -> bool {
    c.width() == Some(2)
}

/// Returns whether no line may start with `c`.
fn is_closing(c: char) -> bool {
    "，。！？；：、）」』”’》,.;:!?)".contains(c)
}

/// Returns the number of columns that `text` takes, without colours.
pub(crate) fn columns(text: &str) -> usize {
    console::measure_text_width(text)
}

/// Appends spaces to `text` until it takes `width` columns.
pub(crate) fn pad(text: &str, width: usize) -> String {
    let filler = width.saturating_sub(columns(text));
    format!("{text}{:filler$}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &str, indent: usize, width: usize) -> String {
        let mut wrapped = String::new();
        wrap_line(text, indent, width, &mut wrapped);
        wrapped
    }

    #[test]
    fn a_line_breaks_at_spaces() {
        assert_eq!(
            wrapped("one two three four five", 2, 22),
            "  one two three four\n  five\n"
        );
    }

    #[test]
    fn wide_characters_count_twice_and_break_without_spaces() {
        assert_eq!(
            wrapped("没有这一行的时候，读取应该返回什么？", 0, 20),
            "没有这一行的时候，读\n取应该返回什么？\n"
        );
    }

    #[test]
    fn a_line_does_not_start_with_closing_punctuation() {
        assert_eq!(
            wrapped("一二三四五六七八九十。", 0, 20),
            "一二三四五六七八九\n十。\n"
        );
    }

    #[test]
    fn padding_counts_wide_characters_twice() {
        assert_eq!(pad("行", 4), "行  ");
        assert_eq!(pad("long", 2), "long");
    }
}
