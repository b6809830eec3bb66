use std::thread;

use week03::swap::{Reader, Swap};

use crate::common::{Ledger, with_deadline};

fn reader<T: Send + Sync>(swap: &Swap<T>) -> Reader<T> {
    swap.reader().expect("`reader` returned `None`: expected a free reader")
}

mod publishes {
    use super::*;

    #[test]
    fn load_returns_the_initial_value() {
        let swap = Swap::new("first", 1);
        assert_eq!(
            *reader(&swap).load(),
            "first",
            "`load` before any store: seen (left), given to `new` (right)"
        );
    }

    #[test]
    fn load_returns_the_last_stored_value() {
        let swap = Swap::new(0, 2);
        let mut readers = [reader(&swap), reader(&swap)];
        for value in 1..=100 {
            swap.store(value);
            for reader in &mut readers {
                assert_eq!(
                    *reader.load(),
                    value,
                    "`load` after a store: seen (left), stored (right)"
                );
            }
        }
    }

    #[test]
    fn clones_of_a_swap_share_one_value() {
        let swap = Swap::new("first", 1);
        let mut reader = reader(&swap);
        swap.clone().store("second");
        assert_eq!(
            *reader.load(),
            "second",
            "`load` after a store to a clone: seen (left), stored (right)"
        );
        swap.store("third");
        assert_eq!(
            *reader.load(),
            "third",
            "`load` after a store to the original: seen (left), stored (right)"
        );
    }

    #[test]
    fn load_returns_a_value_stored_by_another_thread() {
        let swap = Swap::new(vec![1], 1);
        let mut reader = reader(&swap);
        thread::spawn(move || swap.store(vec![2, 3])).join().unwrap();
        let seen = thread::spawn(move || reader.load().clone());
        assert_eq!(
            seen.join().unwrap(),
            [2, 3],
            "`load` on a third thread: seen (left), stored by another thread \
             (right)"
        );
    }

    #[test]
    fn a_swap_for_three_readers_gives_out_exactly_three_readers() {
        let swap = Swap::new((), 3);
        let readers: Vec<_> = (0..4).map(|_| swap.reader()).collect();
        let given = readers.iter().flatten().count();
        assert_eq!(
            given, 3,
            "four `reader` calls on a `Swap` for three readers: readers \
             returned (left), expected (right)"
        );
    }

    #[test]
    fn a_dropped_reader_makes_room_for_another() {
        let swap = Swap::new("value", 2);
        let _other = reader(&swap);
        for _ in 0..10 {
            let mut reader = reader(&swap);
            assert_eq!(
                *reader.load(),
                "value",
                "`load` by a new reader: seen (left), stored (right)"
            );
        }
    }

    #[test]
    fn a_reader_can_load_after_all_swap_handles_are_dropped() {
        let swap = Swap::new(String::from("first"), 1);
        let mut reader = reader(&swap);
        swap.store(String::from("last"));
        drop(swap);
        assert_eq!(
            *reader.load(),
            "last",
            "`load` after the last `Swap` is dropped: seen (left), stored \
             last (right)"
        );
    }
}

mod protects {
    use super::*;

    #[test]
    fn a_guard_keeps_its_value_after_later_stores() {
        let swap = Swap::new(String::from("first"), 2);
        let (mut old, mut new) = (reader(&swap), reader(&swap));
        let first = old.load();
        for n in 0..100 {
            swap.store(format!("number {n}"));
        }
        assert_eq!(
            *first, "first",
            "a guard loaded before 100 stores: shows now (left), showed when \
             loaded (right)"
        );
        assert_eq!(
            *new.load(),
            "number 99",
            "`load` by another reader: seen (left), stored last (right)"
        );
    }

    #[test]
    fn store_does_not_wait_for_a_guard() {
        let swap = Swap::new(0, 1);
        let mut reader = reader(&swap);
        let seen = reader.load();
        with_deadline("a store while a guard is held", {
            let swap = swap.clone();
            move || (1..=3).for_each(|value| swap.store(value))
        });
        assert_eq!(
            *seen, 0,
            "a guard loaded before three stores: shows now (left), showed when \
             loaded (right)"
        );
    }

    #[test]
    fn load_does_not_wait_for_a_guard() {
        let swap = Swap::new(0, 2);
        let (mut first, mut second) = (reader(&swap), reader(&swap));
        let seen = first.load();
        swap.store(1);
        let other = with_deadline("a load while a guard is held", move || {
            *second.load()
        });
        assert_eq!(
            (*seen, other),
            (0, 1),
            "shown by a guard from before the store, and by one from after it: \
             seen (left), expected (right)"
        );
    }

