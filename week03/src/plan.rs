//! The types of [`app`](crate::app): the plan of an application, its tasks,
//! and the report of its shutdown.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::iter;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::signals::BoxError;

/// Describes an application: its parts, its hooks and its registry.
#[expect(missing_debug_implementations, reason = "entries are functions")]
pub struct Plan {
    /// The time limits of calls and of shutdown.
    pub limits: Limits,
    /// Parts and hooks in startup order, each with its name.
    pub entries: Vec<(&'static str, Entry)>,
    /// How clients find the application, if they look it up.
    pub registry: Option<Registry>,
}

/// Time limits of calls and of shutdown.
///
/// Each is added to an `Instant`, so it must not exceed a few years.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The limit of one call: a hook, `register` or `deregister`.
    pub call: Duration,
    /// The wait after `deregister`, in which all parts still serve the clients
    /// that have not noticed yet.
    pub lame_duck: Duration,
    /// The limit of the whole shutdown, all waits included.
    pub budget: Duration,
}

/// A part or a hook.
#[expect(missing_debug_implementations, reason = "entries are functions")]
pub enum Entry {
    /// A part, such as a server or a consumer. It runs from its step of
    /// startup to its step of shutdown.
    Part(Start),
    /// A hook that startup calls and waits for.
    OnStart(Work),
    /// A hook that shutdown calls and waits for, if startup reached this
    /// entry.
    OnStop(Work),
}

/// Starts a part. It is called in the task of the part. The part calls
/// [`Ready::set`] when it is ready. It runs until its own token is cancelled,
/// and then returns.
pub type Start = Box<dyn FnOnce(Ready, CancellationToken) -> Work + Send>;

/// A future that is spawned as a task. It does nothing before that.
pub type Work = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// How clients find the application.
#[expect(missing_debug_implementations, reason = "its fields are futures")]
pub struct Registry {
    /// Adds the application to the registry: clients are sent here.
    pub register: Work,
    /// Removes the application from the registry.
    pub deregister: Work,
}

/// Signals that a part is ready.
#[derive(Debug)]
pub struct Ready(oneshot::Sender<()>);

/// Named tasks. Dropping this aborts all of them.
#[derive(Debug, Default)]
pub struct Tasks {
    tasks: JoinSet<Result<(), BoxError>>,
    /// Name of each task, and since when the task is expected to end.
    names: HashMap<Id, (&'static str, Option<Instant>)>,
}

type Joined = Result<(Id, Result<(), BoxError>), JoinError>;

/// Reports how each part and each call ended, and how long shutdown took.
///
/// ```
/// use std::time::Duration;
///
/// use week03::layers::Error;
/// use week03::plan::{Ended, Report, Step};
///
/// let step = |name, ended, ms| {
///     Step { name, ended, took: Duration::from_millis(ms) }
/// };
/// let zero = Error::Invalid("rate is 0".into());
/// let steps = vec![
///     step("settings", Ended::Failed(zero.into()), 0),
///     step("flush", Ended::Ok, 12),
///     step("db", Ended::Aborted, 4988),
/// ];
/// let report = Report { steps, took: Duration::from_secs(5) };
/// let text = "\
/// shutdown took 5000 ms
///        0 ms  settings: failed: the settings are not valid: rate is 0
///       12 ms  flush: ok
///     4988 ms  db: aborted";
/// assert_eq!(report.to_string(), text);
/// ```
#[derive(Debug)]
pub struct Report {
    /// The parts and the calls, in the order in which they ended. The calls of
    /// the registry are named `"register"` and `"deregister"`.
    pub steps: Vec<Step>,
    /// The time from the beginning of shutdown to its end.
    pub took: Duration,
}

/// A part or a call that has ended.
#[derive(Debug)]
pub struct Step {
    /// The name that the plan gives it.
    pub name: &'static str,
    /// How it ended.
    pub ended: Ended,
    /// The duration of the step. A call's duration runs from its beginning to
    /// its end. A part's duration runs from the cancellation of its token to its
    /// end, and is 0 if the part ended before.
    pub took: Duration,
}

/// How a part or a call ended. Everything but `Ok` is a failure.
#[derive(Debug)]
pub enum Ended {
    /// It returned `Ok`. A part did so after its token was cancelled.
    Ok,
    /// It is a part that returned `Ok` before its token was cancelled.
    Early,
    /// It returned an error.
    Failed(BoxError),
    /// It panicked. The error holds the payload.
    Panicked(JoinError),
    /// It was aborted at a limit, or the budget was used up before it began.
    Aborted,
}

impl Plan {
    /// Creates a plan without parts, hooks and registry.
    pub fn new(limits: Limits) -> Self {
        Self { limits, entries: Vec::new(), registry: None }
    }

    /// Adds an [`Entry::Part`].
    pub fn part<F>(
        &mut self,
        name: &'static str,
        start: impl FnOnce(Ready, CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let start: Start = Box::new(|ready, stop| Box::pin(start(ready, stop)));
        self.entries.push((name, Entry::Part(start)));
    }

    /// Adds an [`Entry::OnStart`].
    pub fn on_start<F>(&mut self, name: &'static str, hook: F)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.entries.push((name, Entry::OnStart(Box::pin(hook))));
    }

    /// Adds an [`Entry::OnStop`].
    pub fn on_stop<F>(&mut self, name: &'static str, hook: F)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.entries.push((name, Entry::OnStop(Box::pin(hook))));
    }

    /// Sets the registry.
    pub fn registry<F, G>(&mut self, register: F, deregister: G)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
        G: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let (register, deregister) = (Box::pin(register), Box::pin(deregister));
        self.registry = Some(Registry { register, deregister });
    }

