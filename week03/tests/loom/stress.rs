//! Where no model checker looks: real threads, on this machine, for a while.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread;

use week03::{epoch, swap};

const STORES: usize = 300;

/// Says on each look that it has not been dropped.
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
        assert!(is_whole, "a reader sees two values at once");
        let is_dropped = self.is_dropped.load(Relaxed);
        assert!(!is_dropped, "a reader sees what has been dropped");
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.is_dropped.store(true, Relaxed);
    }
}

/// Two threads read, and two store.
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
            ended.expect("nothing is seen that must not be");
        }
    });
}

#[test]
fn readers_of_a_swap_see_nothing_that_is_dropped() {
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
fn readers_of_an_epoch_see_nothing_that_is_dropped() {
    let value = epoch::Swap::new(Value::new(0));
    race(
        || {
            let reader = value.reader();
            move || reader.load().check()
        },
        |number| value.store(Value::new(number)),
    );
}
