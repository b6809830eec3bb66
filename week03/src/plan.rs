//! What an application is made of, and what is reported of it: the words of
//! [`app`](crate::app).

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::iter;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::signals::BoxError;

/// What starts and stops together.
#[expect(missing_debug_implementations, reason = "it is made of functions")]
pub struct Plan {
    /// How long each may take.
    pub limits: Limits,
    /// In the order of the start, each with its name.
    pub entries: Vec<(&'static str, Entry)>,
    /// Where others learn of it, if anywhere.
    pub registry: Option<Registry>,
}

/// How long each may take: at most some years, as it is added to an `Instant`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// One hook, `register` or `deregister`.
    pub call: Duration,
    /// After the deregistration, before anything else is stopped.
    pub lame_duck: Duration,
    /// The stop as a whole, all waits included.
    pub budget: Duration,
}

/// One line of a plan.
#[expect(missing_debug_implementations, reason = "it is made of functions")]
pub enum Entry {
    /// Makes what runs from its turn in the start to its turn in the stop.
    Part(Start),
    /// Is called in the start, and waited for.
    OnStart(Work),
    /// Is called in the stop, if the start has come as far as this.
    OnStop(Work),
}

/// Starts a part: it says that it is ready, runs until its own token is
/// cancelled, and ends.
pub type Start = Box<dyn FnOnce(Ready, CancellationToken) -> Work + Send>;

/// What can run as a task. Before that it does nothing.
pub type Work = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Where others learn of the application.
#[expect(missing_debug_implementations, reason = "it is made of futures")]
pub struct Registry {
    /// Sends others here.
    pub register: Work,
    /// Sends nobody here any more.
    pub deregister: Work,
}

/// By this a part says that it is ready.
#[derive(Debug)]
pub struct Ready(oneshot::Sender<()>);

/// Tasks with names. Dropping it aborts them.
#[derive(Debug, Default)]
pub struct Tasks {
    tasks: JoinSet<Result<(), BoxError>>,
    /// Of each task, its name and since when it is due.
    names: HashMap<Id, (&'static str, Option<Instant>)>,
}

type Joined = Result<(Id, Result<(), BoxError>), JoinError>;

/// What has ended, and how long that took.
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
///     step("flush", Ended::Well, 12),
///     step("db", Ended::Aborted, 4988),
/// ];
/// let report = Report { steps, took: Duration::from_secs(5) };
/// let text = "\
/// the stop took 5000 ms
///        0 ms  settings: failed: the settings are not valid: rate is 0
///       12 ms  flush: ended well
///     4988 ms  db: cut off";
/// assert_eq!(report.to_string(), text);
/// ```
#[derive(Debug)]
pub struct Report {
    /// In the order of ending: parts and hooks, `"register"` and `"deregister"`.
    pub steps: Vec<Step>,
    /// The stop as a whole, from its beginning.
    pub took: Duration,
}

/// Something that has ended.
#[derive(Debug)]
pub struct Step {
    /// As in the plan.
    pub name: &'static str,
    /// How it has ended.
    pub ended: Ended,
    /// Of a part: since it was told to stop. 0 if it was not.
    pub took: Duration,
}

/// How a part or a call has ended.
#[derive(Debug)]
pub enum Ended {
    /// With `Ok`, and a part when it was told to. All others are failures.
    Well,
    /// With `Ok`: a part that was not told to.
    Unasked,
    /// With an error.
    Failed(BoxError),
    /// It has panicked. The error holds what with.
    Panicked(JoinError),
    /// It was cut off when its time was over.
    Aborted,
}

impl Plan {
    /// A plan of nothing.
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
        // Called in its task, where a panic of it belongs.
        let start: Start = Box::new(|ready, stop| {
            Box::pin(async { start(ready, stop).await })
        });
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
}

impl Ready {
    /// And what hears it.
    pub fn channel() -> (Self, oneshot::Receiver<()>) {
        let (said, ready) = oneshot::channel();
        (Self(said), ready)
    }

    /// Says so. A part that never does, or drops this, holds up the start until it
    /// ends, or the application is told to stop.
    pub fn set(self) {
        // It fails where nobody waits for it any more.
        let _ = self.0.send(());
    }
}

impl Tasks {
    /// Starts a task, which is not due yet.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(&mut self, name: &'static str, work: Work) -> AbortHandle {
        let task = self.tasks.spawn(work);
        self.names.insert(task.id(), (name, None));
        task
    }

    /// From now on `task` is expected to end. Before that, to end is a failure.
    pub fn due(&mut self, task: &AbortHandle) {
        if let Some((_, due)) = self.names.get_mut(&task.id()) {
            due.get_or_insert_with(Instant::now);
        }
    }

    /// Whether [`next`](Self::next) has yet to return `task`.
    pub fn contains(&self, task: &AbortHandle) -> bool {
        self.names.contains_key(&task.id())
    }

    /// Whether there is no task that `next` has yet to return.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Waits for the next task that ends. `None` if there is none.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has taken no task.
    pub async fn next(&mut self) -> Option<Step> {
        let joined = self.tasks.join_next_with_id().await?;
        Some(self.step(joined))
    }

    /// A task that has ended by now, if there is one.
    pub fn try_next(&mut self) -> Option<Step> {
        let joined = self.tasks.try_join_next_with_id()?;
        Some(self.step(joined))
    }

    fn step(&mut self, joined: Joined) -> Step {
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let (name, due) = self.take(id);
        let ended = match joined {
            Ok((_, Ok(()))) if due.is_some() => Ended::Well,
            Ok((_, Ok(()))) => Ended::Unasked,
            Ok((_, Err(error))) => Ended::Failed(error),
            Err(error) if error.is_panic() => Ended::Panicked(error),
            Err(_) => Ended::Aborted,
        };
        let took = due.map_or(Duration::ZERO, |due| due.elapsed());
        Step { name, ended, took }
    }

    fn take(&mut self, id: Id) -> (&'static str, Option<Instant>) {
        self.names.remove(&id).expect("it was given one with its task")
    }
}

impl Ended {
    /// Whether it is none of the failures.
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Well)
    }
}

impl Report {
    /// What has not ended well, the first one first: others may follow from it.
    pub fn failures(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| !step.ended.is_well())
    }

    /// Itself: for `?`, and an exit code.
    ///
    /// # Errors
    ///
    /// When anything has not ended well.
    pub fn result(self) -> Result<Self, Self> {
        let is_well = self.failures().next().is_none();
        if is_well { Ok(self) } else { Err(self) }
    }
}

impl Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stop took {} ms", self.took.as_millis())?;
        for Step { name, ended, took } in &self.steps {
            write!(f, "\n{:>8} ms  {name}: {ended}", took.as_millis())?;
        }
        Ok(())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => write!(f, "ended well"),
            Self::Unasked => write!(f, "has ended, and was not asked to"),
            Self::Failed(error) => {
                write!(f, "failed: {error}")?;
                // Nobody above the report would ask for them.
                let causes =
                    iter::successors(error.source(), |e| (*e).source());
                causes.into_iter().try_for_each(|e| write!(f, ": {e}"))
            }
            Self::Panicked(error) => write!(f, "{error}"),
            Self::Aborted => write!(f, "cut off"),
        }
    }
}
