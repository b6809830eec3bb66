//! The life of an application: a start in order, and one way out. Your turn.
//!
//! The words are given, in `crate::plan`, which is `week03/src/plan.rs`: read it
//! first. What is graded, and nothing else:
//!
//! - *The start* goes through the entries in their order. The next one comes when
//!   a part has said that it is ready, or a hook has returned `Ok`. A part that
//!   drops its `Ready` has not said so. An `OnStop` is not called here. After the
//!   last one, `register` is called.
//! - *The stop* begins when `stop` is cancelled, or when anything fails: an
//!   `OnStart`, `register`, or a part, at any time, the start included. For a
//!   part, to end before its own token is cancelled is to fail, also with `Ok`.
//! - Once it has begun, nothing more is started or registered: what has ended while
//!   something else was waited for counts, too. A call that is under way, as of
//!   `register`, is let end, within its limit. A part that is not ready yet is
//!   stopped as any other.
//! - The stop takes back what the start has done, in the reverse order, and one
//!   after the other. If `register` was called, however that went: first
//!   `deregister`, and then the lame duck, in which nothing is told to stop yet. It
//!   is over early when no part is left. Then the entries that were reached: a part
//!   has its own token cancelled, and is waited for; an `OnStop` is called.
//! - What fails in the stop, in whatever way, does not keep the rest from being
//!   stopped. A panic is a failure like any other, and is not raised.
//! - *The limits.* A call that takes longer than `call` is cut off. The budget
//!   counts once, from where the stop begins, also while a call of the start is
//!   let end. When it is over, what is left is cut off: parts, calls, and the
//!   lame duck. A call that has not begun by then does not begin, and counts as cut
//!   off as well.
//! - `run` returns when the last task has ended, also one that was cut off.
//! - *The report* has a step for each part that was started and each call that
//!   was due, in the order of ending. In it, a call takes from its beginning to
//!   its end, and a part from the moment in which it was told to stop.
//! - When the future of `run` is dropped, all parts are aborted, and nothing is
//!   called.
//!
//! Each part and each call is a task. Time is tokio's: a limit is exact to the
//! millisecond.
//!
//! What is here already: what an application under way knows, and how it learns
//! what has happened. What is missing is what it does: the start, the way out, and
//! the limits.

#![allow(dead_code, reason = "you will use it")]

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::plan::{Limits, Plan, Report, Step, Tasks};

/// Starts what `plan` says, serves until `stop` is cancelled or anything fails,
/// and stops.
pub async fn run(_plan: Plan, _stop: CancellationToken) -> Report {
    todo!("what does each step of the start leave to be undone, and when?")
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

    fn keep(&mut self, step: Step) {
        if !step.ended.is_well() {
            self.begins_to_stop();
        }
        self.steps.push(step);
    }

    fn begins_to_stop(&mut self) {
        self.stopping.get_or_insert_with(Instant::now);
    }

    fn report(self) -> Report {
        let began = self.stopping;
        let took = began.map_or(Duration::ZERO, |began| began.elapsed());
        Report { steps: self.steps, took }
    }
}
