//! `reset [NAME]`: back to the stub. The old attempt is kept.

use std::fs;
use std::path::PathBuf;

use workbook::{Exercise, Workbook};

use crate::commands::start;
use crate::error::Error;
use crate::grading::lock;
use crate::reader::current;
use crate::terminal::style;

pub(crate) fn reset(book: &Workbook, name: Option<&str>) -> Result<(), Error> {
    let exercise = current::chosen(book, name)?;
    let attempt = exercise.attempt();
    let _lock = lock::wait_for(book, "grading")?;
    if !attempt.exists() {
        return Err(Error::new(format!(
            "there is no {}",
            book.short(&attempt)
        ))
        .fix(format!("`cargo wb start {}`", exercise.name)));
    }
    if fs::read(&attempt).ok() == fs::read(exercise.stub()).ok() {
        style::print(&format!("{} is the stub\n", book.short(&attempt)));
        return Ok(());
    }
    let kept = keep(exercise)?;
    start::hand_out(exercise)?;
    style::print(&format!(
        "{} is the stub again; what you had is {}\n",
        book.short(&attempt),
        book.short(&kept)
    ));
    Ok(())
}

/// Moves the attempt to the first number that is free.
fn keep(exercise: &Exercise) -> Result<PathBuf, Error> {
    let attempt = exercise.attempt();
    let numbered = |n: u32| attempt.with_extension(format!("{n}.rs"));
    let kept = (1..)
        .map(numbered)
        .find(|file| !file.exists())
        .expect("some number is free");
    fs::rename(&attempt, &kept)
        .map_err(|error| Error::file("move", &attempt, &error))?;
    Ok(kept)
}
