//! What graders of this week share.

use std::panic::resume_unwind;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Nobody waits longer for what has to happen.
const DEADLINE: Duration = Duration::from_secs(5);

/// What `work` returns, on a thread of its own: where it would wait for ever, the
/// test fails instead.
pub(crate) fn soon<R: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> R {
    let (done, result) = mpsc::channel();
    let thread = thread::spawn(move || drop(done.send(work())));
    match result.recv_timeout(DEADLINE) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            panic!("{what} has not ended in {DEADLINE:?}: who waits for whom?")
        }
        Err(RecvTimeoutError::Disconnected) => {
            resume_unwind(thread.join().expect_err("it sends unless it panics"))
        }
    }
}

/// Values by number, and how often each of them has been dropped.
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

    pub(crate) fn drops(&self) -> Vec<usize> {
        self.0.lock().unwrap().clone()
    }

    /// How many are not dropped.
    pub(crate) fn left(&self) -> usize {
        self.drops().iter().filter(|drops| **drops == 0).count()
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.ledger.0.lock().unwrap()[self.number] += 1;
    }
}
