//! What stops the command: one line that says what is wrong, and one command
//! that mends it.

use std::fmt::{self, Display};
use std::io;
use std::path::Path;

/// Shown as one line, and exit code 2.
#[derive(Debug)]
pub(crate) struct Trouble {
    what: String,
    mend: Option<String>,
}

impl Trouble {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), mend: None }
    }

    /// What to type, or to do, next.
    pub(crate) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// A file that would not be read, written, copied…
    pub(crate) fn file(doing: &str, file: &Path, error: &io::Error) -> Self {
        let trouble =
            Self::new(format!("cannot {doing} {}: {error}", file.display()));
        match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::PermissionDenied => trouble.mend(
                "the workbook writes its own tree: `git clone` it to a place \
                 that you own",
            ),
            io::ErrorKind::StorageFull => {
                trouble.mend("make room: `cargo clean` frees the most")
            }
            _ => trouble,
        }
    }
}

impl Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.mend.iter().try_for_each(|mend| write!(f, "; {mend}"))
    }
}

impl std::error::Error for Trouble {}
