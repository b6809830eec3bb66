//! `prepare NAME`: compiles what an exercise needs, before it is needed.

use std::fs;

use crate::compile::{self, Compiled};
use crate::grade::content_hash;
use crate::status::Status;
use crate::trouble::Trouble;
use crate::workbook::Workbook;

pub(crate) fn prepare(book: &Workbook, name: &str) -> Result<(), Trouble> {
    let exercise = book.exercise(name)?;
    let stub = exercise.stub();
    let text = fs::read(&stub)
        .map_err(|error| Trouble::file("read", &stub, &error))?;
    let hash = content_hash(&text);
    match compile::graders(book, exercise, &stub, &hash, &Status::Lines)? {
        Compiled::Ready(_) => Ok(()),
        Compiled::Not { rendered } => Err(Trouble::new(format!(
            "the stub of {} does not compile:\n{rendered}",
            exercise.id()
        ))),
    }
}
