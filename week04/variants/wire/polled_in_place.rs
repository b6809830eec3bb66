//! `close` polls the clean-ups itself. A task is spawned only if the future is
//! dropped, and continues where `close` has stopped: the clean-up that has
//! begun is a field, and not a local variable of a future. So the usual path
//! needs no task, and the drop has more states.

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::time::timeout;

pub struct Cleanups {
    /// `None` when it was moved into a task.
    shutdown: Mutex<Option<Shutdown>>,
    limit: Duration,
    runtime: Handle,
}

/// The clean-ups that have not ended.
#[derive(Default)]
struct Shutdown {
    /// The one that has begun.
    current: Option<Cleanup>,
    stack: Vec<Cleanup>,
    failures: Vec<Failure>,
}

struct Cleanup {
    name: &'static str,
    /// Includes the limit, which begins with the first poll.
    run: Pin<Box<dyn Future<Output = Result<(), Cause>> + Send>>,
}

#[derive(Debug, thiserror::Error)]
#[error("startup failed; clean-ups that failed, too: {}", .failures.len())]
pub struct BuildError<E> {
    #[source]
    pub error: E,
    pub failures: Vec<Failure>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot clean up `{name}`")]
pub struct Failure {
    pub name: &'static str,
    #[source]
    pub cause: Cause,
}

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error(transparent)]
    Failed(BoxError),
    #[error("panicked")]
    Panicked,
    #[error("timed out")]
    TimedOut,
}

pub type BoxError = Box<dyn Error + Send + Sync>;

pub async fn build<T, E>(
    limit: Duration,
    compose: impl AsyncFnOnce(&Cleanups) -> Result<T, E>,
) -> Result<(T, Cleanups), BuildError<E>> {
    let shutdown = Mutex::new(Some(Shutdown::default()));
    let cleanups = Cleanups { shutdown, limit, runtime: Handle::current() };
    let composing = AssertUnwindSafe(async { compose(&cleanups).await });
    match composing.catch_unwind().await {
        Ok(Ok(value)) => Ok((value, cleanups)),
        Ok(Err(error)) => {
            Err(BuildError { error, failures: cleanups.close().await })
        }
        Err(payload) => {
            cleanups.close().await;
            resume_unwind(payload)
        }
    }
}

impl Cleanups {
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
        let (clone, limit) = (value.clone(), self.limit);
        let run = Box::pin(async move {
            let close = AssertUnwindSafe(async { close(clone).await });
            match timeout(limit, close.catch_unwind()).await {
                Ok(Ok(result)) => result.map_err(Cause::Failed),
                Ok(Err(_payload)) => Err(Cause::Panicked),
                Err(_elapsed) => Err(Cause::TimedOut),
            }
        });
        let mut shutdown = self.shutdown.lock().unwrap();
        let shutdown = shutdown.as_mut().expect("`close` takes `self`");
        shutdown.stack.push(Cleanup { name, run });
        Ok(value)
    }

    pub async fn close(mut self) -> Vec<Failure> {
        let shutdown = self.shutdown.get_mut().unwrap();
        shutdown.as_mut().expect("only a drop takes it").run().await
    }
}

impl Shutdown {
    /// May be dropped, and called again: it continues with the same clean-up.
    async fn run(&mut self) -> Vec<Failure> {
        loop {
            self.current = self.current.take().or_else(|| self.stack.pop());
            let Some(current) = &mut self.current else {
                return std::mem::take(&mut self.failures);
            };
            let ended = current.run.as_mut().await;
            let name = current.name;
            self.current = None;
            if let Err(cause) = ended {
                tracing::error!(name, %cause, "a clean-up failed");
                self.failures.push(Failure { name, cause });
            }
        }
    }
}

impl Drop for Cleanups {
    fn drop(&mut self) {
        let rest = self.shutdown.get_mut().unwrap().take();
        self.runtime.spawn(async move {
            if let Some(mut rest) = rest {
                rest.run().await;
            }
        });
    }
}

impl fmt::Debug for Cleanups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleanups").finish_non_exhaustive()
    }
}
