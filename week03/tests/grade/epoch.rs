use std::thread;

use week03::epoch::Swap;

use crate::common::{Ledger, with_deadline};

/// The number of later stores within which a replaced value is dropped.
const STORES: usize = 3;

mod publishes {
    use super::*;

    #[test]
    fn load_returns_the_initial_value() {
        let swap = Swap::new("first");
        assert_eq!(
            *swap.reader().load(),
            "first",
            "`load` before any store: seen (left), given to `new` (right)"
        );
    }

    #[test]
    fn load_returns_the_last_stored_value() {
        let swap = Swap::new(0);
        let readers: Vec<_> = (0..20).map(|_| swap.reader()).collect();
        for value in 1..=100 {
            swap.clone().store(value);
            for reader in &readers {
                assert_eq!(
                    *reader.load(),
                    value,
                    "`load` after a store to a clone: seen (left), stored \
                     (right)"
                );
            }
        }
    }

    #[test]
    fn load_returns_a_value_stored_by_another_thread() {
        let swap = Swap::new(vec![1]);
        let reader = swap.reader();
        thread::spawn(move || swap.store(vec![2, 3])).join().unwrap();
        assert_eq!(
            *reader.load(),
            [2, 3],
            "`load` after a store on another thread: seen (left), stored \
             (right)"
        );
    }

    #[test]
    fn a_reader_can_load_after_all_swap_handles_are_dropped() {
        let swap = Swap::new(String::from("first"));
        let reader = swap.reader();
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
    fn ten_guards_of_one_reader_keep_ten_different_values() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        let guards: Vec<_> = (0..10)
            .map(|number| {
                let guard = reader.load();
                assert_eq!(
                    guard.number, number,
                    "`load` after {number} stores: number seen (left), \
                     expected (right)"
                );
                swap.store(ledger.value());
                guard
            })
            .collect();
        // This comes first: a dropped value must not be read.
        assert_eq!(
            ledger.drops(),
            [0; 11],
            "drops of ten values with a guard, and of the current one: seen \
             (left), expected (right)"
        );
        for (number, guard) in guards.iter().enumerate() {
            assert_eq!(
                guard.number, number,
                "the value that a guard shows: number seen (left), number when \
                 loaded (right)"
            );
        }
    }

    #[test]
    fn one_store_does_not_drop_a_value_with_a_live_guard() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        let seen = reader.load();
        swap.store(ledger.value());
        assert_eq!(
            ledger.drops()[0],
            0,
            "drops of the value that a guard shows: seen (left), expected \
             (right)"
        );
        assert_eq!(
            seen.number, 0,
            "the value that the guard shows: number seen (left), number when \
             loaded (right)"
        );
    }

    #[test]
    fn store_does_not_wait_for_a_guard() {
        let swap = Swap::new(0);
        let reader = swap.reader();
        let seen = reader.load();
        with_deadline("a store while a guard is held", {
            let swap = swap.clone();
            move || (1..=100).for_each(|value| swap.store(value))
        });
        drop(seen);
    }
}

mod frees {
    use super::*;

    #[test]
    fn an_old_value_without_a_guard_is_dropped_within_three_stores() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        assert_eq!(
            reader.load().number,
            0,
            "`load` before any store: number seen (left), expected (right)"
        );
        for _ in 0..100 {
            swap.store(ledger.value());
            let left = ledger.left();
            assert!(
                left <= STORES + 1,
                "{left} values are not dropped: expected at most {}, the \
                 current one and those replaced by the last {STORES} stores",
                STORES + 1
            );
        }
    }

    #[test]
    fn a_reader_without_a_guard_keeps_no_value() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let (idle, dropped) = (swap.reader(), swap.reader());
        assert_eq!(
            idle.load().number,
            0,
            "`load` before any store: number seen (left), expected (right)"
        );
        drop(dropped);
        for _ in 0..STORES + 1 {
            swap.store(ledger.value());
        }
        assert_eq!(
            ledger.drops()[0],
            1,
            "drops of the first value after {} stores, while a reader has no \
             guard: seen (left), expected (right)",
            STORES + 1
        );
        assert_eq!(
            idle.load().number,
            STORES + 1,
            "`load` after the last store: number seen (left), expected (right)"
        );
    }

    #[test]
    fn random_guards_keep_values_until_as_many_stores_after_them() {
        for readers in [1, 2, 17, 130] {
            compare_with_model(readers);
        }
    }

    #[test]
    fn a_guard_of_one_swap_does_not_delay_drops_in_another() {
        let ledger = Ledger::default();
        let (swap, other) = (Swap::new(ledger.value()), Swap::new(0));
        let reader = other.reader();
        let seen = reader.load();
        for _ in 0..STORES + 1 {
            swap.store(ledger.value());
        }
        assert_eq!(
            ledger.drops()[0],
            1,
            "drops of the first value after {} stores, while a guard of \
             another `Swap` lives: seen (left), expected (right)",
            STORES + 1
        );
        assert_eq!(
            *seen, 0,
            "the value that the other `Swap`'s guard shows: seen (left), \
             expected (right)"
        );
    }

    #[test]
    fn dropping_the_swap_and_its_readers_drops_each_value_once() {
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
        assert!(
            ledger.left() > 0,
            "every value is dropped while a reader is left: expected the \
             current value to be kept"
        );
        drop(first);
        assert_eq!(
            ledger.drops(),
            [1; 3],
            "drops of each value after the last reader was dropped: seen \
             (left), expected (right)"
        );
    }

    /// Loads and stores at random, through several readers and clones. Checks
    /// that a guard's value is kept, and that no old value is kept for longer
    /// than the rules allow.
    fn compare_with_model(readers: usize) {
        let mut seed = readers as u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let clones = [swap.clone(), swap.clone(), swap];
        let mut current = 0;
        for phase in 0..8 {
            let all: Vec<_> =
                (0..readers).map(|_| clones[random(3)].reader()).collect();
            let mut guards = Vec::new();
            for _ in 0..100 {
                match random(8) {
                    0..=2 => {
                        guards.push((current, all[random(readers)].load()))
                    }
                    3..=4 if !guards.is_empty() => {
                        guards.swap_remove(random(guards.len()));
                    }
                    _ => {
                        clones[random(3)].store(ledger.value());
                        current += 1;
                    }
                }
                let drops = ledger.drops();
                for (number, guard) in &guards {
                    // This comes first: a dropped value must not be read.
                    assert_eq!(
                        drops[*number], 0,
                        "drops of a value that a guard shows: seen (left), \
                         expected (right)"
                    );
                    assert_eq!(
                        guard.number, *number,
                        "the value that a guard shows: number seen (left), \
                         number when loaded (right)"
                    );
                }
            }
            drop(guards);
            // In every second phase, the readers remain, without a guard.
            let _idle = (phase % 2 == 0).then_some(all);
            let kept = ledger.left() - 1;
            for stores in 1..=kept + STORES + 5 {
                clones[random(3)].store(ledger.value());
                current += 1;
                let left = ledger.left();
                assert!(
                    stores < kept + STORES || left <= STORES + 1,
                    "{left} values are not dropped by {stores} stores after \
                     the last guard, which left {kept} old values: expected at \
                     most {}, the current one and those replaced by the last \
                     {STORES} stores",
                    STORES + 1
                );
            }
        }
        drop(clones);
        assert!(
            ledger.drops().iter().all(|drops| *drops == 1),
            "drops of each value after the last `Swap` was dropped: seen {:?}, \
             expected one each",
            ledger.drops()
        );
    }
}
