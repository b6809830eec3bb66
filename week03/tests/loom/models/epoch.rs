//! What holds for every interleaving, every value that a load can return, and
//! whatever is dropped as early as a collector may.

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
                assert!(first <= second, "value {second} after {first}");
            }
        });
        swap.store(Value::new(1));
        swap.store(Value::new(2));
        readers.join().unwrap();
        drop(swap);
        assert_all_dropped(3);
    });
}

#[test]
fn a_value_is_whole_when_it_is_seen() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0));
        let keeper = swap.reader();
        // Nothing is dropped here: what is seen may still be half made.
        let kept = keeper.load();
        let readers = thread::spawn({
            let swap = swap.clone();
            move || {
                swap.reader().load().read();
            }
        });
        swap.store(Value::new(1));
        readers.join().unwrap();
        assert_eq!(kept.read(), 0);
    });
}

#[test]
fn whoever_has_heard_of_a_store_sees_it() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0));
        let heard = Arc::new(AtomicBool::new(false));
        let readers = thread::spawn({
            let (swap, heard) = (swap.clone(), Arc::clone(&heard));
            move || {
                let reader = swap.reader();
                let earlier = reader.load();
                if heard.load(Ordering::Acquire) {
                    let seen = reader.load().read();
                    assert_eq!(seen, 1, "seen after the store");
                }
                earlier.read();
            }
        });
        swap.store(Value::new(1));
        heard.store(true, Ordering::Release);
        readers.join().unwrap();
    });
}

#[test]
fn a_guard_that_is_left_keeps_its_value() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0));
        let reader = swap.reader();
        let (first, second) = (reader.load(), reader.load());
        let writer = thread::spawn({
            let swap = swap.clone();
            move || swap.store(Value::new(1))
        });
        assert_eq!(first.read(), 0);
        drop(first);
        assert_eq!(second.read(), 0);
        assert!(!is_dropped(0), "a guard still shows it");
        drop(second);
        writer.join().unwrap();
        drop((reader, swap));
        assert_all_dropped(2);
    });
}

#[test]
fn two_writers_drop_each_value_once() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0));
        let writers = [1, 2].map(|number| {
            let swap = swap.clone();
            thread::spawn(move || swap.store(Value::new(number)))
        });
        let reader = swap.reader();
        reader.load().read();
        for writer in writers {
            writer.join().unwrap();
        }
        drop((reader, swap));
        assert_all_dropped(3);
    });
}
