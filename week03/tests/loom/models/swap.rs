//! Models of `swap`: checked for every interleaving, and for every value that a
//! load may return.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::common::{Value, assert_all_dropped, explore, is_dropped};
use crate::swap::{Reader, Swap};

fn reader<T: Send + Sync>(swap: &Swap<T>) -> Reader<T> {
    swap.reader().expect("`reader` returned `None`: expected a free reader")
}

/// Panics unless the last store has dropped the first `values` values.
fn assert_last_store_dropped(values: usize) {
    for number in 0..values {
        assert!(
            is_dropped(number),
            "value {number} is not dropped: expected the last store to drop it"
        );
    }
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
        let readers = thread::spawn({
            let (swap, stored) = (swap.clone(), Arc::clone(&stored));
            move || {
                let mut reader = reader(&swap);
                let earlier = reader.load().read();
                let is_stored = stored.load(Ordering::Acquire);
                if !is_stored {
                    swap.store(Value::new(2));
                }
                let seen = reader.load().read();
                assert!(
                    seen == 1 || seen == 2 && !is_stored,
                    "`load` after the store of value {}: seen {seen}, expected \
                     that value or a later one; the load before saw {earlier}",
                    if is_stored { 1 } else { 2 }
                );
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
fn a_reader_dropped_during_a_store_keeps_no_value() {
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
        swap.store(Value::new(2));
        assert_last_store_dropped(2);
        drop(swap);
        assert_all_dropped(3);
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
        let swap = Swap::new(ReadAtDrop(Value::new(0)), 1);
        let mut reader = reader(&swap);
        let seen = reader.load();
        let writer = thread::spawn({
            let swap = swap.clone();
            move || swap.store(ReadAtDrop(Value::new(1)))
        });
        swap.store(ReadAtDrop(Value::new(2)));
        writer.join().unwrap();
        assert_eq!(
            seen.0.read(),
            0,
            "a guard loaded before the stores: value shown (left), expected \
             (right)"
        );
        drop(seen);
        // The reader may keep its value.
        drop(reader);
        // The two stores may have left nodes. This store has to drop them all.
        swap.store(ReadAtDrop(Value::new(3)));
        let mut reader = self::reader(&swap);
        let last = reader.load().0.read();
        assert_eq!(
            last, 3,
            "`load` after the last store: value seen (left), stored (right)"
        );
        assert_last_store_dropped(3);
        drop((reader, swap));
        assert_all_dropped(4);
    });
}

#[test]
fn concurrent_calls_of_reader_return_readers_up_to_the_limit() {
    for limit in [1, 2] {
        explore(None, move || {
            let swap = Swap::new(Value::new(0), limit);
            let other = thread::spawn({
                let swap = swap.clone();
                move || {
                    let first = swap.reader();
                    (first.is_some(), swap.reader())
                }
            });
            let third = swap.reader();
            let (has_first, second) = other.join().unwrap();
            assert!(
                has_first || limit == 1 && third.is_some(),
                "`reader` returned `None`, while fewer than {limit} readers \
                 exist: expected a reader"
            );
            let rest = std::iter::from_fn(|| swap.reader());
            let all =
                Vec::from_iter(second.into_iter().chain(third).chain(rest));
            assert!(
                all.len() <= limit,
                "{} readers exist after two threads have called `reader`: \
                 expected at most {limit}",
                all.len()
            );
        });
    }
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

/// A value that is read when it is dropped. So a store that drops the value of
/// another store must see all of it.
struct ReadAtDrop(Value);

impl Drop for ReadAtDrop {
    fn drop(&mut self) {
        self.0.read();
    }
}
