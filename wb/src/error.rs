//! The error that ends a command: a message, and what the reader can do.

use std::fmt::{self, Display};
use std::io;
use std::path::Path;

/// An error that ends the command with exit code 2.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
    fix: Option<String>,
}

impl Error {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), fix: None }
    }

    /// Adds what the reader can do.
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Returns the error of `operation` ("read", "write", "copy") on `file`.
    pub(crate) fn file(
        operation: &str,
        file: &Path,
        error: &io::Error,
    ) -> Self {
        let message = format!("cannot {operation} {}: {error}", file.display());
        Self { message, fix: fix_of(error) }
    }
}

/// Returns what the reader can do about an I/O error.
fn fix_of(error: &io::Error) -> Option<String> {
    let fix = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "the workbook writes to its own folder: `git clone` it to a folder \
             with write permission"
        }
        io::ErrorKind::StorageFull => {
            "free some disk space: `cargo clean` frees the most"
        }
        _ => return None,
    };
    Some(fix.to_owned())
}

impl From<workbook::Error> for Error {
    fn from(error: workbook::Error) -> Self {
        use workbook::Error as Cause;
        let fix = match &error {
            Cause::NoWorkbook { .. } => {
                Some("`cd` into your clone of the workbook".to_owned())
            }
            Cause::Read { source, .. } => fix_of(source),
            Cause::Toml { .. } => {
                Some("CONTRIBUTING.md lists the fields".to_owned())
            }
            Cause::UnknownExercise { nearest: Some(name), .. } => {
                Some(format!("did you mean `{name}`?"))
            }
            Cause::UnknownExercise { nearest: None, .. } => {
                Some("`cargo wb list` shows all exercises".to_owned())
            }
            Cause::AmbiguousExercise { first, .. } => {
                Some(format!("type `{first}`"))
            }
            Cause::UnknownWeek { weeks, .. } => {
                Some(format!("the weeks are {}", weeks.join(", ")))
            }
            Cause::FoilWithoutText { .. } | Cause::FoilEdit { .. } => None,
        };
        Self { message: error.to_string(), fix }
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.fix.iter().try_for_each(|fix| write!(f, "; {fix}"))
    }
}

impl std::error::Error for Error {}
