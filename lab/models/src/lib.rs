//! Runs models: of threads under loom, of tasks and locks under shuttle.
//!
//! The functions box the model. loom and shuttle are generic over it: without
//! the box, large parts of both would be compiled again for each model of each
//! subject, and without optimization.

use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::model::Builder;
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner};
use tokio::runtime::Builder as RuntimeBuilder;

/// The largest number of executions of one loom model. An answer has at most
/// half as many.
const EXECUTIONS: usize = 40_000;

/// The number of random schedules in which a shuttle model is run.
const SCHEDULES: usize = 2000;

/// The stack of a thread under shuttle, in bytes.
const STACK: usize = 1 << 18;

type Model = dyn Fn() + Send + Sync;

/// Runs `model` under loom, once for each interleaving of its threads and each
/// value that a load can return, and prints the number of executions.
///
/// With `preemptions`, only executions with at most that many preemptions are
/// run: without this limit, the larger models would take minutes. After 40,000
/// executions the search ends, so that a correct attempt of another shape than
/// the answer does not run into the deadline.
///
/// # Panics
///
/// If `model` panics, if loom finds a data race or a deadlock, and if there is
/// only one execution: then loom sees nothing that the threads share.
#[track_caller]
pub fn explore(
    preemptions: Option<usize>,
    model: impl Fn() + Send + Sync + 'static,
) {
    explore_boxed(preemptions, Box::new(model));
}

#[track_caller]
fn explore_boxed(preemptions: Option<usize>, model: Box<Model>) {
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
         nothing that the threads share: take `Arc`, atomics, cells and locks \
         from the modules that the stub names"
    );
}

/// Runs the async `model` under shuttle, as [`shuffle_threads`] does.
///
/// # Panics
///
/// As [`shuffle_threads`].
pub fn shuffle<F>(model: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    shuffle_threads(move || {
        let future: Pin<Box<dyn Future<Output = ()>>> = Box::pin(model());
        shuttle::future::block_on(future);
    });
}

/// Runs the async `model` under shuttle, as [`shuffle_threads`] does.
///
/// The model may use tokio's timers. They never fire, since time stands still.
///
/// # Panics
///
/// As [`shuffle_threads`].
pub fn shuffle_with_timers<F>(model: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let mut runtime = RuntimeBuilder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    // Not dropped: after a failure, that would wake tasks outside of shuttle.
    let runtime = ManuallyDrop::new(runtime.expect("a runtime"));
    let _context = runtime.enter();
    shuffle(model);
}

/// Runs `model` under shuttle in 2,000 random schedules, and prints their number.
/// The seed is fixed, so that the schedules are the same in each run.
///
/// # Panics
///
/// If `model` panics in a schedule, and if all of its threads and tasks wait.
pub fn shuffle_threads(model: impl Fn() + Send + Sync + 'static) {
    shuffle_boxed(Box::new(model));
}

fn shuffle_boxed(model: Box<Model>) {
    let scheduler = RandomScheduler::new_from_seed(2026, SCHEDULES);
    let mut config = Config::new();
    config.stack_size = STACK;
    config.silence_warnings = true;
    let schedules = Runner::new(scheduler, config).run(model);
    println!("{schedules} schedules");
}
