//! Runs models: of threads under loom, of tasks and locks under shuttle. `Value`
//! reports an error if it is read after its drop, or dropped twice.

use loom::cell::UnsafeCell;

pub(crate) use lab_models::shuffle_with_timers as shuffle;
pub(crate) use lab_models::{explore, shuffle_threads};

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
