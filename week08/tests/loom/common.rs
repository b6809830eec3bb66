//! Runs models: of threads under loom, of tasks under shuttle.

use std::future::poll_fn;
use std::mem::ManuallyDrop;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::model::Builder;
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner};
use tokio::runtime::{Builder as RuntimeBuilder, Handle};

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

/// The number of random schedules in which a shuttle model is run.
const SCHEDULES: usize = 2000;

/// Runs the async `model` under shuttle in `SCHEDULES` random schedules. The
/// seed is fixed, so that the schedules are the same in each run.
///
/// The model may use tokio's timers. They never fire, since time stands still.
pub(crate) fn shuffle<F>(model: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let mut runtime = RuntimeBuilder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    // Not dropped: after a failure, that would wake tasks outside of shuttle.
    let runtime = ManuallyDrop::new(runtime.expect("a runtime"));
    let _context = runtime.enter();
    let scheduler = RandomScheduler::new_from_seed(2026, SCHEDULES);
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    let runner = Runner::new(scheduler, config);
    let schedules = runner.run(move || shuttle::future::block_on(model()));
    println!("{schedules} schedules");
}

/// Waits for `future`, and panics if it has started a task that shuttle does not
/// run. The model would only end with a deadlock.
pub(crate) async fn in_shuttle<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        let poll = future.as_mut().poll(context);
        let tasks = Handle::current().metrics().num_alive_tasks();
        assert_eq!(
            tasks, 0,
            "tasks of `tokio::spawn` (left), expected (right): shuttle does \
             not run them. Take `spawn` from the module that the stub names"
        );
        poll
    })
    .await
}
