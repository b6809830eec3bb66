//! Standard output that its reader may close, as `head` does.

use std::fmt::Display;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};

/// Standard output cannot be written. The run ends, and needs no message.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("failed to write to standard output")]
pub(crate) struct Closed;

/// Prints a line. `println!` panics if the reader has closed the output.
pub(crate) fn line(text: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{text}").context(Closed)
}

/// Returns the text of an error and of its causes. The text of some errors ends
/// with that of their cause: then the cause is left out.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text += &format!(": {cause}");
        }
    }
    text
}
