//! Ctrl-C: a run ends with its databases deleted.
//!
//! *Question.* The databases of a run may be on a server of the user. How are
//! they deleted if the user presses Ctrl-C?
//!
//! *Idea.* The signal is an event that the parent waits for, beside the run. The
//! processes are in groups of their own, so a terminal does not send the signal
//! to them.
//!
//! *Guarantee.* After a first signal, everything that the run has created is
//! deleted, or the error names it. A second one ends the deletion.
//!
//! *Cost.* A database that is being created is waited for: the server goes on
//! with the statement, also if nobody waits.

use std::io;
use std::pin::pin;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a run.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// A signal has ended the run.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("stopped by signal {0}")]
pub(crate) struct Stopped(i32);

impl Signals {
    /// From now on, the signals do not end the process.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for a signal.
    pub(crate) async fn next(&mut self) -> Stopped {
        Stopped(tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        })
    }

    /// Runs a future. At a signal, it is dropped.
    pub(crate) async fn or<T>(
        &mut self,
        run: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            ended = run => ended,
            stopped = self.next() => Err(stopped.into()),
        }
    }

    /// Runs a future to its end, also after a signal. At a second one, it is
    /// dropped.
    pub(crate) async fn after<T>(
        &mut self,
        run: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut run = pin!(run);
        tokio::select! {
            ended = &mut run => ended,
            stopped = self.next() => {
                self.or(run).await?;
                Err(stopped.into())
            }
        }
    }
}

impl Stopped {
    /// Returns the exit code that a shell has for a process that a signal ends.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self.0 as u8
    }
}