    #[test]
    fn a_value_with_a_live_guard_is_not_dropped() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 1);
        let mut reader = reader(&swap);
        let seen = reader.load();
        for _ in 0..3 {
            swap.store(ledger.value());
            assert_eq!(
                ledger.drops()[0],
                0,
                "drops of the value that a guard shows: seen (left), expected \
                 (right)"
            );
        }
        assert_eq!(
            seen.number, 0,
            "the value that the guard shows: number seen (left), number when \
             loaded (right)"
        );
    }

    #[test]
    fn three_guards_keep_three_different_values() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 3);
        let mut readers = [reader(&swap), reader(&swap), reader(&swap)];
        let guards = readers.each_mut().map(|reader| {
            let guard = reader.load();
            swap.store(ledger.value());
            guard
        });
        swap.store(ledger.value());
        assert_eq!(
            guards.map(|guard| guard.number),
            [0, 1, 2],
            "numbers of the values that three guards show: seen (left), when \
             loaded (right)"
        );
    }

    #[test]
    fn a_value_is_kept_until_its_last_guard_is_dropped() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 2);
        let (mut a, mut b) = (reader(&swap), reader(&swap));
        let (first, second) = (a.load(), b.load());
        swap.store(ledger.value());
        drop(first);
        swap.store(ledger.value());
        assert_eq!(
            ledger.drops()[0],
            0,
            "drops of a value with two guards, of which one is dropped: seen \
             (left), expected (right)"
        );
        assert_eq!(
            second.number, 0,
            "the value that the second guard shows: number seen (left), number \
             when loaded (right)"
        );
    }
}

mod frees {
    use super::*;

    #[test]
    fn store_drops_the_old_value_if_it_has_no_guard() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 2);
        let mut reader = reader(&swap);
        assert_eq!(
            reader.load().number,
            0,
            "`load` before any store: number seen (left), expected (right)"
        );
        for stores in 1..=3 {
            swap.store(ledger.value());
            assert_eq!(
                ledger.left(),
                1,
                "values not dropped after {stores} stores, without a guard: \
                 seen (left), expected (right)"
            );
        }
    }

    #[test]
    fn the_next_store_drops_a_value_whose_guard_is_dropped() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 1);
        let mut reader = reader(&swap);
        let seen = reader.load();
        swap.store(ledger.value());
        drop(seen);
        swap.store(ledger.value());
        assert_eq!(
            ledger.drops(),
            [1, 1, 0],
            "drops of the three values after the guard was dropped and the \
             third was stored: seen (left), expected (right)"
        );
    }

    #[test]
    fn a_reader_that_loads_repeatedly_keeps_at_most_one_old_value() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 1);
        let mut reader = reader(&swap);
        for number in 0..3 {
            let seen = reader.load();
            assert_eq!(
                seen.number, number,
                "`load` after {number} stores: number seen (left), expected \
                 (right)"
            );
            swap.store(ledger.value());
        }
        let left = ledger.left();
        assert!(
            left <= 2,
            "{left} values are not dropped: expected at most 2, the current \
             one and the one that the reader loaded last"
        );
    }

    #[test]
    fn a_dropped_reader_keeps_no_value() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 2);
        for _ in 0..3 {
            let mut reader = reader(&swap);
            assert_eq!(
                reader.load().ledger.left(),
                1,
                "values not dropped while a new reader has a guard: seen \
                 (left), expected (right)"
            );
            drop(reader);
            swap.store(ledger.value());
        }
        assert_eq!(
            ledger.left(),
            1,
            "values not dropped after all readers were dropped: seen (left), \
             expected (right)"
        );
    }

    #[test]
    fn three_guards_keep_at_most_three_old_values() {
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
            assert!(
                left <= 4,
                "{left} values are not dropped: expected at most 4, the \
                 current one and one for each of three guards"
            );
        }
        drop(guards);
        swap.store(ledger.value());
        assert_eq!(
            ledger.left(),
            1,
            "values not dropped by a store after all guards were dropped: seen \
             (left), expected (right)"
        );
    }

    #[test]
    fn dropping_the_swap_and_its_readers_drops_each_value_once() {
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
        assert!(
            ledger.left() > 0,
            "every value is dropped while a reader is left: expected the \
             current value to be kept"
        );
        drop(first);
        assert_eq!(
            ledger.drops(),
            [1; 4],
            "drops of each value after the last reader was dropped: seen \
             (left), expected (right)"
        );
    }
}
