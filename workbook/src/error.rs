//! Why the tree or a toml cannot be read.

use std::io;
use std::path::PathBuf;

/// An error of this crate. `Display` is one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No folder above `dir` is a clone of the workbook.
    #[error("no workbook around {}", dir.display())]
    NoWorkbook {
        /// Where the search began.
        dir: PathBuf,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file or folder.
        file: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A toml has wrong fields, or is not toml.
    #[error("{}:{line}: {message}", file.display())]
    Toml {
        /// The file, relative to the root.
        file: PathBuf,
        /// The line of the fault, counted from 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
    /// No exercise has this name.
    #[error("no exercise `{name}`")]
    UnknownExercise {
        /// The name that was asked for.
        name: String,
        /// The exercise whose name is most like it, if one is.
        nearest: Option<String>,
    },
    /// Two weeks have an exercise of this name.
    #[error("{name} is in more weeks than one")]
    AmbiguousExercise {
        /// The name that was asked for.
        name: String,
        /// The id of the first one: `week05/gcra`.
        first: String,
    },
    /// No week has this name.
    #[error("no week `{name}`")]
    UnknownWeek {
        /// The name that was asked for.
        name: String,
        /// The weeks that exist.
        weeks: Vec<String>,
    },
    /// A foil has neither edits nor a file of its own.
    #[error("the foil has neither edits nor a file {}", file.display())]
    FoilWithoutText {
        /// Where the file would be, relative to the root.
        file: PathBuf,
    },
    /// The text that a foil replaces is not in the answer exactly once.
    #[error("{find:?} occurs {times} times in the answer, not once")]
    FoilEdit {
        /// The text to be replaced.
        find: String,
        /// How often the answer has it.
        times: usize,
    },
}
