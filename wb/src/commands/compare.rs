//! `compare [NAME]`: compares the attempt with the answer and its variants.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use console::Term;
use similar::{ChangeTag, DiffOp, TextDiff};
use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::reader::current;
use crate::reader::progress::{Progress, State};
use crate::terminal::style;

/// The number of columns from which on two listings are shown side by side.
const SIDE_BY_SIDE_WIDTH: usize = 130;

/// The number of equal lines shown around a difference.
const CONTEXT_LINES: usize = 2;

/// The rows of the table: a name, and the patterns that are counted. A call may
/// be written as a method or as a function.
const COUNTED: [(&str, &[&str]); 8] = [
    ("unwrap, expect", &[".unwrap()", "::unwrap)", ".expect("]),
    ("clone", &[".clone()", ".cloned()", "::clone(", "::clone)"]),
    (
        "strings (format!, to_string)",
        &["format!(", ".to_string()", "::to_string)"],
    ),
    (
        "boxed errors",
        &[
            "Box<dyn Error",
            "Box<dyn error::Error",
            "Box<dyn std::error::Error",
            "Box<dyn StdError",
            "BoxError",
        ],
    ),
    ("awaits", &[".await"]),
    ("locks", &["Mutex", "RwLock"]),
    ("SeqCst", &["SeqCst"]),
    ("unsafe", &["unsafe "]),
];

/// The lines of a file without comments and empty lines.
struct Code {
    name: String,
    lines: Vec<String>,
}

pub(crate) fn compare(
    book: &Workbook,
    name: Option<&str>,
    spoil: bool,
) -> Result<(), Error> {
    let exercise = current::named_or_current(book, name)?;
    let state = Progress::read(book)?.state(exercise);
    if state != State::Passing && !spoil {
        return Err(Error::new(format!("{} does not pass yet", exercise.id()))
            .fix(format!(
                "`cargo wb check {0}`, or `cargo wb compare {0} --spoil`",
                exercise.name
            )));
    }
    style::print(&text(exercise)?);
    Ok(())
}

/// Returns the comparison as text.
pub(crate) fn text(exercise: &Exercise) -> Result<String, Error> {
    let attempt = exercise.attempt();
    let yours = attempt.exists().then_some(attempt);
    let yours = yours.map(|file| Code::read("yours", &file)).transpose()?;
    let answer = Code::read("answer", &exercise.answer())?;
    let mut variants = Vec::new();
    let mut intros = String::new();
    for (letter, file) in ('A'..).zip(exercise.variants()) {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let name = format!("{letter}: {}", name.replace('_', " "));
        let _ = writeln!(intros, "\n{}", style::bold(&name));
        intros += &style::wrap(&introduction(&file)?, 2);
        variants.push(Code::read(&letter.to_string(), &file)?);
    }

    let mut text = format!(
        "{}\n\n",
        style::bold(&format!("{}: {}", exercise.id(), exercise.spec.title))
    );
    let all: Vec<_> = yours.iter().chain([&answer]).chain(&variants).collect();
    text += &counts(&all);
    if !variants.is_empty() {
        let _ = write!(text, "\nVariants (other right answers):\n{intros}");
    }
    if let Some(yours) = &yours {
        let _ = writeln!(
            text,
            "\n{}, without comments\n",
            style::bold("- your file  + the answer")
        );
        text += &difference(yours, &answer);
    }
    let _ = writeln!(text, "\nThe answer, its variants and the notes:");
    let mut files = vec![exercise.answer()];
    files.extend(exercise.variants());
    files.push(exercise.notes());
    for file in &files {
        let shown = file.strip_prefix(exercise.root()).unwrap_or(file);
        let link = style::link(file, &shown.display().to_string());
        let _ = writeln!(text, "  {link}");
    }
    Ok(text)
}

impl Code {
    fn read(name: &str, file: &Path) -> Result<Self, Error> {
        let lines = read(file)?
            .lines()
            .filter(|line| !line.trim().is_empty())
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(str::to_owned)
            .collect();
        Ok(Self { name: name.to_owned(), lines })
    }

    fn count(&self, patterns: &[&str]) -> usize {
        let counts = |line: &String| -> usize {
            patterns.iter().map(|it| line.matches(it).count()).sum()
        };
        self.lines.iter().map(counts).sum()
    }
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|error| Error::file("read", file, &error))
}

/// Returns the documentation of a module as one paragraph, without `Variant: `.
fn introduction(file: &Path) -> Result<String, Error> {
    let text = read(file)?;
    let doc = text.lines().map_while(|line| line.strip_prefix("//!"));
    let paragraph: Vec<_> = doc.map(str::trim).collect();
    let paragraph = paragraph.join(" ");
    let paragraph = paragraph.trim_start_matches("Variant: ");
    let mut rest = paragraph.chars();
    let first = rest.next().into_iter().flat_map(char::to_uppercase);
    Ok(first.collect::<String>() + &rest.as_str().replace("  ", " "))
}

