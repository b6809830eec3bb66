//! What [`settings`](crate::settings) reports: the layer of each value, and the
//! problems.

use std::fmt;

/// A layer overrides the layers above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The option `default_json` of the field.
    Default,
    /// The text of the file.
    File,
    /// The environment variables.
    Environment,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
        })
    }
}

/// A setting that has a value, as it may be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Such as `server.http.timeout`.
    pub path: String,
    /// The canonical JSON of the value, or `***`.
    pub shown: String,
    /// The last layer that has a value.
    pub layer: Layer,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.path, self.shown, self.layer)
    }
}

/// The settings are not valid.
#[derive(Debug, thiserror::Error)]
#[error("invalid settings: {}", join(problems))]
pub struct Error {
    /// All problems. There is at least one.
    pub problems: Vec<Problem>,
}

fn join(problems: &[Problem]) -> String {
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// One problem. It never contains a value: a value in the wrong place may be a
/// secret.
// A key can contain a line break, so `Display` prints the path in quotes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} ({layer}): {fault}")]
pub struct Problem {
    /// The setting or the unknown key, such as `server.http.timeout`. Empty for
    /// the file as a whole.
    pub path: String,
    /// The layer that has the value.
    pub layer: Layer,
    /// The rule that the value breaks.
    pub fault: Fault,
}

/// The rule that a value breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file is not JSON.
    #[error("not JSON at line {line}, column {column}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1, or 0 at the end of a line.
        column: usize,
    },
    /// The schema has no such field.
    #[error("no such setting, expected one of {known:?}")]
    Unknown {
        /// The fields that are known there, in the order of the schema.
        known: Vec<String>,
    },
    /// The field is a message.
    #[error("expected an object")]
    NotAnObject,
    /// The field is a string.
    #[error("expected a string")]
    NotAString,
    /// The field is a `uint32`.
    #[error("expected an integer from 0 to 4294967295")]
    NotAnInteger,
    /// The field is a duration.
    #[error("expected a duration in seconds, such as \"1.5s\"")]
    NotADuration,
    /// The text is a URL with a password.
    #[error("expected a URL without a password, which is a setting of its own")]
    HasPassword,
    /// The text is no address.
    #[error("expected an IP address and a port, such as \"127.0.0.1:8000\"")]
    NotAnAddress,
    /// The number is 0.
    #[error("expected at least 1")]
    Zero,
    /// The duration is negative.
    #[error("expected a duration of at least \"0s\"")]
    Negative,
}
