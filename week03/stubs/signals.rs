//! Signal handling: graceful shutdown, forced exit, reload, and the exit code.
//! Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - The first SIGTERM, SIGINT or SIGQUIT cancels the token that was passed to
//!   `start`. When all parts have ended, `run` returns 0.
//! - This holds from the moment when `start` is called. A `start` that still
//!   runs when the token is cancelled is not dropped: it completes by itself,
//!   and may return no parts.
//! - A second signal of these three ends the process at once. The exit code is
//!   128 + the number of the second signal.
//! - The second signal works whatever the parts wait for. It also works while
//!   parts block all threads of their runtime, and after `run` has returned,
//!   while the runtime still waits for blocking tasks.
//! - A failure does not count as the first signal.
//! - If a part fails, the token is cancelled, the other parts are waited for,
//!   and `run` returns 1. This includes a failure during shutdown. A part that
//!   returns `Ok` before the token is cancelled has failed, too.
//! - If `start` fails, `run` returns 1. A panic in a part is not graded.
//! - Each SIGHUP calls `reload`, also during shutdown, and has no other effect.
//!   If `reload` panics, the process serves on and handles all further signals.
//! - Every other signal keeps its disposition: terminate, stop or ignore.
//!
//! The grader starts a process of two parts and tests it from outside, over
//! sockets and with signals. `crate::group` is the answer to `group`, or yours.
//! tokio has a stream for each signal: `tokio::signal::unix::signal`. After its
//! first call for a signal, this signal never kills the process again.

use std::error::Error;
use std::pin::Pin;

use tokio_util::sync::CancellationToken;

/// The error of a part.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A part of the process, such as a server or a consumer. It ends when the
/// token that was passed to `start` is cancelled.
pub type Part = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Runs the parts of a process until a signal or a failure ends them, and
/// returns the exit code. Calls `reload`, which does not block, at each SIGHUP.
pub async fn run<F>(
    _start: impl FnOnce(CancellationToken) -> F,
    _reload: impl FnMut() + Send + 'static,
) -> u8
where
    F: Future<Output = Result<Vec<Part>, BoxError>>,
{
    todo!("what must precede `start`? what handles signals while parts end?")
}
