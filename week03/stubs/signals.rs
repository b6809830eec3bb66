//! Signal handling: graceful shutdown, forced exit, reload, and the exit code.
//! Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - The first SIGTERM, SIGINT or SIGQUIT cancels the token that was passed to
//!   `start`. When all parts have ended, however long that takes, `run` returns
//!   0.
//! - Signals are handled in this way from the call of `start` on, even before
//!   its future is polled. If the token is cancelled while `start` still runs,
//!   `run` does not drop `start`, but waits until it completes, and then runs
//!   the parts that it returns until they end. The list of parts can be empty
//!   only if the token was cancelled, by a signal or on request.
//! - A second signal of these three ends the process at once. The exit code is
//!   128 + the number of the second signal, as shells report it. So this signal
//!   may also kill the process.
//! - But a signal of these three that comes within 100 ms of the first one only
//!   repeats it, and has no effect: at Ctrl-C, the terminal and the parent
//!   process may both send a signal. A signal that comes 300 ms after the first
//!   one, or later, is a second signal, whatever came in between.
//! - The second signal works whatever the parts or `start` wait for, even while
//!   they block all threads of their runtime and hold the locks of stdout and
//!   stderr. It also works after `run` has returned, while the runtime still
//!   waits for blocking tasks.
//! - A part, or another task, may cancel the token, too: this is a shutdown on
//!   request. Only a signal counts as the first signal. The cancellation of the
//!   token by a part, and the failure of a part, do not.
//! - If a part fails, `run` cancels the token, waits for the other parts, and
//!   returns 1. It also returns 1 if a part fails during shutdown. A part that
//!   returns `Ok` before the token is cancelled has failed, too, even if a
//!   signal arrives right after its end. A part may cancel the token and then
//!   return `Ok` at once: it has not failed.
//! - If `start` fails, `run` returns 1, also if the token was cancelled before.
//!   A panic in a part is not graded.
//! - Each SIGHUP calls `reload` at once, also while `start` runs and during
//!   shutdown, and has no other effect. A SIGHUP during a call of `reload`
//!   causes another call after it.
//!   `reload` is called in the context of the runtime in which `run` was called,
//!   so its tasks run there. If `reload` panics, the process serves on and
//!   handles all further signals. The destructor of the panic's payload may
//!   panic, too.
//! - A signal that was ignored when the process started is still ignored: for
//!   instance, SIGHUP under `nohup`. On Linux, the line `SigIgn:` of
//!   `/proc/self/status` is a mask in hexadecimal, with bit *n* - 1 set if
//!   signal *n* is ignored.
//! - Every other signal keeps its disposition: terminate, stop or ignore. Only
//!   SIGTERM, SIGINT, SIGQUIT and SIGHUP have a handler.
//!
//! The grader starts processes and tests them from outside, over sockets and
//! with signals. You may use `crate::group`, the module of the exercise
//! `group`. Under `cargo wb` it is the workbook's answer. tokio has a stream for
//! each signal: `tokio::signal::unix::signal`. After the first call of this
//! function for a signal, this signal never kills the process again.

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
