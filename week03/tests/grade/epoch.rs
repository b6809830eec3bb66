use std::thread;

use week03::epoch::Swap;

use crate::common::{Ledger, soon};

/// Stores after which what was replaced before them is gone.
const STORES: usize = 3;

mod publishes {
    use super::*;

    #[test]
    fn a_reader_sees_what_it_was_made_with() {
        let swap = Swap::new("first");
        assert_eq!(*swap.reader().load(), "first");
    }

    #[test]
    fn a_reader_sees_the_last_store() {
        let swap = Swap::new(0);
        let readers: Vec<_> = (0..20).map(|_| swap.reader()).collect();
        for value in 1..=100 {
            swap.clone().store(value);
            for reader in &readers {
                assert_eq!(*reader.load(), value, "seen after the store");
            }
        }
    }

    #[test]
    fn a_store_on_another_thread_is_seen() {
        let swap = Swap::new(vec![1]);
        let reader = swap.reader();
        thread::spawn(move || swap.store(vec![2, 3])).join().unwrap();
        assert_eq!(*reader.load(), [2, 3]);
    }

    #[test]
    fn a_reader_outlives_the_last_swap() {
        let swap = Swap::new(String::from("first"));
        let reader = swap.reader();
        swap.store(String::from("last"));
        drop(swap);
        assert_eq!(*reader.load(), "last");
    }
}

mod holds {
    use super::*;

    #[test]
    fn a_reader_may_have_many_guards_each_with_its_value() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        let guards: Vec<_> = (0..10)
            .map(|number| {
                let guard = reader.load();
                assert_eq!(guard.number, number, "seen after the store");
                swap.store(ledger.value());
                guard
            })
            .collect();
        // First: what has been dropped must not be looked at.
        assert_eq!(ledger.drops(), [0; 11], "drops of what guards show");
        for (number, guard) in guards.iter().enumerate() {
            assert_eq!(guard.number, number);
        }
    }

    #[test]
    fn one_store_does_not_drop_what_a_guard_shows() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        let seen = reader.load();
        swap.store(ledger.value());
        assert_eq!(ledger.drops()[0], 0, "drops of what the guard shows");
        assert_eq!(seen.number, 0);
    }

    #[test]
    fn what_a_guard_shows_is_not_dropped() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        let seen = reader.load();
        for _ in 0..10 * STORES {
            swap.store(ledger.value());
            assert_eq!(ledger.drops()[0], 0, "drops of what the guard shows");
        }
        assert_eq!(seen.number, 0);
    }

    #[test]
    fn the_last_guard_counts_not_the_first_to_go() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        let (first, second) = (reader.load(), reader.load());
        drop(first);
        for _ in 0..10 * STORES {
            swap.store(ledger.value());
            assert_eq!(ledger.drops()[0], 0, "drops of what the other shows");
        }
        assert_eq!(second.number, 0);
    }

    #[test]
    fn a_store_does_not_wait_for_a_guard() {
        let swap = Swap::new(0);
        let reader = swap.reader();
        let seen = reader.load();
        soon("a store while a guard is held", {
            let swap = swap.clone();
            move || (1..=100).for_each(|value| swap.store(value))
        });
        drop(seen);
    }
}

mod frees {
    use super::*;

    #[test]
    fn what_nobody_looks_at_is_dropped_within_three_stores() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        assert_eq!(reader.load().number, 0);
        for _ in 0..100 {
            swap.store(ledger.value());
            let left = ledger.left();
            assert!(left <= STORES + 1, "{left} values are left");
        }
    }

    #[test]
    fn a_reader_without_a_guard_keeps_nothing() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let (idle, gone) = (swap.reader(), swap.reader());
        assert_eq!(idle.load().number, 0);
        drop(gone);
        for _ in 0..STORES + 1 {
            swap.store(ledger.value());
        }
        assert_eq!(ledger.drops()[0], 1, "drops of what was replaced first");
        assert_eq!(idle.load().number, STORES + 1);
    }

    #[test]
    fn what_a_guard_has_kept_is_dropped_by_as_many_stores() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        let seen = reader.load();
        for _ in 0..50 {
            swap.store(ledger.value());
        }
        drop(seen);
        for _ in 0..50 {
            swap.store(ledger.value());
        }
        let left = ledger.left();
        assert!(left <= STORES + 1, "{left} values are left");
    }

    #[test]
    fn one_value_does_not_keep_another() {
        let ledger = Ledger::default();
        let (swap, other) = (Swap::new(ledger.value()), Swap::new(0));
        let reader = other.reader();
        let seen = reader.load();
        for _ in 0..STORES + 1 {
            swap.store(ledger.value());
        }
        assert_eq!(ledger.drops()[0], 1, "a guard of another `Swap` is held");
        assert_eq!(*seen, 0);
    }

    #[test]
    fn in_the_end_each_value_has_been_dropped_once() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let readers = [swap.reader(), swap.reader()];
        let guards = readers.each_ref().map(|reader| {
            let guard = reader.load();
            swap.store(ledger.value());
            guard
        });
        drop(guards);
        let [first, second] = readers;
        drop((second, swap));
        assert!(ledger.left() > 0, "a reader is left, and what is current");
        drop(first);
        assert_eq!(ledger.drops(), [1; 3], "drops of each value");
    }
}
