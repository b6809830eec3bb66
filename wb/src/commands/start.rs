//! `start [NAME]`: hands out a stub, and the question it asks.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};

use workbook::{Exercise, Workbook};

use crate::error::Error;
use crate::reader::current;
use crate::reader::progress::Progress;
use crate::terminal::report;
use crate::terminal::style;

pub(crate) fn start(book: &Workbook, name: Option<&str>) -> Result<(), Error> {
    let exercise = match name {
        Some(name) => book.exercise(name)?,
        None => current::open(book, &Progress::read(book)?)
            .ok_or_else(current::all_done)?,
    };
    let is_new = hand_out(exercise)?;
    Progress::update(book, |progress| progress.set_current(exercise))?;
    style::print(&text(book, exercise, is_new));
    Ok(())
}

/// Copies the stub, never over a file. Says whether there was none.
pub(crate) fn hand_out(exercise: &Exercise) -> Result<bool, Error> {
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

fn text(book: &Workbook, exercise: &Exercise, is_new: bool) -> String {
    let mut text = question(book, exercise);
    let yours = if is_new { "your file:" } else { "yours, kept:" };
    text = text.replacen("your file:  ", &format!("{yours:12}"), 1);
    let _ = writeln!(
        text,
        "\nWhat is graded stands at the top of your file. Save it, then\n\
         `cargo wb check {0}`, or `cargo wb watch {0}`, which checks each \
         time you save.\n(A week's first check compiles what the week needs.)",
        exercise.name
    );
    text
}

/// What is asked, and where everything is.
pub(crate) fn question(book: &Workbook, exercise: &Exercise) -> String {
    let spec = &exercise.spec;
    let mut text = format!(
        "{}  ({} minutes, {} rungs)\n\n",
        style::bold(&format!("{}: {}", exercise.id(), spec.title)),
        spec.minutes,
        spec.rungs.len()
    );
    text += &style::wrap(spec.question.en.trim(), 0);
    text += &style::wrap(spec.question.zh.trim(), 0);
    text.push('\n');
    let _ = writeln!(text, "{:13}{}", "your file:", report::attempt(exercise));
    let notes = exercise.notes();
    let shown = style::link(&notes, &book.short(&notes).to_string());
    let _ = writeln!(text, "{:13}{shown} (and the answer)", "the notes:");
    let _ = writeln!(text, "{:13}cargo wb demo {}", "to see it:", spec.example);
    text
}
