//! Stress tests: real threads on this machine, without a model checker.

use core::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use week03::{epoch, swap};

const STORES: usize = 300;

/// A value whose readers can check that it is whole and has not been dropped.
struct Value {
    is_dropped: AtomicBool,
    copies: [usize; 16],
}

impl Value {
    fn new(number: usize) -> Self {
        Self { is_dropped: AtomicBool::new(false), copies: [number; 16] }
    }

    fn check(&self) {
        let is_whole = self.copies.iter().all(|n| *n == self.copies[0]);
        assert!(
            is_whole,
            "a reader sees parts of two values: {:?}",
            self.copies
        );
        let is_dropped = self.is_dropped.load(Relaxed);
        assert!(!is_dropped, "a reader sees a value that has been dropped");
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.is_dropped.store(true, Relaxed);
    }
}

/// Runs two reader threads beside two threads that store.
fn race<R: FnMut()>(
    reader: impl Fn() -> R + Sync,
    store: impl Fn(usize) + Sync,
) {
    let done = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut read = reader();
                while !done.load(Acquire) {
                    read();
                }
            })
        });
        let writers = [(); 2].map(|()| {
            scope.spawn(|| {
                for number in 0..STORES {
                    store(number);
                    thread::yield_now();
                }
            })
        });
        let writers = writers.map(|writer| writer.join());
        done.store(true, Release);
        let readers = readers.map(|reader| reader.join());
        for ended in writers.into_iter().chain(readers) {
            ended.expect("every value that is read is whole and not dropped");
        }
    });
}

#[test]
fn swap_readers_never_see_a_dropped_value() {
    let value = swap::Swap::new(Value::new(0), 2);
    race(
        || {
            let mut reader = value.reader().expect("one of two");
            move || reader.load().check()
        },
        |number| value.store(Value::new(number)),
    );
}

#[test]
fn epoch_readers_never_see_a_dropped_value() {
    let value = epoch::Swap::new(Value::new(0));
    race(
        || {
            let reader = value.reader();
            move || reader.load().check()
        },
        |number| value.store(Value::new(number)),
    );
}

/// A value that counts its drop, and may panic in it.
struct Counted {
    drops: Arc<AtomicUsize>,
    panics: bool,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Relaxed);
        assert!(!self.panics, "on purpose: the drop of a value panics");
    }
}

#[test]
fn a_panic_in_the_drop_of_the_current_value_leaks_no_old_value() {
    let drops = Arc::new(AtomicUsize::new(0));
    let value = |panics| Counted { drops: Arc::clone(&drops), panics };
    let swap = swap::Swap::new(value(false), 1);
    let mut reader = swap.reader().expect("one reader");
    let seen = reader.load();
    swap.store(value(true)); // leaves the value that `seen` shows
    drop(seen);
    drop(reader);
    let end = catch_unwind(AssertUnwindSafe(|| drop(swap)));
    assert!(end.is_err(), "the drop of the `Swap` returned: expected a panic");
    assert_eq!(
        drops.load(Relaxed),
        2,
        "drops of two values, of which the current one panicked: seen (left), \
         expected (right)"
    );
}
