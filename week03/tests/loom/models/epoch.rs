//! Models of `epoch`: checked for every interleaving and for every value that a
//! load may return, with a collector that drops each value as early as it may.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::common::{Value, assert_all_dropped, explore, is_dropped};
use crate::epoch::Swap;

#[test]
fn a_value_is_not_dropped_while_it_is_read() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0));
        let readers = thread::spawn({
            let swap = swap.clone();
            move || {
                let reader = swap.reader();
                let first = reader.load().read();
                let second = reader.load().read();
                assert!(
                    first <= second,
                    "a reader loaded value {first}, and then the older value \
                     {second}"
                );
            }
        });
        swap.store(Value::new(1));
        swap.store(Value::new(2));
        // The reader's thread may drop the last `Swap` at the same time.
        drop(swap);
        readers.join().unwrap();
        assert_all_dropped(3);
    });
}

#[test]
fn load_returns_only_fully_written_values() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0));
        let keeper = swap.reader();
        // This guard keeps value 0, so nothing is dropped. A reader must still
        // not see a value that is not fully written.
        let kept = keeper.load();
        let readers = thread::spawn({
            let swap = swap.clone();
            move || {
                swap.reader().load().read();
            }
        });
        swap.store(Value::new(1));
        readers.join().unwrap();
        assert_eq!(
            kept.read(),
            0,
            "a guard loaded before the store: value shown (left), expected \
             (right)"
        );
    });
}

#[test]
fn a_load_after_a_store_returns_the_stored_value() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0));
        let stored = Arc::new(AtomicBool::new(false));
        let readers = thread::spawn({
            let (swap, stored) = (swap.clone(), Arc::clone(&stored));
            move || {
                let reader = swap.reader();
                let earlier = reader.load();
                if stored.load(Ordering::Acquire) {
                    let seen = reader.load().read();
                    assert_eq!(
                        seen, 1,
                        "`load` after the store of value 1: seen (left), \
                         expected (right)"
                    );
                }
                earlier.read();
            }
        });
        swap.store(Value::new(1));
        stored.store(true, Ordering::Release);
        readers.join().unwrap();
    });
}

#[test]
fn dropping_one_of_two_guards_does_not_drop_the_value() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0));
        let reader = swap.reader();
        let (first, second) = (reader.load(), reader.load());
        let writer = thread::spawn({
            let swap = swap.clone();
            move || swap.store(Value::new(1))
        });
        let expected = "a guard loaded before the store: value shown (left), \
                        expected (right)";
        assert_eq!(first.read(), 0, "{expected}");
        drop(first);
        assert_eq!(second.read(), 0, "{expected}");
        assert!(!is_dropped(0), "value 0 is dropped while a guard shows it");
        drop(second);
        writer.join().unwrap();
        drop((reader, swap));
        assert_all_dropped(2);
    });
}

#[test]
fn concurrent_stores_drop_each_value_once() {
    explore(Some(3), || {
        let swap = Arc::new(Swap::new(Value::new(0)));
        let store = |swap: &Swap<Value>, number| {
            swap.store(Value::new(number));
            let seen = swap.reader().load().read();
            assert_ne!(
                seen, 0,
                "`load` after the store of value {number}: seen (left), the \
                 value before (right)"
            );
        };
        let writer = thread::spawn({
            let swap = Arc::clone(&swap);
            move || store(&swap, 1)
        });
        store(&swap, 2);
        drop(swap);
        writer.join().unwrap();
        assert_all_dropped(3);
    });
}
