//! Real servers, one for each test that asks, gone when it ends.
//!
//! **Question.** How does a test get a server of its own, and how does the
//! machine stay clean when the test panics, or is killed?
//!
//! **Idea.** Each server lives in a directory of its own and listens on a Unix
//! socket there, so that no port is ever taken. Beside it waits a shell that
//! reads from a pipe which only the test's process can write to. Nothing is
//! ever written: the pipe ends when the server is dropped, and when the process
//! dies of whatever cause. Then the shell ends the server and removes the
//! directory, which it has made, too.
//!
//! **Guarantee.** A server that is returned answers. After its drop neither its
//! process nor its directory is left; after a `SIGKILL` of the test, soon, and
//! at whatever moment it came. One that does not answer within 8 s has failed,
//! so that its log is shown before `cargo wb` kills the test after 10 s.
//!
//! **Cost.** A process more for each server. Redis starts in some 10 ms, and
//! Postgres in some 200 ms once the first has made the data directory that the
//! others copy: [`prepare`] does so before any deadline runs.
//!
//! ```no_run
//! use lab::servers::Postgres;
//!
//! let server = Postgres::start()?;
//! assert!(server.url().starts_with("postgres://postgres@"));
//! # Ok::<(), lab::servers::StartError>(())
//! ```

use std::time::Duration;
use std::{error, fmt, io};

mod guarded;
mod postgres;
mod program;
mod redis;

pub use postgres::Postgres;
pub use program::{PROGRAMS, Program};
pub use redis::Redis;

/// Why there is no server.
#[derive(Debug)]
pub enum StartError {
    /// It has to be installed first: the text says how.
    Missing(&'static Program),
    /// The machine refused.
    Io {
        /// What was tried.
        operation: &'static str,
        /// What it answered.
        source: io::Error,
    },
    /// It ended, or did not answer in time.
    Failed {
        /// What was started.
        program: &'static str,
        /// What became of it.
        outcome: String,
        /// The last lines that it wrote.
        log: String,
    },
}

/// Within this time a server answers, or has failed. `cargo wb` kills a test
/// after 10 s, and what is killed cannot say why.
const DEADLINE: Duration = Duration::from_secs(8);

/// Within this time it answers one question, or is asked again.
const ANSWER: Duration = Duration::from_secs(1);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(program) => write!(
                f,
                "{} is not installed: apt-get install {} \
                 (Fedora: {}, Homebrew: {})",
                program.name, program.debian, program.fedora, program.homebrew
            ),
            Self::Io { operation, .. } => write!(f, "failed to {operation}"),
            Self::Failed { program, outcome, log } => {
                write!(f, "{program} {outcome}; its log ends with:\n{log}")
            }
        }
    }
}

impl error::Error for StartError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Missing(_) | Self::Failed { .. } => None,
        }
    }
}

/// Makes what all starts of `program` share, unless it exists: for Postgres an
/// archive in the temporary directory, which takes seconds; for Redis nothing.
///
/// A start makes it, too. But a deadline may end a test before the archive is
/// complete, and the next test begins anew: call this before the deadline runs.
///
/// # Errors
///
/// When the program is missing, or fails.
pub fn prepare(program: &Program) -> Result<(), StartError> {
    if *program == program::POSTGRES { postgres::prepare() } else { Ok(()) }
}

/// For `map_err`: names what was tried.
fn failed_to(operation: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Io { operation, source }
}
