//! What holds for every interleaving, and every value that a load can return.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::common::{Value, all_are_dropped, explore, is_dropped};
use crate::swap::{Reader, Swap};

fn reader(swap: &Swap<Value>) -> Reader<Value> {
    swap.reader().expect("not all are taken")
}

#[test]
fn a_value_is_not_dropped_while_it_is_read() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0), 1);
        let mut reader = reader(&swap);
        let readers = thread::spawn(move || {
            let first = reader.load().read();
            let second = reader.load().read();
            assert!(first <= second, "value {second} is read after {first}");
        });
        swap.store(Value::new(1));
        swap.store(Value::new(2));
        readers.join().unwrap();
        drop(swap);
        all_are_dropped(3);
    });
}

#[test]
fn whoever_has_heard_of_a_store_sees_it() {
    explore(None, || {
        let swap = Swap::new(Value::new(0), 1);
        let heard = Arc::new(AtomicBool::new(false));
        let mut reader = reader(&swap);
        let readers = thread::spawn({
            let heard = Arc::clone(&heard);
            move || {
                let earlier = reader.load().read();
                if heard.load(Ordering::Acquire) {
                    let seen = reader.load().read();
                    assert_eq!(
                        seen, 1,
                        "seen after the store, before {earlier}"
                    );
                }
            }
        });
        swap.store(Value::new(1));
        heard.store(true, Ordering::Release);
        readers.join().unwrap();
    });
}

#[test]
fn a_value_is_whole_when_it_is_seen() {
    explore(None, || {
        let swap = Swap::new(Value::new(0), 2);
        let (mut keeper, mut reader) = (reader(&swap), reader(&swap));
        // Nothing is dropped here: what is seen may still be half made.
        let kept = keeper.load();
        let readers = thread::spawn(move || {
            reader.load().read();
        });
        swap.store(Value::new(1));
        readers.join().unwrap();
        assert_eq!(kept.read(), 0);
    });
}

#[test]
fn a_guard_may_end_while_a_store_looks() {
    explore(None, || {
        let swap = Swap::new(Value::new(0), 1);
        let writer = swap.clone();
        let mut reader = reader(&swap);
        let seen = reader.load();
        let writer = thread::spawn(move || writer.store(Value::new(1)));
        assert_eq!(seen.read(), 0);
        drop(seen);
        writer.join().unwrap();
        drop((reader, swap));
        all_are_dropped(2);
    });
}

#[test]
fn a_reader_that_takes_over_a_slot_is_as_safe() {
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
        all_are_dropped(2);
    });
}

#[test]
fn two_readers_do_not_hide_each_other() {
    explore(Some(2), || {
        let swap = Swap::new(Value::new(0), 2);
        let mut mine = reader(&swap);
        let mut theirs = reader(&swap);
        let reader = thread::spawn(move || {
            theirs.load().read();
        });
        let writer = thread::spawn({
            let swap = swap.clone();
            move || swap.store(Value::new(1))
        });
        mine.load().read();
        reader.join().unwrap();
        writer.join().unwrap();
        drop((mine, swap));
        all_are_dropped(2);
    });
}

#[test]
fn two_writers_drop_each_value_once() {
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
        assert_eq!(seen.read(), 0);
        drop(seen);
        // Two that are left behind meet a store that clears up.
        swap.store(Value::new(3));
        let last = reader.load().read();
        assert_eq!(last, 3);
        for number in 0..3 {
            assert!(is_dropped(number), "value {number} is kept for nobody");
        }
        drop((reader, swap));
        all_are_dropped(4);
    });
}

#[test]
fn a_slot_is_not_given_to_two_readers() {
    explore(None, || {
        let swap = Swap::new(Value::new(0), 1);
        let other = thread::spawn({
            let swap = swap.clone();
            move || swap.reader()
        });
        let mine = swap.reader();
        let theirs = other.join().unwrap();
        let given = usize::from(mine.is_some()) + usize::from(theirs.is_some());
        assert_eq!(given, 1, "readers of a `Swap` that has one");
    });
}

#[test]
fn what_one_writer_leaves_another_may_drop() {
    explore(Some(2), || {
        let swap = Swap::new(Value::new(0), 2);
        let mut first = reader(&swap);
        let mut second = reader(&swap);
        let both = thread::spawn({
            let swap = swap.clone();
            move || {
                let seen = first.load();
                swap.store(Value::new(1)); // leaves what is seen
                seen.read();
            }
        });
        let reader = thread::spawn(move || {
            second.load().read();
        });
        swap.store(Value::new(2));
        both.join().unwrap();
        reader.join().unwrap();
        drop(swap);
        all_are_dropped(3);
    });
}

#[test]
fn what_two_writers_leave_at_once_a_third_may_take() {
    explore(Some(3), || {
        let swap = Swap::new(Value::new(0), 2);
        let (mut first, mut second) = (reader(&swap), reader(&swap));
        let older = first.load();
        swap.store(Value::new(1));
        let newer = second.load();
        // Each of the two has one of them to leave.
        let writers = [2, 3].map(|number| {
            let swap = swap.clone();
            thread::spawn(move || swap.store(Value::new(number)))
        });
        swap.store(Value::new(4));
        assert_eq!((older.read(), newer.read()), (0, 1));
        for writer in writers {
            writer.join().unwrap();
        }
        drop((older, newer));
        drop((first, second, swap));
        all_are_dropped(5);
    });
}
