//! Runs models under shuttle.

use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner};

/// The number of random schedules in which a shuttle model is run.
const SCHEDULES: usize = 2000;

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
