//! Signal handling: graceful shutdown, forced exit, reload, and the exit code.
//! Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - The first SIGTERM, SIGINT or SIGQUIT cancels the token that was passed to
//!   `start`. When all parts have ended, `run` returns 0.
//! - Signals are handled in this way from the moment when `start` is called. If
//!   the token is cancelled while `start` still runs, `run` does not drop
//!   `start`, but waits until it completes. In this case, the list of parts
//!   that `start` returns can be empty.
//! - A second signal of these three ends the process at once. The exit code is
//!   128 + the number of the second signal.
//! - The second signal works whatever the parts wait for, even while they block
//!   all threads of their runtime. It also works after `run` has returned,
//!   while the runtime still waits for blocking tasks.
//! - The failure of a part does not count as the first signal.
//! - If a part fails, `run` cancels the token, waits for the other parts, and
//!   returns 1. It also returns 1 if a part fails during shutdown. A part that
//!   returns `Ok` before the token is cancelled has failed, too.
//! - If `start` fails, `run` returns 1. A panic in a part is not graded.
//! - Each SIGHUP calls `reload`, also during shutdown, and has no other effect.
//!   If `reload` panics, the process serves on and handles all further signals.
//! - Every other signal keeps its disposition: terminate, stop or ignore.
//!
//! The grader starts a process of two parts and tests it from outside, over
//! sockets and with signals. You may use `crate::group`, the module of the
//! exercise `group`. Under `cargo wb` it is the workbook's answer. tokio has a
//! stream for each signal: `tokio::signal::unix::signal`. After the first call
//! of this function for a signal, this signal never kills the process again.

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
    todo!("what comes before `start`? What handles signals while parts end?")
}