/// Returns the table, with only the rows in which the listings differ.
fn counts(all: &[&Code]) -> String {
    let width = |code: &&Code| style::columns(&code.name).max(5);
    let mut text = format!("{:32}", "");
    for code in all {
        let _ = write!(text, "  {:>1$}", code.name, width(code));
    }
    let rows = std::iter::once((
        "lines of code",
        all.iter().map(|code| code.lines.len()).collect(),
    ));
    let counted = COUNTED.iter().map(|(name, patterns)| {
        (*name, all.iter().map(|code| code.count(patterns)).collect::<Vec<_>>())
    });
    for (name, counts) in rows.chain(counted) {
        if counts.iter().all(|count| *count == counts[0]) {
            continue;
        }
        let _ = write!(text, "\n  {name:30}");
        for (count, code) in counts.iter().zip(all) {
            let _ = write!(text, "  {count:>0$}", width(code));
        }
    }
    text.push('\n');
    text
}

fn difference(yours: &Code, answer: &Code) -> String {
    let old: Vec<_> = yours.lines.iter().map(String::as_str).collect();
    let new: Vec<_> = answer.lines.iter().map(String::as_str).collect();
    let diff = TextDiff::from_slices(&old, &new);
    let (_, columns) = Term::stdout().size();
    let columns = usize::from(columns);
    let mut text = String::new();
    for group in diff.grouped_ops(CONTEXT_LINES) {
        if !text.is_empty() {
            text += &style::dim("  …\n");
        }
        for op in group {
            if columns >= SIDE_BY_SIDE_WIDTH {
                side_by_side(&old, &new, &op, columns / 2 - 3, &mut text);
            } else {
                unified(&diff, &op, &mut text);
            }
        }
    }
    if text.is_empty() {
        text.push_str("  no difference\n");
    }
    text
}

/// Appends one operation of a diff, with two columns.
fn side_by_side(
    old: &[&str],
    new: &[&str],
    op: &DiffOp,
    width: usize,
    text: &mut String,
) {
    let (left, right) = (&old[op.old_range()], &new[op.new_range()]);
    let is_same = matches!(op, DiffOp::Equal { .. });
    for n in 0..left.len().max(right.len()) {
        let side = |lines: &[&str]| {
            let line = lines.get(n).copied().unwrap_or_default();
            style::pad(&console::truncate_str(line, width, "…"), width)
        };
        let (left, right) = (side(left), side(right));
        let (left, right) = if is_same {
            (style::dim(&left), style::dim(&right))
        } else {
            (left, style::success(&right))
        };
        let _ = writeln!(text, "{left} {} {right}", style::dim("|"));
    }
}

/// Appends one operation of a diff, with lines marked `-` and `+`.
fn unified<'a>(
    diff: &TextDiff<'a, 'a, 'a, str>,
    op: &DiffOp,
    text: &mut String,
) {
    for change in diff.iter_changes(op) {
        let line = change.value();
        let line = match change.tag() {
            ChangeTag::Equal => style::dim(&format!("  {line}")),
            ChangeTag::Delete => format!("- {line}"),
            ChangeTag::Insert => style::success(&format!("+ {line}")),
        };
        let _ = writeln!(text, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::{COUNTED, Code};

    fn count(row: &str, line: &str) -> usize {
        let code = Code { name: String::new(), lines: vec![line.to_owned()] };
        let (_, patterns) = COUNTED.iter().find(|it| it.0 == row).unwrap();
        code.count(patterns)
    }

    #[test]
    fn method_and_function_calls_of_clone_are_counted() {
        let twice = "(Arc::clone(&self.shared), self.token.clone())";
        assert_eq!(count("clone", twice), 2);
        assert_eq!(count("clone", "old.as_ref().map(Arc::clone)"), 1);
        assert_eq!(count("clone", "old.as_ref().cloned()"), 1);
        assert_eq!(count("clone", "fn clone(&self) -> Self {"), 0);
        assert_eq!(count("clone", "#[derive(Clone)]"), 0);
    }

    #[test]
    fn only_boxed_errors_count_as_boxed_errors() {
        let two = "fn new(old: Box<dyn Error>) -> Result<(), BoxError> {";
        assert_eq!(count("boxed errors", two), 2);
        let three = "(Box<dyn error::Error + Send>, Box<dyn StdError>, \
                     Box<dyn std::error::Error>)";
        assert_eq!(count("boxed errors", three), 3);
        let none = "read: Box<dyn Fn() -> Table + Send>, all: &dyn Error";
        assert_eq!(count("boxed errors", none), 0);
    }

    #[test]
    fn function_paths_are_counted_as_calls() {
        let strings = "strings (format!, to_string)";
        assert_eq!(count(strings, "links.map(ToString::to_string)"), 1);
        assert_eq!(count("unwrap, expect", "all.map(Result::unwrap)"), 1);
        assert_eq!(count("unwrap, expect", "one.unwrap_or(0)"), 0);
    }
}
