//! Application lifecycle: ordered startup, and one shutdown path. Your turn.
//!
//! The types are given in `crate::plan`, which is `week03/src/plan.rs`: read
//! that file first. The parts and hooks of a plan are its *entries*. A *call*
//! is a hook, `register` or `deregister`. These rules are graded, and nothing
//! else:
//!
//! - *Startup* processes the entries in order. It starts a part and waits
//!   until the part has called `Ready::set`. It calls an `OnStart` hook and
//!   waits until the hook has returned `Ok`. Then it processes the next entry.
//! - Dropping the `Ready` does not make a part ready.
//! - Startup does not call `OnStop` hooks. After the last entry, it calls
//!   `register`.
//! - *Shutdown* begins when `stop` is cancelled, or when an `OnStart` hook,
//!   `register` or a part fails. A part can fail at any time, also during
//!   startup. A part that ends before its own token is cancelled has failed,
//!   even if it returns `Ok`.
//! - If a part ends or `stop` is cancelled while `run` is waiting for a call or
//!   for another part, shutdown begins, even if that call or part succeeds at
//!   the same moment.
//! - Once shutdown has begun, startup does not process another entry, not even
//!   an `OnStop` hook, and does not call `register`.
//! - If a call, such as `register`, is running when shutdown begins, it is
//!   allowed to complete, within its limit. A part that is not ready yet is
//!   stopped like any other part.
//! - Shutdown undoes the steps of startup in reverse order, one at a time. If
//!   `register` was called, whatever its result, shutdown first calls
//!   `deregister`, and then waits for the lame-duck period, in which it cancels
//!   no part. The period ends early when no part is left. If `register` was not
//!   called, there is no lame-duck period.
//! - Then shutdown processes the entries that startup has reached, the last one
//!   first. An `OnStop` hook is reached when startup has passed it. If the
//!   entry is a part, shutdown cancels the part's own token, even if the part
//!   has already ended, and waits until the part ends. If it is an `OnStop`
//!   hook, shutdown calls the hook.
//! - If a part cancels its own token, no other part is cancelled.
//! - If anything fails during shutdown, the remaining steps still run. A panic
//!   is a failure like any other: `run` does not propagate it. The function in
//!   `Entry::Part` may panic, too, before it returns a future. So call it in
//!   the task of the part.
//! - *The limits.* A call that takes longer than `Limits::call` is aborted.
//!   `Limits::budget` limits the whole shutdown. It starts once, when shutdown
//!   begins, even if a call of startup is still running at that time. At the
//!   end of the budget, all remaining parts and calls are aborted, and the
//!   lame-duck period ends. After that, no further call is started: each
//!   remaining call counts as aborted.
//! - An aborted task that blocks its thread ends later than it is aborted. The
//!   next step begins when the aborted task has ended. `run` returns when all
//!   tasks have ended.
//! - *The report* has a step for each part that was started and for each call
//!   that was started. It also has a step for each call that was not started
//!   because the budget had ended. The steps are in the order in which they
//!   ended. The time of a call runs from its beginning to its end. The time of
//!   a part runs from the cancellation of its token to its end. An aborted task
//!   ends when it has stopped, not when it is aborted.
//! - Dropping the future of `run` aborts all parts, and a call that is running.
//!   No call is started after that.
//!
//! Each part and each call runs as a task. Use tokio's clock: a limit is exact
//! to the millisecond. Where no rule decides, events of the same millisecond
//! may come in any order. The calls of `Plan::registry_with_renewal` are like all
//! other calls.
//!
//! The stub contains the state of a running application, and the code that
//! handles cancellations and the ends of tasks. You write startup, shutdown and
//! the limits.

#![allow(dead_code, reason = "you will use it")]

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::plan::{Limits, Plan, Report, Step, Tasks};

/// Starts the entries of `plan`, serves until `stop` is cancelled or anything
/// fails, and shuts down.
pub async fn run(_plan: Plan, _stop: CancellationToken) -> Report {
    todo!("which step of shutdown undoes each step of startup, and when?")
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

    fn record(&mut self, step: Step) {
        if !step.ended.is_ok() {
            self.begin_shutdown();
        }
        self.steps.push(step);
    }

    fn begin_shutdown(&mut self) {
        self.shutdown_began.get_or_insert_with(Instant::now);
    }

    fn report(self) -> Report {
        let began = self.shutdown_began;
        let took = began.map_or(Duration::ZERO, |began| began.elapsed());
        Report { steps: self.steps, took }
    }
}
