//! `prepare NAME`: compiles the dependencies of an exercise before its first check.

use std::fs;

use workbook::Workbook;

use crate::error::Error;
use crate::grading::compile::{self, Compiled};
use crate::grading::grade::content_hash;
use crate::terminal::status::Status;

pub(crate) fn prepare(book: &Workbook, name: &str) -> Result<(), Error> {
    let exercise = book.exercise(name)?;
    let stub = exercise.stub();
    let text =
        fs::read(&stub).map_err(|error| Error::file("read", &stub, &error))?;
    let hash = content_hash(&text);
    let status = Status::Lines;
    match compile::graders(book, exercise, &stub, &hash, false, &status)? {
        Compiled::Ready(_) => Ok(()),
        Compiled::Not { rendered } => Err(Error::new(format!(
            "the stub of {} does not compile:\n{rendered}",
            exercise.id()
        ))),
    }
}
