//! `start [NAME]`: copies the stub of an exercise, and prints its question.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};

use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::reader::current;
use crate::reader::language::Language;
use crate::reader::progress::Progress;
use crate::terminal::report;
use crate::terminal::style;

/// Prints the question in `language`, or else in the language of the locale.
pub(crate) fn start(
    book: &Workbook,
    name: Option<&str>,
    language: Option<Language>,
) -> Result<(), Error> {
    let exercise = match name {
        Some(name) => book.exercise(name)?,
        None => current::unfinished(book, &Progress::read(book)?)
            .ok_or_else(current::all_pass)?,
    };
    let is_new = copy_stub(exercise)?;
    Progress::update(book, |progress| progress.set_current(exercise))?;
    let language = language.unwrap_or_else(Language::from_environment);
    style::print(&text(book, exercise, language, is_new));
    Ok(())
}

/// Copies the stub to the attempt, unless the attempt exists. Returns whether it
/// was copied.
pub(crate) fn copy_stub(exercise: &Exercise) -> Result<bool, Error> {
    let (stub, attempt) = (exercise.stub(), exercise.attempt());
    let text =
        fs::read(&stub).map_err(|error| Error::file("read", &stub, &error))?;
    let copy = fs::File::create_new(&attempt)
        .and_then(|mut file| file.write_all(&text));
    match copy {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::file("write", &attempt, &error)),
    }
}

fn text(
    book: &Workbook,
    exercise: &Exercise,
    language: Language,
    is_new: bool,
) -> String {
    let mut text = question(book, exercise, language);
    if !is_new {
        text += "\nYour file existed before. It is unchanged.\n";
    }
    let _ = writeln!(
        text,
        "\nNext: edit and save your file, then `cargo wb check {0}`.\n\
         `cargo wb watch {0}` checks it each time you save.\n\
         (The first check of a week compiles the whole week.)",
        exercise.name
    );
    text
}

/// Returns the question of an exercise, and where its files are.
pub(crate) fn question(
    book: &Workbook,
    exercise: &Exercise,
    language: Language,
) -> String {
    let spec = &exercise.spec;
    let mut text = format!(
        "{}  ({} minutes, {} rungs)\n\n",
        style::bold(&format!("{}: {}", exercise.id(), spec.title)),
        spec.minutes,
        spec.rungs.len()
    );
    text += &style::wrap(language.question(&spec.question).trim(), 0);
    text.push('\n');
    let attempt = report::attempt(exercise);
    let _ = writeln!(
        text,
        "{:13}{attempt} (the rules are at its top)",
        "your file:"
    );
    let notes = exercise.notes();
    let shown = style::link(&notes, &book.short(&notes).to_string());
    let _ = writeln!(text, "{:13}{shown} (with the answer)", "the notes:");
    let _ =
        writeln!(text, "{:13}cargo wb demo {}", "an example:", spec.example);
    text
}
