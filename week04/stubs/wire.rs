//! Dependency injection without a framework, with asynchronous clean-up. Your
//! turn.
//!
//! These rules are graded, and nothing else:
//!
//! - `build` calls `compose` once. The function `compose` constructs the parts
//!   of an application with `provide`.
//! - `provide` waits for `constructor`. If the constructor returns a value,
//!   `provide` registers the clean-up of the value and returns the value. If
//!   the constructor returns an error, `provide` registers nothing and returns
//!   the error. `compose` may handle this error and continue. Several values
//!   may have the same name.
//! - There is no await between the return of a constructor and the
//!   registration. So no value loses its clean-up because a future is dropped.
//! - `compose` may run several constructors concurrently, for example with
//!   `try_join!`. A constructor may itself call `provide`.
//! - If `compose` returns a value, `build` returns this value and the
//!   `Cleanups`, and runs no clean-up.
//! - If `compose` returns an error, the clean-ups run. Then `build` returns the
//!   error, with the failures of the clean-ups.
//! - If `compose` panics, the clean-ups run. Then `build` raises the panic
//!   again, with the same payload. A constructor may panic, and so may the
//!   `clone` of its value, which then has no clean-up.
//! - `Cleanups::close` runs the clean-ups, and returns their failures.
//! - A clean-up calls `close` with a clone of the value, and then waits for the
//!   future that `close` returns. `close` is not called earlier.
//! - Clean-ups run in reverse order of construction, which is the order in
//!   which the constructors returned. They run one at a time: the next one
//!   starts when the previous one has ended. Each runs exactly once.
//! - So a shared dependency, such as a pool that two repositories use, is
//!   provided once and cloned. It is closed once, after all its users, because
//!   they were constructed later.
//! - Each clean-up may take up to `limit`, counted from its own start. If it
//!   takes longer, it is dropped, and the next one starts after this drop. A
//!   `limit` of `Duration::MAX` is allowed, and so is `Duration::ZERO`: even
//!   then, `close` is called.
//! - A clean-up that returns an error, panics or exceeds its limit does not
//!   prevent the others. Each of them is reported as a `Failure`, in the order
//!   in which they ran. `Cause::Failed` has the error itself. The call of
//!   `close` may panic, too.
//! - If the future of `build` is dropped, the future of `compose` is dropped
//!   first, and then the clean-ups run in the background. If the clean-ups are
//!   already running, they continue: the one that has begun is neither dropped
//!   nor started again. They also continue if the future of `Cleanups::close`
//!   is dropped. If `Cleanups` is dropped without a call of `close`, the
//!   clean-ups run in the background.
//! - In the background, clean-ups run on the tokio runtime in which `build` was
//!   polled, even if `Cleanups` or a future is dropped outside of this runtime,
//!   in another one, or during a panic. The drop itself does not wait, not even
//!   on a runtime of several threads. If the runtime has shut down, no clean-up
//!   runs: the drop does not panic, and the cloned values are dropped.
//! - The futures of `build` and `close` can be spawned on a runtime of several
//!   threads (they are `Send`) if `compose` can.
//!
//! Help: `Handle::current()` returns the runtime, and `Handle::spawn` needs no
//! runtime around it. `catch_unwind` of `futures_util::FutureExt` returns the
//! panic of a future as a value. `std::panic::resume_unwind` raises it again.
//! Also log each failure, because the caller may be gone.

use std::error::Error;
use std::time::Duration;

/// The clean-ups of all constructed values. If dropped, it runs them in the
/// background.
#[derive(Debug)]
pub struct Cleanups {
    // In which order are they popped? What does a drop need, to run them?
}

/// The error of `compose`. The clean-ups have run.
#[derive(Debug, thiserror::Error)]
#[error("startup failed; clean-ups that failed, too: {}", .failures.len())]
pub struct BuildError<E> {
    /// The error that `compose` returned.
    #[source]
    pub error: E,
    /// The clean-ups that failed, in the order in which they ran.
    pub failures: Vec<Failure>,
}

/// A clean-up that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot clean up `{name}`")]
pub struct Failure {
    /// The name that was passed to [`Cleanups::provide`].
    pub name: &'static str,
    /// How the clean-up failed.
    #[source]
    pub cause: Cause,
}

/// How a clean-up failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// It returned an error.
    #[error(transparent)]
    Failed(BoxError),
    /// It panicked. The panic hook has printed the message.
    #[error("panicked")]
    Panicked,
    /// It did not end within its limit.
    #[error("timed out")]
    TimedOut,
}

/// An error of any type.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Calls `compose`, which constructs the parts of an application. Each clean-up
/// may take up to `limit`. If the future is dropped, the clean-ups run in the
/// background.
///
/// Returns the error of `compose`, or raises its panic again, once the
/// clean-ups have run.
pub async fn build<T, E>(
    _limit: Duration,
    _compose: impl AsyncFnOnce(&Cleanups) -> Result<T, E>,
) -> Result<(T, Cleanups), BuildError<E>> {
    todo!("what happens when `compose` returns a value, an error, or panics?")
}

impl Cleanups {
    /// Waits for `constructor`, and registers a clean-up, which calls `close`
    /// with a clone of the value.
    ///
    /// Returns the error of the constructor. Then there is no clean-up.
    pub async fn provide<T, E, F>(
        &self,
        _name: &'static str,
        _constructor: impl Future<Output = Result<T, E>>,
        _close: impl FnOnce(T) -> F + Send + 'static,
    ) -> Result<T, E>
    where
        T: Clone + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        todo!("how is a value of any type stored together with its clean-up?")
    }

    /// Runs the clean-ups in reverse order, and returns those that failed. If
    /// the future is dropped, they continue in the background.
    #[must_use = "a clean-up may have failed"]
    pub async fn close(self) -> Vec<Failure> {
        todo!("which task runs the clean-ups, if the caller may go away?")
    }
}
