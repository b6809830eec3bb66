//! How models are run: of threads by loom, of tasks by shuttle. And values that
//! tell whether they are read while they may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::cell::UnsafeCell;
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
        "loom sees nothing that threads share: take it from the modules of \
         this crate that the stub names"
    );
}

/// How many orders of its steps a model of tasks or of locks is run in.
const SCHEDULES: usize = 2000;

/// Runs `model`, which is async, as `shuffle_threads` does.
pub(crate) fn shuffle<F>(model: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    shuffle_threads(move || shuttle::future::block_on(model()));
}

/// Runs `model`, which is made of shuttle's parts, in so many orders that are
/// chosen at random, and are the same each time.
pub(crate) fn shuffle_threads(model: impl Fn() + Send + Sync + 'static) {
    let scheduler = RandomScheduler::new_from_seed(2026, SCHEDULES);
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    let schedules = Runner::new(scheduler, config).run(model);
    println!("{schedules} schedules");
}

/// How many values a model has at most.
const VALUES: usize = 5;

loom::lazy_static! {
    /// What is known of each value, kept outside of it: a value that has been
    /// freed tells nothing, and may tell it by crashing.
    static ref LEDGER: [Entry; VALUES] = Default::default();
}

/// No lock guards these: loom objects where the code under test does not settle
/// whether a read comes after the making, and before the drop.
#[derive(Default)]
struct Entry {
    made: UnsafeCell<bool>,
    dropped: UnsafeCell<bool>,
}

/// Tells who reads it, and who drops it.
pub(crate) struct Value {
    number: usize,
}

impl Value {
    pub(crate) fn new(number: usize) -> Self {
        set(&LEDGER[number].made);
        Self { number }
    }

    #[track_caller]
    pub(crate) fn read(&self) -> usize {
        let number = self.number;
        assert!(number < VALUES, "a reader sees memory that has been freed");
        assert!(is_set(&LEDGER[number].made), "a reader sees what is not made");
        assert!(!is_dropped(number), "a reader sees what has been dropped");
        number
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        let number = self.number;
        assert!(number < VALUES, "memory is freed a second time");
        let was = set(&LEDGER[number].dropped);
        assert!(!was, "a value is dropped twice");
    }
}

#[track_caller]
fn set(flag: &UnsafeCell<bool>) -> bool {
    // SAFETY: loom checks that nobody else looks at it at this time.
    flag.with_mut(|flag| unsafe { flag.replace(true) })
}

#[track_caller]
fn is_set(flag: &UnsafeCell<bool>) -> bool {
    // SAFETY: loom checks that nobody writes to it at this time.
    flag.with(|flag| unsafe { *flag })
}

#[track_caller]
pub(crate) fn is_dropped(number: usize) -> bool {
    is_set(&LEDGER[number].dropped)
}

pub(crate) fn all_are_dropped(values: usize) {
    for number in 0..values {
        assert!(is_dropped(number), "value {number} is leaked");
    }
}
