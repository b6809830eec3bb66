//! Runs models: of threads under loom, of tasks and locks under shuttle. `Value`
//! reports an error if it is read after its drop, or dropped twice.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::mem::ManuallyDrop;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::model::Builder;
use real_tokio::runtime::Builder as RuntimeBuilder;
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner};

/// Runs `model` under loom, once for each interleaving of its threads and each
/// value that a load can return, and prints the number of executions.
///
/// With `preemptions`, only executions with at most that many preemptions are
/// run: without this limit, the larger models would take minutes. After
/// `EXECUTIONS` executions the search ends, so that a correct attempt of another
/// shape than the answer does not run into the deadline.
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
         nothing that the threads share: take `Arc`, atomics and cells from \
         the modules that the stub names"
    );
}

/// The largest number of executions of one model. The answer has at most half as
/// many.
const EXECUTIONS: usize = 40_000;

/// The number of random schedules in which a shuttle model is run.
const SCHEDULES: usize = 2000;

/// Runs the async `model` under shuttle, as `shuffle_threads` does.
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

/// The maximum number of values in a model.
const VALUES: usize = 5;

loom::lazy_static! {
    /// The state of each value. It is kept outside of the value, since reading
    /// a freed value may crash.
    static ref LEDGER: [Entry; VALUES] = Default::default();
}

/// No lock protects these fields: loom reports an error if the code under test
/// does not order a read after the creation and before the drop of the value.
#[derive(Default)]
struct Entry {
    created: UnsafeCell<bool>,
    dropped: UnsafeCell<bool>,
}

/// A value that checks its reads and its drop against `LEDGER`.
pub(crate) struct Value {
    number: usize,
}

impl Value {
    pub(crate) fn new(number: usize) -> Self {
        set(&LEDGER[number].created);
        Self { number }
    }

    #[track_caller]
    pub(crate) fn read(&self) -> usize {
        let number = self.number;
        assert!(
            number < VALUES,
            "a reader sees freed memory: its number is {number}, expected less \
             than {VALUES}"
        );
        assert!(
            is_set(&LEDGER[number].created),
            "a reader sees value {number} before it is fully written"
        );
        assert!(
            !is_dropped(number),
            "a reader sees value {number} after it was dropped"
        );
        number
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        let number = self.number;
        assert!(
            number < VALUES,
            "freed memory is dropped: its number is {number}, expected less \
             than {VALUES}"
        );
        let was_dropped = set(&LEDGER[number].dropped);
        assert!(!was_dropped, "value {number} is dropped twice");
    }
}

#[track_caller]
fn set(flag: &UnsafeCell<bool>) -> bool {
    // SAFETY: loom checks that no other thread accesses the flag meanwhile.
    flag.with_mut(|flag| unsafe { flag.replace(true) })
}

#[track_caller]
fn is_set(flag: &UnsafeCell<bool>) -> bool {
    // SAFETY: loom checks that no other thread writes the flag meanwhile.
    flag.with(|flag| unsafe { *flag })
}

/// Returns whether the value `number` has been dropped.
#[track_caller]
pub(crate) fn is_dropped(number: usize) -> bool {
    is_set(&LEDGER[number].dropped)
}

/// Panics unless the first `values` values have been dropped.
pub(crate) fn assert_all_dropped(values: usize) {
    for number in 0..values {
        assert!(
            is_dropped(number),
            "value {number} is leaked: expected each value to be dropped once"
        );
    }
}
