//! A process reports what it has done, and waits for permission to go on.
//!
//! *Question.* A process has to be killed between two of its effects, such as a
//! commit and its acknowledgment. How does the parent hit a moment that lasts
//! for microseconds?
//!
//! *Idea.* After an effect, the process writes a line to its standard output.
//! It performs the next effect of this request after the parent has written a
//! line to its standard input. So the parent can kill it in between, or give
//! the permission and kill it at once, in the middle of the next effect.
//!
//! *Guarantee.* The process ends when its standard input does: it does not
//! outlive its parent, also if the parent is killed.
//!
//! *Cost.* A round trip to the parent for each effect. It is not made while the
//! throughput is measured.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::{process, thread};

use tokio::sync::oneshot;

/// Writes the reports of a process. A clone writes to the same output.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    mode: Mode,
    /// The reports without a permission, in the order of their lines.
    waiting: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>,
}

/// Which reports a process writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// All of them, and it waits for the permission.
    Ask,
    /// The credits alone, and it does not wait.
    Credits,
}

impl Reports {
    /// Begins to read the permissions.
    pub(crate) fn new(mode: Mode) -> Self {
        let reports = Self { mode, waiting: Arc::default() };
        thread::spawn({
            let reports = reports.clone();
            move || {
                for _ in io::stdin().lines().map_while(Result::ok) {
                    if let Some(first) = reports.lock().pop_front() {
                        let _ = first.send(());
                    }
                }
                process::exit(0)
            }
        });
        reports
    }

    /// Returns whether the process reports all effects, as in a run with chaos.
    pub(crate) fn are_all_written(&self) -> bool {
        self.mode == Mode::Ask
    }

    /// Reports an effect, and waits until the next one may be performed.
    pub(crate) async fn report(&self, text: &str) {
        if !self.are_all_written() {
            return;
        }
        let (sender, permission) = oneshot::channel();
        {
            let mut waiting = self.lock();
            waiting.push_back(sender);
            write(text);
        }
        let _ = permission.await;
    }

    /// Reports that a transfer is credited, also during a measurement.
    pub(crate) async fn report_credit(&self, id: u64, text: &str) {
        match self.mode {
            Mode::Ask => self.report(text).await,
            Mode::Credits => write(&id.to_string()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parent reads the lines at once. If it is dead, this process ends soon.
fn write(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
