//! Real servers for tests. Each test starts its own, and no server outlives its
//! test.
//!
//! **Question.** How does a test get a server of its own, and how is that server
//! cleaned up if the test panics or is killed?
//!
//! **Idea.** Each server has its own directory and listens on a Unix socket
//! there, so it uses no port. A shell runs beside it as a watchdog and reads
//! from a pipe. Only the test's process can write to that pipe, and it never
//! does. The pipe is closed when the test drops the server, and also when the
//! test's process dies, for any reason. Then the watchdog stops the server and
//! removes the directory. The directory is created by the same shell, so it
//! never exists without a watchdog.
//!
//! **Guarantee.** A server that `start` returns is ready for requests. When its
//! drop returns, its process has ended and its directory is removed. If the test
//! is killed with `SIGKILL`, at any moment, both are removed shortly afterwards.
//! If a server is not ready within 8 s, `start` returns an error with its log.
//! `cargo wb` kills a test after 10 s, so the error is shown before that.
//!
//! **Cost.** One more process for each server. Redis starts in about 10 ms.
//! Postgres starts in about 200 ms, but before its first start a data directory
//! has to be created, which the other starts copy. [`prepare`] does that before
//! a deadline runs.
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

mod memcached;
mod postgres;
mod program;
mod redis;
mod watched_process;

pub use memcached::Memcached;
pub use postgres::Postgres;
pub use program::{PROGRAMS, Program};
pub use redis::Redis;

/// The reason why a server could not be started.
#[derive(Debug)]
pub enum StartError {
    /// The program is not installed. The text says how to install it.
    Missing(&'static Program),
    /// An operation of the operating system failed.
    Io {
        /// The operation that failed.
        operation: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The program ended, or was not ready in time.
    Failed {
        /// The program that was started.
        program: &'static str,
        /// What happened: it ended, or it was not ready.
        outcome: String,
        /// The last lines of its log.
        log: String,
    },
}

/// The longest time from a server's start until it is ready. It is shorter than
/// the 10 s after which `cargo wb` kills a test, because a killed test reports
/// no error.
const START_TIMEOUT: Duration = Duration::from_secs(8);

/// The longest time for one response. After it, the request is sent again.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

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

/// Creates the files that all servers of `program` share, unless they exist.
///
/// For Postgres this is an archive in the temporary directory, which takes
/// seconds to create. Redis shares no files.
///
/// `start` creates the archive too. But if a deadline ends a test before the
/// archive is complete, the next test has to begin again. So call `prepare`
/// before the deadline runs.
///
/// # Errors
///
/// When the program is not installed, or fails.
pub fn prepare(program: &Program) -> Result<(), StartError> {
    if *program == program::POSTGRES { postgres::prepare() } else { Ok(()) }
}

/// Returns a function for `map_err` that adds the name of the operation.
fn io_error(operation: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Io { operation, source }
}
