//! Models of `swap`: checked for every interleaving, and for every value that a
//! load may return.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::common::{Value, assert_all_dropped, explore, is_dropped};
use crate::swap::{Reader, Swap};

fn reader(swap: &Swap<Value>) -> Reader<Value> {
    swap.reader().expect("`reader` returned `None`: expected a free reader")
}

#[test]
fn a_value_is_not_dropped_while_it_is_read() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0), 1);
        let mut reader = reader(&swap);
        let readers = thread::spawn(move || {
            let first = reader.load().read();
            let second = reader.load().read();
            assert!(
                first <= second,
                "a reader loaded value {first}, and then the older value \
                 {second}"
            );
        });
        swap.store(Value::new(1));
        swap.store(Value::new(2));
        readers.join().unwrap();
        drop(swap);
        assert_all_dropped(3);
    });
}

#[test]
fn a_load_after_a_store_returns_the_stored_value() {
    explore(None, || {
        let swap = Swap::new(Value::new(0), 1);
        let stored = Arc::new(AtomicBool::new(false));
        let mut reader = reader(&swap);
        let readers = thread::spawn({
            let stored = Arc::clone(&stored);
            move || {
                let earlier = reader.load().read();
                if stored.load(Ordering::Acquire) {
                    let seen = reader.load().read();
                    assert_eq!(
                        seen, 1,
                        "`load` after the store of value 1: seen (left), \
                         expected (right); the load before saw {earlier}"
                    );
                }
            }
        });
        swap.store(Value::new(1));
        stored.store(true, Ordering::Release);
        readers.join().unwrap();
    });
}

#[test]
fn load_returns_only_fully_written_values() {
    explore(None, || {
        let swap = Swap::new(Value::new(0), 2);
        let (mut keeper, mut reader) = (reader(&swap), reader(&swap));
        // This guard keeps value 0, so the store drops nothing. A reader must
        // still not see a value that is not fully written.
        let kept = keeper.load();
        let readers = thread::spawn(move || {
            reader.load().read();
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
fn dropping_a_guard_and_its_reader_during_a_store_is_safe() {
    explore(None, || {
        let swap = Swap::new(Value::new(0), 1);
        let writer = swap.clone();
        let mut reader = reader(&swap);
        let seen = reader.load();
        let writer = thread::spawn(move || writer.store(Value::new(1)));
        assert_eq!(
            seen.read(),
            0,
            "a guard loaded before the store: value shown (left), expected \
             (right)"
        );
        drop(seen);
        drop(reader);
        writer.join().unwrap();
        drop(swap);
        assert_all_dropped(2);
    });
}

#[test]
fn a_reader_that_reuses_a_slot_protects_its_value() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0), 1);
        let mut first = reader(&swap);
        let writer = thread::spawn({
            let swap = swap.clone();
            move || swap.store(Value::new(1))
        });
        let second = thread::spawn({
            let swap = swap.clone();
            move || {
                let mut reader = swap.reader()?;
                Some(reader.load().read())
            }
        });
        first.load().read();
        drop(first);
        writer.join().unwrap();
        second.join().unwrap();
        drop(swap);
        assert_all_dropped(2);
    });
}

#[test]
fn two_readers_of_one_value_both_protect_it() {
    explore(Some(2), || {
        let swap = Swap::new(Value::new(0), 2);
        let mut first = reader(&swap);
        let mut second = reader(&swap);
        let reader = thread::spawn(move || {
            second.load().read();
        });
        let writer = thread::spawn({
            let swap = swap.clone();
            move || swap.store(Value::new(1))
        });
        first.load().read();
        reader.join().unwrap();
        writer.join().unwrap();
        drop((first, swap));
        assert_all_dropped(2);
    });
}

#[test]
fn concurrent_stores_drop_each_value_once() {
    explore(None, || {
        let swap = Swap::new(Value::new(0), 1);
        let mut reader = reader(&swap);
        let seen = reader.load();
        let writer = thread::spawn({
            let swap = swap.clone();
            move || swap.store(Value::new(1))
        });
        swap.store(Value::new(2));
        writer.join().unwrap();
        assert_eq!(
            seen.read(),
            0,
            "a guard loaded before the stores: value shown (left), expected \
             (right)"
        );
        drop(seen);
        // The reader may keep its value.
        drop(reader);
        // The two stores may have left nodes. This store has to drop them all.
        swap.store(Value::new(3));
        let mut reader = self::reader(&swap);
        let last = reader.load().read();
        assert_eq!(
            last, 3,
            "`load` after the last store: value seen (left), stored (right)"
        );
        for number in 0..3 {
            assert!(
                is_dropped(number),
                "value {number} is not dropped: expected the last store to \
                 drop it, since its reader was dropped"
            );
        }
        drop((reader, swap));
        assert_all_dropped(4);
    });
}

#[test]
fn two_threads_never_share_one_reader_slot() {
    explore(None, || {
        let swap = Swap::new(Value::new(0), 1);
        let other = thread::spawn({
            let swap = swap.clone();
            move || swap.reader()
        });
        let first = swap.reader();
        let second = other.join().unwrap();
        let given =
            usize::from(first.is_some()) + usize::from(second.is_some());
        assert_eq!(
            given, 1,
            "two threads call `reader` on a `Swap` for one reader: readers \
             returned (left), expected (right)"
        );
    });
}

#[test]
fn a_value_retired_by_another_thread_is_dropped_safely() {
    explore(Some(2), || {
        let swap = Swap::new(Value::new(0), 2);
        let mut first = reader(&swap);
        let mut second = reader(&swap);
        let reader_and_writer = thread::spawn({
            let swap = swap.clone();
            move || {
                let seen = first.load();
                swap.store(Value::new(1)); // leaves the value that `seen` shows
                seen.read();
            }
        });
        let reader = thread::spawn(move || {
            second.load().read();
        });
        swap.store(Value::new(2));
        reader_and_writer.join().unwrap();
        reader.join().unwrap();
        drop(swap);
        assert_all_dropped(3);
    });
}

#[test]
fn values_retired_by_concurrent_stores_are_dropped_once() {
    explore(Some(4), || {
        let swap = Swap::new(Value::new(0), 2);
        let (mut first, mut second) = (reader(&swap), reader(&swap));
        let older = first.load();
        swap.store(Value::new(1));
        let newer = second.load();
        // Each of the two stores may have to leave one of the two values.
        let writers = [2, 3].map(|number| {
            let swap = swap.clone();
            thread::spawn(move || swap.store(Value::new(number)))
        });
        swap.store(Value::new(4));
        assert_eq!(
            (older.read(), newer.read()),
            (0, 1),
            "values that the two guards show: seen (left), expected (right)"
        );
        for writer in writers {
            writer.join().unwrap();
        }
        drop((older, newer));
        drop((first, second, swap));
        assert_all_dropped(5);
    });
}
