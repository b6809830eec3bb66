//! How models are run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::model::Builder;

/// Runs `model` once for each way in which its threads can interleave and each
/// value that a load can return, and says how many there were. Where `switches`
/// is given, a thread is interrupted so many times at most: without it the
/// larger models would take minutes.
pub(crate) fn explore(
    switches: Option<usize>,
    model: impl Fn() + Send + Sync + 'static,
) {
    let executions = Arc::new(AtomicUsize::new(0));
    let mut builder = Builder::new();
    builder.preemption_bound = switches;
    builder.location = true;
    builder.check({
        let executions = Arc::clone(&executions);
        move || {
            executions.fetch_add(1, Relaxed);
            model();
        }
    });
    let executions = executions.load(Relaxed);
    println!("{executions} executions");
    assert!(
        executions > 1,
        "loom saw no atomics: take them from `crate::sync`"
    );
}
