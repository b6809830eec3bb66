//! `reset [NAME]`: replaces the attempt with the stub, and keeps a copy.

use std::fs;
use std::path::PathBuf;

use workbook::{Exercise, Workbook};

use crate::commands::start;
use crate::error::Error;
use crate::grading::lock;
use crate::reader::current;
use crate::terminal::style;

pub(crate) fn reset(book: &Workbook, name: Option<&str>) -> Result<(), Error> {
    let exercise = current::named_or_current(book, name)?;
    let attempt = exercise.attempt();
    let _lock = lock::acquire(book, "grading")?;
    if !attempt.exists() {
        return Err(Error::new(format!(
            "there is no {}",
            book.short(&attempt)
        ))
        .fix(format!("`cargo wb start {}`", exercise.name)));
    }
    if fs::read(&attempt).ok() == fs::read(exercise.stub()).ok() {
        style::print(&format!(
            "{} is the stub already\n",
            book.short(&attempt)
        ));
        return Ok(());
    }
    let copy = move_aside(exercise)?;
    start::copy_stub(exercise)?;
    style::print(&format!(
        "{} is the stub again; your old file is now {}\n",
        book.short(&attempt),
        book.short(&copy)
    ));
    Ok(())
}

/// Renames the attempt to the first free number, `NAME.1.rs`, and returns the new
/// path.
fn move_aside(exercise: &Exercise) -> Result<PathBuf, Error> {
    let attempt = exercise.attempt();
    let numbered = |n: u32| attempt.with_extension(format!("{n}.rs"));
    let copy = (1..)
        .map(numbered)
        .find(|file| !file.exists())
        .expect("some number is free");
    fs::rename(&attempt, &copy)
        .map_err(|error| Error::file("move", &attempt, &error))?;
    Ok(copy)
}
