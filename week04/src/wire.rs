//! Dependency injection without a framework, with asynchronous clean-up.
//!
//! *Question.* A service opens a pool, takes a lease and binds a port, and the
//! third constructor fails. How are the first two closed, in which order, and
//! what if the startup is cancelled at that moment?
//!
//! *Idea.* A composition root: one async function calls plain constructors, and
//! passes to each of them the values that it depends on. The compiler checks
//! this graph. [`provide`](Cleanups::provide) pushes the clean-up of each value
//! onto a stack. A task of its own pops them, and needs no caller that waits.
//!
//! *Guarantee.* Once a constructor has returned a value, the clean-up of this
//! value runs exactly once, after the clean-ups of all values constructed
//! later, even if some of them fail, panic or time out. Dropping a future or
//! the [`Cleanups`] loses none: a constructor returns and the push happens in
//! the same poll.
//!
//! *Cost.* Clean-ups run one at a time, and each may take up to its limit. A
//! drop only starts them: those that have not ended when the runtime shuts down
//! are lost. So put a startup timeout, or a `select!` with Ctrl-C, inside
//! `compose` and not around [`build`].
//!
//! ```
//! use std::time::Duration;
//!
//! use sqlx::SqlitePool;
//! use week04::wire::{Cleanups, build};
//!
//! struct Comments(SqlitePool);
//!
//! async fn compose(cleanups: &Cleanups) -> Result<Comments, sqlx::Error> {
//!     let open = SqlitePool::connect("sqlite::memory:");
//!     let pool = cleanups.provide("pool", open, |pool| async move {
//!         pool.close().await;
//!         Ok(())
//!     });
//!     Ok(Comments(pool.await?)) // a plain constructor, without a clean-up
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), week04::wire::BoxError> {
//! let (comments, cleanups) = build(Duration::from_secs(5), compose).await?;
//! drop(comments); // a real program serves until it is stopped
//! assert!(cleanups.close().await.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! A missing provider does not compile:
//!
//! ```compile_fail,E0425
//! # struct Comments(sqlx::SqlitePool);
//! async fn compose(_: &week04::wire::Cleanups) -> Result<Comments, ()> {
//!     Ok(Comments(pool)) // cannot find value `pool` in this scope
//! }
//! ```

use std::error::Error;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use std::{fmt, mem};

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The clean-ups of all constructed values. If dropped, it runs them in the
/// background.
pub struct Cleanups {
    /// In the order of construction. The lock is never held across an await.
    stack: Mutex<Vec<Cleanup>>,
    limit: Duration,
    /// Where `build` ran. The thread that drops this may be outside of it.
    runtime: Handle,
}

/// A clean-up and its name.
type Cleanup = (&'static str, BoxFuture<'static, Result<(), BoxError>>);

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
/// # Errors
///
/// Returns the error of `compose` once the clean-ups have run.
///
/// # Panics
///
/// Raises a panic of `compose` again once the clean-ups have run. Panics
/// outside of a tokio runtime.
pub async fn build<T, E>(
    limit: Duration,
    compose: impl AsyncFnOnce(&Cleanups) -> Result<T, E>,
) -> Result<(T, Cleanups), BuildError<E>> {
    let (stack, runtime) = (Mutex::default(), Handle::current());
    let cleanups = Cleanups { stack, limit, runtime };
    let composing = AssertUnwindSafe(async { compose(&cleanups).await });
    match composing.catch_unwind().await {
        Ok(Ok(value)) => Ok((value, cleanups)),
        Ok(Err(error)) => {
            Err(BuildError { error, failures: cleanups.close().await })
        }
        Err(payload) => {
            let _logged = cleanups.close().await;
            resume_unwind(payload)
        }
    }
}

impl Cleanups {
    /// Waits for `constructor`, and registers a clean-up, which calls `close`
    /// with a clone of the value.
    ///
    /// An error of the constructor is returned, and registers no clean-up.
    pub async fn provide<T, E, F>(
        &self,
        name: &'static str,
        constructor: impl Future<Output = Result<T, E>>,
        close: impl FnOnce(T) -> F + Send + 'static,
    ) -> Result<T, E>
    where
        T: Clone + Send + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let value = constructor.await?;
        // No await from here on: dropping the future would lose the value.
        let clone = value.clone();
        let close = async { close(clone).await }.boxed();
        self.stack().push((name, close));
        Ok(value)
    }

    /// Runs the clean-ups in reverse order, and returns those that failed. If
    /// the future is dropped, they continue in the background.
    ///
    /// # Panics
    ///
    /// Panics if the runtime in which `build` ran is shut down.
    #[must_use = "a clean-up may have failed"]
    pub async fn close(self) -> Vec<Failure> {
        self.start().await.expect("the runtime is up, and `run` cannot panic")
    }

    /// Spawns a task, so that the clean-ups need no caller that waits.
    fn start(&self) -> JoinHandle<Vec<Failure>> {
        let stack = mem::take(&mut *self.stack());
        self.runtime.spawn(run(stack, self.limit))
    }

    fn stack(&self) -> MutexGuard<'_, Vec<Cleanup>> {
        self.stack.lock().expect("no code under the lock panics")
    }
}

impl Drop for Cleanups {
    fn drop(&mut self) {
        drop(self.start()); // after `close`, the stack is empty
    }
}

impl fmt::Debug for Cleanups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleanups").finish_non_exhaustive()
    }
}

/// Runs one clean-up after the other, the latest first.
async fn run(mut stack: Vec<Cleanup>, limit: Duration) -> Vec<Failure> {
    let mut failures = Vec::new();
    while let Some((name, close)) = stack.pop() {
        let close = AssertUnwindSafe(close).catch_unwind();
        let cause = match timeout(limit, close).await {
            Ok(Ok(Ok(()))) => continue,
            Ok(Ok(Err(error))) => Cause::Failed(error),
            Ok(Err(_payload)) => Cause::Panicked,
            Err(_elapsed) => Cause::TimedOut,
        };
        // It is logged here because the caller may be gone.
        tracing::error!(name, %cause, "a clean-up failed");
        failures.push(Failure { name, cause });
    }
    failures
}
