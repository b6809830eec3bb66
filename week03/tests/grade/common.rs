//! Helpers that the graders of this week share.

use std::marker::PhantomData;
use std::mem;
use std::panic::resume_unwind;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lab::alloc::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The limit of [`with_deadline`].
const DEADLINE: Duration = Duration::from_secs(5);

/// Runs `work` on a thread of its own, and returns its result. Panics if `work`
/// takes longer than [`DEADLINE`], so that a deadlock fails the test.
pub(crate) fn with_deadline<R: Send + 'static>(
    operation: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> R {
    within(DEADLINE, operation, work)
}

/// Does the same with another limit.
pub(crate) fn within<R: Send + 'static>(
    deadline: Duration,
    operation: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> R {
    let (done, result) = mpsc::channel();
    let thread = thread::spawn(move || drop(done.send(work())));
    match result.recv_timeout(deadline) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => {
            panic!("{operation} has not completed in {deadline:?}: a deadlock?")
        }
        Err(RecvTimeoutError::Disconnected) => {
            let payload =
                thread.join().expect_err("only a panic sends no result");
            if payload.is::<PanicsOnDrop>() {
                // The test harness would hang if it dropped this payload.
                mem::forget(payload);
                panic!("{operation} panicked");
            }
            resume_unwind(payload)
        }
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

/// A value that calls a function when it is dropped.
pub(crate) struct Hooked {
    pub(crate) value: Value,
    pub(crate) on_drop: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Drop for Hooked {
    fn drop(&mut self) {
        if let Some(on_drop) = self.on_drop.take() {
            on_drop();
        }
    }
}

/// `Probe::<T>::IS_SEND` says whether `T` is `Send`.
pub(crate) struct Probe<T>(PhantomData<T>);

/// Says that a type is not `Send`, unless `Probe` itself says that it is.
pub(crate) trait NotSend {
    const IS_SEND: bool = false;
}

impl<T> NotSend for Probe<T> {}

impl<T: Send> Probe<T> {
    pub(crate) const IS_SEND: bool = true;
}

/// Generates pseudorandom numbers (SplitMix64). The seed is fixed, so that each
/// run of a test uses the same ones.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a usize fits into a u64");
        usize::try_from(self.next() % end).expect("it is less than a usize")
    }

    /// Returns one of `items`.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// The payload of a panic. Its drop panics with the next one, `.0` times, and
/// without a message.
pub(crate) struct PanicsOnDrop(pub(crate) u32);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        // A panic during another one would abort the process.
        if self.0 > 0 && !thread::panicking() {
            resume_unwind(Box::new(Self(self.0 - 1)));
        }
    }
}