    /// Sets the registry, and renews the registration after each `period`, as a
    /// lease needs.
    ///
    /// The renewals begin when `register` has returned `Ok`. They end before
    /// `deregister` is called: a later renewal would register the application
    /// again. So no part may renew the registration, since all parts serve on in
    /// the lame-duck period. A renewal that fails is repeated after the next
    /// `period`. A renewal that is running when shutdown begins is completed,
    /// within the limit of the call of `deregister`.
    pub fn registry_with_renewal<F, R, G>(
        &mut self,
        register: F,
        period: Duration,
        mut renew: impl FnMut() -> R + Send + 'static,
        deregister: G,
    ) where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
        R: Future<Output = Result<(), BoxError>> + Send + 'static,
        G: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let renewals = async move {
            while stopped.run_until_cancelled(sleep(period)).await.is_some() {
                // The next renewal repeats one that fails.
                let _ = renew().await;
            }
        };
        // `deregister` owns the task of the renewals, also while it waits to be
        // called. If `run` is dropped, the task is aborted.
        let (owner, owned) = oneshot::channel();
        let register = async {
            register.await?;
            let _ = owner.send(AbortOnDropHandle::new(tokio::spawn(renewals)));
            Ok(())
        };
        let deregister = async move {
            stop.cancel();
            let ended = match owned.await {
                Ok(renewals) => renewals.await,
                Err(_) => Ok(()), // not registered, so there are no renewals
            };
            deregister.await?;
            Ok(ended?)
        };
        self.registry(register, deregister);
    }
}

impl Ready {
    /// Creates a `Ready` and the receiver that it signals.
    pub fn channel() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Signals that the part is ready.
    ///
    /// If a part drops its `Ready`, or never calls this, startup waits until a
    /// part fails or shutdown is requested.
    pub fn set(self) {
        // Sending fails if startup no longer waits for this part.
        let _ = self.0.send(());
    }
}

impl Tasks {
    /// Spawns a task. If it ends before [`expect_end`](Self::expect_end) is
    /// called, it has failed.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn spawn(&mut self, name: &'static str, work: Work) -> AbortHandle {
        let task = self.tasks.spawn(work);
        self.names.insert(task.id(), (name, None));
        task
    }

    /// Marks `task` as expected to end from now on. Its [`Step::took`] is
    /// counted from here.
    pub fn expect_end(&mut self, task: &AbortHandle) {
        if let Some((_, expected)) = self.names.get_mut(&task.id()) {
            expected.get_or_insert_with(Instant::now);
        }
    }

    /// Returns whether [`next`](Self::next) has yet to return `task`.
    pub fn contains(&self, task: &AbortHandle) -> bool {
        self.names.contains_key(&task.id())
    }

    /// Returns whether `next` has returned every task.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Waits for the next task to end. Returns `None` if no task is left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future removes no task.
    pub async fn next(&mut self) -> Option<Step> {
        let joined = self.tasks.join_next_with_id().await?;
        Some(self.step(joined))
    }

    /// Returns a task that has already ended, if there is one.
    pub fn try_next(&mut self) -> Option<Step> {
        let joined = self.tasks.try_join_next_with_id()?;
        Some(self.step(joined))
    }

    fn step(&mut self, joined: Joined) -> Step {
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let (name, expected) = self.take(id);
        let ended = match joined {
            Ok((_, Ok(()))) if expected.is_some() => Ended::Ok,
            Ok((_, Ok(()))) => Ended::Early,
            Ok((_, Err(error))) => Ended::Failed(error),
            Err(error) if error.is_panic() => Ended::Panicked(error),
            Err(_) => Ended::Aborted,
        };
        let took = expected.map_or(Duration::ZERO, |since| since.elapsed());
        Step { name, ended, took }
    }

    fn take(&mut self, id: Id) -> (&'static str, Option<Instant>) {
        self.names.remove(&id).expect("`spawn` named the task")
    }
}

impl Ended {
    /// Returns `true` if this is `Ok`, and `false` for a failure.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok)
    }
}

impl Report {
    /// Returns the failures in the order in which they happened. The first one
    /// is often the cause of the others.
    pub fn failures(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| !step.ended.is_ok())
    }

    /// Converts the report into a `Result`, for `?` and an exit code.
    ///
    /// # Errors
    ///
    /// Returns the report as the error if it has a failure.
    pub fn result(self) -> Result<Self, Self> {
        let is_ok = self.failures().next().is_none();
        if is_ok { Ok(self) } else { Err(self) }
    }
}

impl Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shutdown took {} ms", self.took.as_millis())?;
        for Step { name, ended, took } in &self.steps {
            write!(f, "\n{:>8} ms  {name}: {ended}", took.as_millis())?;
        }
        Ok(())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => write!(f, "ok"),
            Self::Early => write!(f, "exited early"),
            Self::Failed(error) => {
                write!(f, "failed: {error}")?;
                // `Report` has no `source`: the causes are printed here.
                let causes =
                    iter::successors(error.source(), |e| (*e).source());
                causes.into_iter().try_for_each(|e| write!(f, ": {e}"))
            }
            Self::Panicked(error) => write!(f, "{error}"),
            Self::Aborted => write!(f, "aborted"),
        }
    }
}
