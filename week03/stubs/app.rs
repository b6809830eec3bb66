//! Application lifecycle: ordered startup, and one shutdown path. Your turn.
//!
//! The types are given, in `crate::plan`, which is `week03/src/plan.rs`: read
//! that file first. A *call* below is a hook, `register` or `deregister`.
//! These rules are graded, and nothing else:
//!
//! - *Startup* processes the entries in order. It starts a part and waits
//!   until the part has called `Ready::set`. It calls an `OnStart` hook and
//!   waits until the hook has returned `Ok`. Then the next entry follows.
//! - Dropping the `Ready` does not make a part ready.
//! - Startup does not call `OnStop` hooks. After the last entry, it calls
//!   `register`.
//! - *Shutdown* begins when `stop` is cancelled, or when an `OnStart` hook,
//!   `register` or a part fails. A part can fail at any time, also during
//!   startup. A part that ends before its own token is cancelled has failed,
//!   even if it returns `Ok`.
//! - Once shutdown has begun, no further entry is started and `register` is
//!   not called. A part that ended while `run` was waiting for something else
//!   has also begun shutdown.
//! - A call that is running when shutdown begins, such as `register`, is
//!   allowed to complete, within its limit. A part that is not ready yet is
//!   stopped like any other part.
//! - Shutdown undoes the steps of startup in reverse order, one at a time. If
//!   `register` was called, whatever its result, `deregister` is called first.
//!   Then comes the lame-duck period, in which no part is cancelled. It ends
//!   early when no part is left.
//! - Then come the entries that startup reached, the last one first. For a
//!   part, shutdown cancels the part's own token and waits until the part
//!   ends. An `OnStop` hook is called.
//! - A failure during shutdown, of any kind, does not keep the remaining steps
//!   from running. A panic is a failure like any other: `run` does not
//!   propagate it.
//! - *The limits.* A call that takes longer than `call` is aborted. The budget
//!   is counted once, from the moment when shutdown begins, also while a call
//!   of startup is still completing. At the end of the budget, all remaining
//!   parts and calls are aborted, and the lame-duck period ends. A call that
//!   has not begun by then is not started, and counts as aborted.
//! - `run` returns when the last task has ended, including aborted tasks.
//! - *The report* has a step for each part that was started and for each call
//!   that was reached, also one that the budget kept from starting. Steps are
//!   in the order in which they ended. The time of a call runs from its
//!   beginning to its end. The time of a part runs from the cancellation of
//!   its token to its end.
//! - Dropping the future of `run` aborts all parts and calls nothing.
//!
//! Each part and each call is a task. Time is tokio's: a limit is exact to the
//! millisecond.
//!
//! The stub has the state of a running application, and the code that learns
//! of cancellations and task ends. You write startup, shutdown and the limits.

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
    /// When shutdown began: the start of the budget.
    shutdown_began: Option<Instant>,
    tasks: Tasks,
    steps: Vec<Step>,
}

impl App {
    fn is_shutting_down(&mut self) -> bool {
        self.catch_up();
        self.shutdown_began.is_some()
    }

    /// Handles a cancellation and task ends that have already happened.
    fn catch_up(&mut self) {
        if self.stop.is_cancelled() {
            self.begin_shutdown();
        }
        while let Some(step) = self.tasks.try_next() {
            self.record(step);
        }
    }

    /// Waits for the next event and handles it: a task ends, or `stop` is
    /// cancelled. During shutdown, at least one task must be left.
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
