//! Runs models under loom and shuttle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::model::Builder;
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner};

/// The largest number of executions of one loom model. The answer has at most
/// half as many.
const EXECUTIONS: usize = 40_000;

/// The number of random schedules in which a shuttle model is run.
const SCHEDULES: usize = 2000;

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

/// Runs the async `model` under shuttle, as `shuffle_threads` does.
pub(crate) fn shuffle<F>(model: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    shuffle_threads(move || shuttle::future::block_on(model()));
}

/// Runs `model` under shuttle in `SCHEDULES` random schedules. The seed is
/// fixed, so that the schedules are the same in each run.
pub(crate) fn shuffle_threads(model: impl Fn() + Send + Sync + 'static) {
    let scheduler = RandomScheduler::new_from_seed(2026, SCHEDULES);
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    let schedules = Runner::new(scheduler, config).run(model);
    println!("{schedules} schedules");
}
