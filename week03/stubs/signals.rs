//! A process and its signals: one part goes, all go, and the exit code tells why.
//! Your turn.
//!
//! What is graded, and nothing else:
//!
//! - The first SIGTERM, SIGINT or SIGQUIT cancels the token that `start` was
//!   given. When all parts have ended, the code is 0. That holds from the moment
//!   in which `start` is called: a start that is told to stop ends by itself, and
//!   may return no parts.
//! - A second one of them ends the process at once, with 128 + its number,
//!   whatever the parts wait for: also while they block all threads of their
//!   runtime, and also when `run` has returned and that runtime still waits for
//!   what blocks. A failure does not count as the first one.
//! - If a part fails, also after it was asked to stop, the token is cancelled, the
//!   others are waited for, and the code is 1. So it is if a part returns `Ok` and
//!   was not asked to stop.
//! - If `start` fails, the code is 1. What becomes of a panic in a part is not
//!   graded.
//! - Each SIGHUP calls `reload`, also while the parts end, and does nothing else.
//!   A `reload` that panics changes nothing: the process serves on, and hears its
//!   signals.
//! - All other signals do what they did before: they kill, or nothing.
//!
//! The grader starts a process of two parts, and looks at it from outside, over
//! sockets and with signals. `crate::group` is the answer to `group`, or yours.
//! tokio has a stream for each signal: `tokio::signal::unix::signal`. From its
//! first call on the signal kills no more, for the life of the process.

use std::error::Error;
use std::pin::Pin;

use tokio_util::sync::CancellationToken;

/// Whatever a part fails with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What the process is made of: a server, a consumer. It ends when the token is
/// cancelled that `start` was given.
pub type Part = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Starts a process of parts, runs it until a signal or a failure ends it, and
/// returns its exit code. `reload` is called at each SIGHUP, and does not block.
pub async fn run<F>(
    _start: impl FnOnce(CancellationToken) -> F,
    _reload: impl FnMut() + Send + 'static,
) -> u8
where
    F: Future<Output = Result<Vec<Part>, BoxError>>,
{
    todo!("what comes first, and who hears the second signal while parts end?")
}
