//! The life of an application: a start in order, and one way out.
//!
//! *Question.* A pool, a consumer, a server and a registry make one application.
//! In which order do they start and stop, and what still happens when one of them
//! dies, hangs, or never gets ready?
//!
//! *Idea.* A stack. Each part is started when the one before is **ready**, and
//! leaves on the stack what undoes it: a part is told to stop, a hook is called.
//! The registration is the last to be done and so the first to be undone; after
//! it comes the **lame duck**, a wait in which all still serve. Whatever ends the
//! application, the stack is unwound, within one **budget**.
//!
//! *Guarantee.* Nothing is registered before all is ready. On every way out, and
//! within the budget, no part is told to stop before `deregister` has ended, well
//! or not, and the lame duck is over.
//! Parts stop one after the other, in the reverse order. [`run`] returns when no
//! part is left, soon after the budget is over at the latest, and reports how
//! each has ended.
//!
//! *Cost.* What hangs takes the time of all that come after it. A start has no
//! limit, beyond that of each hook. What blocks a thread cannot be ended at all.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::time::Duration;
//!
//! use week03::plan::{Limits, Plan, Ready};
//! use week03::{app, signals};
//!
//! fn plan() -> Plan {
//!     let mut plan = Plan::new(Limits {
//!         call: Duration::from_secs(2),
//!         lame_duck: Duration::from_secs(5),
//!         budget: Duration::from_secs(25), // of the 30 that Kubernetes gives
//!     });
//!     plan.part("http", async |ready: Ready, stop| {
//!         ready.set(); // the port is bound
//!         stop.cancelled().await;
//!         Ok(())
//!     });
//!     plan.registry(async { Ok(()) }, async { Ok(()) });
//!     plan
//! }
//!
//! #[tokio::main]
//! async fn main() -> ExitCode {
//!     let start = async |stop| {
//!         let life: signals::Part = Box::pin(async {
//!             println!("{}", app::run(plan(), stop).await.result()?);
//!             Ok(())
//!         });
//!         Ok(vec![life])
//!     };
//!     signals::run(start, || println!("again")).await.into()
//! }
//! ```

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::plan::{
    Ended, Entry, Limits, Plan, Ready, Registry, Report, Step, Tasks, Work,
};

/// Starts what `plan` says, serves until `stop` is cancelled or anything fails,
/// and stops.
///
/// # Cancel safety
///
/// A future that is dropped aborts all parts, and calls nothing.
pub async fn run(plan: Plan, stop: CancellationToken) -> Report {
    let Plan { limits, entries, registry } = plan;
    let mut app = App {
        limits,
        stop,
        stopping: None,
        tasks: Tasks::default(),
        steps: Vec::new(),
    };
    let mut undo = Vec::new();
    for (name, entry) in entries {
        if app.is_stopping() {
            break;
        }
        match entry {
            Entry::OnStart(hook) => app.call(name, hook).await,
            Entry::OnStop(hook) => undo.push(Undo::Call(name, hook)),
            Entry::Part(start) => {
                let (said, ready) = Ready::channel();
                // Of its own: it is told when its turn has come.
                let token = CancellationToken::new();
                let start = start(said, token.clone());
                undo.push(Undo::Stop(app.tasks.spawn(name, start), token));
                tokio::select! {
                    biased;
                    () = app.event() => {}
                    Ok(()) = ready => {}
                }
            }
        }
    }
    if let Some(Registry { register, deregister }) = registry
        && !app.is_stopping()
    {
        undo.push(Undo::LameDuck);
        // Before the call: one that fails or is cut off may have arrived.
        undo.push(Undo::Call("deregister", deregister));
        app.call("register", register).await;
    }
    while !app.is_stopping() {
        app.event().await;
    }
    while let Some(last) = undo.pop() {
        match last {
            Undo::Call(name, work) => app.call(name, work).await,
            Undo::LameDuck => app.lame_duck().await,
            Undo::Stop(part, token) => {
                // What has ended by now, as far as one can see, was not told to.
                app.catch_up();
                token.cancel();
                // Without a limit but the budget.
                app.ends(&part, limits.budget).await;
            }
        }
    }
    app.report()
}

/// What takes back one step of the start.
enum Undo {
    Call(&'static str, Work),
    LameDuck,
    Stop(AbortHandle, CancellationToken),
}

/// An application under way.
struct App {
    limits: Limits,
    stop: CancellationToken,
    /// When the stop began, from where the budget counts.
    stopping: Option<Instant>,
    tasks: Tasks,
    steps: Vec<Step>,
}

impl App {
    fn is_stopping(&mut self) -> bool {
        self.catch_up();
        self.stopping.is_some()
    }

    /// Takes in what has happened by now, and has not been waited for.
    fn catch_up(&mut self) {
        if self.stop.is_cancelled() {
            self.begins_to_stop();
        }
        while let Some(step) = self.tasks.try_next() {
            self.keep(step);
        }
    }

    fn keep(&mut self, step: Step) {
        if !step.ended.is_well() {
            self.begins_to_stop();
        }
        self.steps.push(step);
    }

    fn begins_to_stop(&mut self) {
        self.stopping.get_or_insert_with(Instant::now);
    }

    /// Waits for what comes first: a task ends, or the application is told to
    /// stop. In the stop there must be a task.
    async fn event(&mut self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if self.stopping.is_none() => {
                self.begins_to_stop();
            }
            Some(step) = self.tasks.next() => self.keep(step),
        }
    }

    /// Waits for the end of `task`, and cuts it off when `limit` or the budget is
    /// over.
    async fn ends(&mut self, task: &AbortHandle, limit: Duration) {
        self.tasks.due(task);
        let limit = Instant::now() + limit;
        while self.tasks.contains(task) {
            // Anew each time: the budget may begin while it waits.
            let limit = self.within_budget(limit);
            if timeout_at(limit, self.event()).await.is_err() {
                task.abort();
                // It works with what is stopped next: without a limit now.
                while self.tasks.contains(task) {
                    self.event().await;
                }
            }
        }
    }

    async fn call(&mut self, name: &'static str, work: Work) {
        if self.is_over() {
            // A task might run before it is aborted.
            let (ended, took) = (Ended::Aborted, Duration::ZERO);
            return self.keep(Step { name, ended, took });
        }
        let task = self.tasks.spawn(name, work);
        self.ends(&task, self.limits.call).await;
    }

    /// Waits while somebody may come, and there is somebody who serves.
    async fn lame_duck(&mut self) {
        let end = self.within_budget(Instant::now() + self.limits.lame_duck);
        let serves = async {
            while !self.tasks.is_empty() {
                self.event().await;
            }
        };
        // Over when the time is, or when nothing is left.
        let _ = timeout_at(end, serves).await;
    }

    /// Whether the budget is.
    fn is_over(&self) -> bool {
        let began = self.stopping;
        began.is_some_and(|began| began.elapsed() >= self.limits.budget)
    }

    fn within_budget(&self, limit: Instant) -> Instant {
        let began = self.stopping;
        began.map_or(limit, |began| limit.min(began + self.limits.budget))
    }

    fn report(self) -> Report {
        let began = self.stopping.expect("it has begun to stop");
        Report { steps: self.steps, took: began.elapsed() }
    }
}
