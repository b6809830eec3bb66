//! Application lifecycle: ordered startup, and one shutdown path.
//!
//! *Question.* A connection pool, a consumer, a server and a registry form one
//! application. In which order do they start and stop? Which steps still run
//! when one of them fails, hangs, or never becomes ready?
//!
//! *Idea.* A stack of undo steps. Startup starts each part when the previous
//! part is **ready**, and pushes the step that undoes it: cancel the part, or
//! call a hook. Registration is the last step of startup, so `deregister` is
//! the first step of shutdown. The **lame-duck period** follows: for a fixed
//! time, all parts still serve the clients that have not noticed. Whatever
//! ends the application, shutdown pops the whole stack, within one time
//! **budget**.
//!
//! *Guarantee.* `register` is called only when all parts are ready. Within its
//! budget, every shutdown cancels the parts only after `deregister` has ended,
//! with success or not, and the lame-duck period is over. Parts stop one at a
//! time, in reverse order. [`run`] returns when no part is left, at the latest
//! soon after the end of the budget. It reports how each part ended.
//!
//! *Cost.* A part that hangs uses up the budget of every part that is stopped
//! after it. Startup has no time limit beyond the limit of each hook. A part
//! that blocks its thread cannot be aborted.
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
//!         budget: Duration::from_secs(25), // Kubernetes allows 30
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
//!         let application: signals::Part = Box::pin(async {
//!             println!("{}", app::run(plan(), stop).await.result()?);
//!             Ok(())
//!         });
//!         Ok(vec![application])
//!     };
//!     signals::run(start, || println!("reload")).await.into()
//! }
//! ```

use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::plan::{
    Ended, Entry, Limits, Plan, Ready, Registry, Report, Step, Tasks, Work,
};

/// Starts the entries of `plan`, serves until `stop` is cancelled or anything
/// fails, and shuts down.
///
/// # Cancel safety
///
/// Dropping the future aborts all parts. No hook and no `deregister` is
/// called.
pub async fn run(plan: Plan, stop: CancellationToken) -> Report {
    let Plan { limits, entries, registry } = plan;
    let mut app = App {
        limits,
        stop,
        shutdown_began: None,
        tasks: Tasks::default(),
        steps: Vec::new(),
    };
    let mut undo = Vec::new();
    for (name, entry) in entries {
        if app.is_shutting_down() {
            break;
        }
        match entry {
            Entry::OnStart(hook) => app.call(name, hook).await,
            Entry::OnStop(hook) => undo.push(Undo::Call(name, hook)),
            Entry::Part(start) => {
                let (sender, ready) = Ready::channel();
                // No child of `stop`: shutdown cancels the parts one at a time.
                let token = CancellationToken::new();
                let own = token.clone();
                // In its task: if `start` panics, the part has failed.
                let work = Box::pin(async { start(sender, own).await });
                undo.push(Undo::Stop(app.tasks.spawn(name, work), token));
                tokio::select! {
                    biased;
                    () = app.next_event() => {}
                    Ok(()) = ready => {}
                }
            }
        }
    }
    if let Some(Registry { register, deregister }) = registry
        && !app.is_shutting_down()
    {
        undo.push(Undo::LameDuck);
        // Before the call: a `register` that fails or is aborted may still have
        // reached the registry.
        undo.push(Undo::Call("deregister", deregister));
        app.call("register", register).await;
    }
    while !app.is_shutting_down() {
        app.next_event().await;
    }
    while let Some(last) = undo.pop() {
        match last {
            Undo::Call(name, work) => app.call(name, work).await,
            Undo::LameDuck => app.lame_duck().await,
            Undo::Stop(part, token) => {
                // A part that has already ended did so before its cancellation.
                app.catch_up();
                token.cancel();
                // The budget is the only limit.
                app.wait_for_end(&part, limits.budget).await;
            }
        }
    }
    app.report()
}

/// Undoes one step of startup.
enum Undo {
    Call(&'static str, Work),
    LameDuck,
    Stop(AbortHandle, CancellationToken),
}

/// The state of a running application.
struct App {
    limits: Limits,
    stop: CancellationToken,
    /// The time at which shutdown began. The budget starts then.
    shutdown_began: Option<Instant>,
    tasks: Tasks,
    steps: Vec<Step>,
}

impl App {
    fn is_shutting_down(&mut self) -> bool {
        self.catch_up();
        self.shutdown_began.is_some()
    }

    /// Handles a cancellation, and the ends of tasks, if they have already
    /// happened.
    fn catch_up(&mut self) {
        if self.stop.is_cancelled() {
            self.begin_shutdown();
        }
        while let Some(step) = self.tasks.try_next() {
            self.record(step);
        }
    }

    fn record(&mut self, step: Step) {
        if !step.ended.is_ok() {
            self.begin_shutdown();
        }
        self.steps.push(step);
    }

    fn begin_shutdown(&mut self) {
        self.shutdown_began.get_or_insert_with(Instant::now);
    }

    /// Waits for the next event and handles it: a task ends, or `stop` is
    /// cancelled. Once shutdown has begun, call this only if a task is left.
    async fn next_event(&mut self) {
        tokio::select! {
            biased;
            () = self.stop.cancelled(), if self.shutdown_began.is_none() => {
                self.begin_shutdown();
            }
            Some(step) = self.tasks.next() => self.record(step),
        }
    }

    /// Waits until `task` ends. Aborts it when `limit` or the budget is used
    /// up.
    async fn wait_for_end(&mut self, task: &AbortHandle, limit: Duration) {
        self.tasks.expect_end(task);
        let limit = Instant::now() + limit;
        while self.tasks.contains(task) {
            // In every round: the budget may begin during the wait.
            let limit = self.within_budget(limit);
            if timeout_at(limit, self.next_event()).await.is_err() {
                task.abort();
                // It may still use the parts that stop next: no limit here.
                while self.tasks.contains(task) {
                    self.next_event().await;
                }
            }
        }
    }

    async fn call(&mut self, name: &'static str, work: Work) {
        if self.budget_is_spent() {
            // Not spawned: a task could run before it is aborted.
            let (ended, took) = (Ended::Aborted, Duration::ZERO);
            return self.record(Step { name, ended, took });
        }
        let task = self.tasks.spawn(name, work);
        self.wait_for_end(&task, self.limits.call).await;
    }

    /// Waits for the end of the lame-duck period, or until no part is left.
    async fn lame_duck(&mut self) {
        let end = self.within_budget(Instant::now() + self.limits.lame_duck);
        let all_parts_end = async {
            while !self.tasks.is_empty() {
                self.next_event().await;
            }
        };
        // Both outcomes end the period.
        let _ = timeout_at(end, all_parts_end).await;
    }

    fn budget_is_spent(&self) -> bool {
        let began = self.shutdown_began;
        began.is_some_and(|began| began.elapsed() >= self.limits.budget)
    }

    /// Returns `limit`, or the end of the budget if that is earlier.
    fn within_budget(&self, limit: Instant) -> Instant {
        let began = self.shutdown_began;
        began.map_or(limit, |began| limit.min(began + self.limits.budget))
    }

    fn report(self) -> Report {
        let began = self.shutdown_began.expect("shutdown has begun");
        Report { steps: self.steps, took: began.elapsed() }
    }
}
