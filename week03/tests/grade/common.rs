//! Helpers that the graders of this week share.

use std::panic::resume_unwind;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The limit of [`with_deadline`].
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs `work` on a thread of its own, and returns its result. Panics if `work`
/// takes longer than [`DEADLINE`], so that a deadlock fails the test.
pub(crate) fn with_deadline<R: Send + 'static>(
    operation: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> R {
    let (done, result) = mpsc::channel();
    let thread = thread::spawn(move || drop(done.send(work())));
    match result.recv_timeout(DEADLINE) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            panic!("{operation} has not completed in {DEADLINE:?}: a deadlock?")
        }
        Err(RecvTimeoutError::Disconnected) => resume_unwind(
            thread.join().expect_err("only a panic sends no result"),
        ),
    }
}

/// Creates numbered values, and counts how often each of them is dropped.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Vec<usize>>>);

pub(crate) struct Value {
    pub(crate) number: usize,
    pub(crate) ledger: Ledger,
}

impl Ledger {
    pub(crate) fn value(&self) -> Value {
        let mut drops = self.0.lock().unwrap();
        drops.push(0);
        Value { number: drops.len() - 1, ledger: self.clone() }
    }

    /// Returns how often each value has been dropped, by number.
    pub(crate) fn drops(&self) -> Vec<usize> {
        self.0.lock().unwrap().clone()
    }

    /// Returns the number of values that are not dropped.
    pub(crate) fn left(&self) -> usize {
        self.drops().iter().filter(|drops| **drops == 0).count()
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.ledger.0.lock().unwrap()[self.number] += 1;
    }
}
