//! Runs models under loom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::model::Builder;

/// The largest number of executions of one loom model. The answer has at most
/// half as many.
const EXECUTIONS: usize = 40_000;

/// Runs `model` under loom, once for each interleaving of its threads and each
/// value that a load can return, and prints the number of executions.
///
/// With `preemptions`, only executions with at most that many preemptions are
/// run. After `EXECUTIONS` executions the search ends, so that a correct attempt
/// of another shape than the answer does not run into the deadline.
pub(crate) fn explore(
    preemptions: Option<usize>,
    model: impl Fn() + Send + Sync + 'static,
) {
    let executions = Arc::new(AtomicUsize::new(0));
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_permutations = Some(EXECUTIONS);
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
        "loom ran {executions} execution: expected more than 1. It sees \
         nothing that the threads share: take `Arc`, atomics and locks from \
         the module that the stub names"
    );
}
