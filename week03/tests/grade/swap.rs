use std::thread;

use week03::swap::{Reader, Swap};

use crate::common::{Ledger, soon};

fn reader<T: Send + Sync>(swap: &Swap<T>) -> Reader<T> {
    swap.reader().expect("not all readers are taken")
}

mod publishes {
    use super::*;

    #[test]
    fn a_reader_sees_what_it_was_made_with() {
        let swap = Swap::new("first", 1);
        assert_eq!(*reader(&swap).load(), "first");
    }

    #[test]
    fn a_reader_sees_the_last_store() {
        let swap = Swap::new(0, 2);
        let mut readers = [reader(&swap), reader(&swap)];
        for value in 1..=100 {
            swap.store(value);
            for reader in &mut readers {
                assert_eq!(*reader.load(), value, "seen after the store");
            }
        }
    }

    #[test]
    fn a_clone_stores_into_the_same() {
        let swap = Swap::new("first", 1);
        let mut reader = reader(&swap);
        swap.clone().store("second");
        assert_eq!(*reader.load(), "second");
        swap.store("third");
        assert_eq!(*reader.load(), "third");
    }

    #[test]
    fn a_store_on_another_thread_is_seen() {
        let swap = Swap::new(vec![1], 1);
        let mut reader = reader(&swap);
        thread::spawn(move || swap.store(vec![2, 3])).join().unwrap();
        let seen = thread::spawn(move || reader.load().clone());
        assert_eq!(seen.join().unwrap(), [2, 3]);
    }

    #[test]
    fn there_are_as_many_readers_as_were_asked_for() {
        let swap = Swap::new((), 3);
        let readers: Vec<_> = (0..4).map(|_| swap.reader()).collect();
        let given = readers.iter().flatten().count();
        assert_eq!(given, 3, "readers at a time, of a `Swap` for three");
    }

    #[test]
    fn a_reader_that_is_dropped_makes_room_for_another() {
        let swap = Swap::new("value", 2);
        let _other = reader(&swap);
        for _ in 0..10 {
            let mut reader = reader(&swap);
            assert_eq!(*reader.load(), "value");
        }
    }

    #[test]
    fn a_reader_outlives_the_last_swap() {
        let swap = Swap::new(String::from("first"), 1);
        let mut reader = reader(&swap);
        swap.store(String::from("last"));
        drop(swap);
        assert_eq!(*reader.load(), "last");
    }
}

mod holds {
    use super::*;

    #[test]
    fn a_guard_shows_what_was_current_when_it_was_loaded() {
        let swap = Swap::new(String::from("first"), 2);
        let (mut old, mut new) = (reader(&swap), reader(&swap));
        let first = old.load();
        for n in 0..100 {
            swap.store(format!("number {n}"));
        }
        assert_eq!(*first, "first", "the guard is from before the stores");
        assert_eq!(*new.load(), "number 99");
    }

    #[test]
    fn a_store_does_not_wait_for_a_guard() {
        let swap = Swap::new(0, 1);
        let mut reader = reader(&swap);
        let seen = reader.load();
        soon("a store while a guard is held", {
            let swap = swap.clone();
            move || (1..=3).for_each(|value| swap.store(value))
        });
        assert_eq!(*seen, 0);
    }

    #[test]
    fn a_load_does_not_wait_for_a_guard() {
        let swap = Swap::new(0, 2);
        let (mut mine, mut theirs) = (reader(&swap), reader(&swap));
        let seen = mine.load();
        swap.store(1);
        let other =
            soon("a load while a guard is held", move || *theirs.load());
        assert_eq!((*seen, other), (0, 1));
    }

    #[test]
    fn what_a_guard_shows_is_not_dropped() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 1);
        let mut reader = reader(&swap);
        let seen = reader.load();
        for _ in 0..3 {
            swap.store(ledger.value());
            assert_eq!(ledger.drops()[0], 0, "drops of what the guard shows");
        }
        assert_eq!(seen.number, 0);
    }

    #[test]
    fn each_reader_keeps_its_own_value() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 3);
        let mut readers = [reader(&swap), reader(&swap), reader(&swap)];
        let guards = readers.each_mut().map(|reader| {
            let guard = reader.load();
            swap.store(ledger.value());
            guard
        });
        swap.store(ledger.value());
        assert_eq!(guards.map(|guard| guard.number), [0, 1, 2]);
    }

    #[test]
    fn two_readers_keep_one_value() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 2);
        let (mut one, mut other) = (reader(&swap), reader(&swap));
        let (first, second) = (one.load(), other.load());
        swap.store(ledger.value());
        drop(first);
        swap.store(ledger.value());
        assert_eq!(ledger.drops()[0], 0, "drops of what one guard still shows");
        assert_eq!(second.number, 0);
    }
}

mod frees {
    use super::*;

    #[test]
    fn what_nobody_looks_at_is_dropped_by_the_store() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 2);
        let mut reader = reader(&swap);
        assert_eq!(reader.load().number, 0);
        for stores in 1..=3 {
            swap.store(ledger.value());
            assert_eq!(ledger.left(), 1, "values left after {stores} stores");
        }
    }

    #[test]
    fn what_a_guard_has_kept_is_dropped_by_the_next_store() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 1);
        let mut reader = reader(&swap);
        let seen = reader.load();
        swap.store(ledger.value());
        drop(seen);
        swap.store(ledger.value());
        assert_eq!(ledger.drops(), [1, 1, 0], "drops of each value");
    }

    #[test]
    fn a_reader_that_loads_again_lets_the_last_value_go() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 1);
        let mut reader = reader(&swap);
        for number in 0..3 {
            let seen = reader.load();
            assert_eq!(seen.number, number);
            swap.store(ledger.value());
        }
        let left = ledger.left();
        assert!(left <= 2, "{left} values are left: one was seen last");
    }

    #[test]
    fn readers_that_are_gone_keep_nothing() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 2);
        for _ in 0..3 {
            let mut reader = reader(&swap);
            assert_eq!(reader.load().ledger.left(), 1);
            drop(reader);
            swap.store(ledger.value());
        }
        assert_eq!(ledger.left(), 1, "values left");
    }

    #[test]
    fn guards_keep_a_value_each_however_many_are_stored() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 3);
        let mut readers = [reader(&swap), reader(&swap), reader(&swap)];
        let guards = readers.each_mut().map(|reader| {
            let guard = reader.load();
            swap.store(ledger.value());
            guard
        });
        for _ in 0..1000 {
            swap.store(ledger.value());
            let left = ledger.left();
            assert!(left <= 4, "{left} values are left, with three guards");
        }
        drop(guards);
        swap.store(ledger.value());
        assert_eq!(ledger.left(), 1, "values left when the guards are gone");
    }

    #[test]
    fn in_the_end_each_value_has_been_dropped_once() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 3);
        let mut readers = [reader(&swap), reader(&swap), reader(&swap)];
        let guards = readers.each_mut().map(|reader| {
            let guard = reader.load();
            swap.store(ledger.value());
            guard
        });
        drop(guards);
        let [first, second, third] = readers;
        drop((second, swap, third));
        assert!(ledger.left() > 0, "a reader is left, and what is current");
        drop(first);
        assert_eq!(ledger.drops(), [1; 4], "drops of each value");
    }
}
