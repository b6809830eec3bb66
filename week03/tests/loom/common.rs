//! How models are run: of threads by loom, of tasks by shuttle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::model::Builder;
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner};

/// Runs `model` once for each way in which its threads can interleave and each
/// value that a load can return, and says how many there were. Where `switches`
/// is given, threads are interrupted at most that many times: without it the
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

/// How many orders of its steps a model of tasks is run in.
const SCHEDULES: usize = 2000;

/// Runs `model`, which is made of shuttle's parts, in so many orders that are
/// chosen at random, and are the same each time.
pub(crate) fn shuffle<F>(model: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let scheduler = RandomScheduler::new_from_seed(2026, SCHEDULES);
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    let schedules = Runner::new(scheduler, config)
        .run(move || shuttle::future::block_on(model()));
    println!("{schedules} schedules");
}
