use std::sync::mpsc;
use std::thread;

use week03::epoch::{Guard, Reader, Swap};

use crate::common::{
    Hooked, Ledger, NotSend as _, Probe, Value, with_deadline,
};

/// The number of later stores within which a replaced value is dropped, if there
/// are no guards.
const STORES: usize = 3;

/// Panics unless each guard shows the value with its number.
fn check_guards(guards: &[(usize, Guard<'_, Value>)], ledger: &Ledger) {
    let drops = ledger.drops();
    for (number, guard) in guards {
        // This comes first: a dropped value must not be read.
        assert_eq!(
            drops[*number], 0,
            "drops of a value that a guard shows: seen (left), expected (right)"
        );
        assert_eq!(
            guard.number, *number,
            "the value that a guard shows: number seen (left), number when \
             loaded (right)"
        );
    }
}

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
    fn each_guard_of_one_reader_keeps_its_own_value() {
        with_deadline("stores, and the drop of a `Swap`, with guards", || {
            let ledger = Ledger::default();
            let swap = Swap::new(ledger.value());
            let reader = swap.reader();
            let guards = Vec::from_iter((0..1_500).map(|number| {
                let guard = reader.load();
                swap.store(ledger.value());
                (number, guard)
            }));
            drop(swap);
            check_guards(&guards, &ledger);
        });
    }

    #[test]
    fn one_store_does_not_drop_a_value_with_a_live_guard() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let reader = swap.reader();
        let guard = reader.load();
        swap.store(ledger.value());
        check_guards(&[(0, guard)], &ledger);
    }

    #[test]
    fn store_does_not_wait_for_a_guard() {
        let swap = Swap::new(0);
        let reader = swap.reader();
        let seen = reader.load();
        with_deadline("10,000 stores while a guard is held", {
            let swap = swap.clone();
            move || (1..=10_000).for_each(|value| swap.store(value))
        });
        drop(seen);
    }

    #[test]
    fn readers_and_guards_stay_in_their_thread() {
        drop(Swap::new(1).reader().load()); // the stub fails here
        let is_send = [
            Probe::<Guard<'_, u8>>::IS_SEND,
            Probe::<&Guard<'_, u8>>::IS_SEND,
            Probe::<Reader<u8>>::IS_SEND,
            Probe::<&Reader<u8>>::IS_SEND,
            Probe::<Swap<u8>>::IS_SEND,
            Probe::<&Swap<u8>>::IS_SEND,
        ];
        assert_eq!(
            is_send,
            [false, false, false, false, true, true],
            "whether `Guard`, `&Guard`, `Reader`, `&Reader`, `Swap` and \
             `&Swap` are `Send`: seen (left), expected (right)"
        );
    }
}

mod frees {
    use super::*;

    #[test]
    fn short_guards_that_overlap_do_not_keep_old_values() {
        for life in [0, 1, 2, 17, 130] {
            let ledger = Ledger::default();
            let swap = Swap::new(ledger.value());
            let readers = [swap.reader(), swap.reader()];
            // If `life` is not 0, there is always one guard, and it is dropped
            // after the next one is loaded.
            let mut guard = None;
            for stores in 0..10 * (life + STORES) {
                if stores % life.max(1) == 0 {
                    let next = readers[stores / life.max(1) % 2].load();
                    guard = Some(next).filter(|_| life > 0);
                }
                swap.store(ledger.value());
                let (left, limit) = (ledger.left(), 3 * life + STORES + 1);
                assert!(
                    left <= limit,
                    "{left} values are not dropped while guards live for \
                     {life} stores: expected at most {limit}, the current one \
                     and those replaced by the last {} stores",
                    limit - 1
                );
            }
            drop(guard);
        }
    }

    #[test]
    fn a_reader_without_a_guard_keeps_no_value() {
        for dropped in [0, 1, 17, 130, 1_500] {
            let ledger = Ledger::default();
            let swap = Swap::new(ledger.value());
            let mut readers =
                Vec::from_iter((0..=dropped).map(|_| swap.reader()));
            readers.iter().for_each(|reader| drop(reader.load()));
            readers.truncate(1);
            let stores = dropped + STORES + 1;
            (0..stores).for_each(|_| swap.store(ledger.value()));
            assert_eq!(
                ledger.drops()[0],
                1,
                "drops of the first value after {dropped} readers were \
                 dropped, and {stores} stores, while one reader has no guard: \
                 seen (left), expected (right)"
            );
        }
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
        let _guard = reader.load();
        (0..=STORES).for_each(|_| swap.store(ledger.value()));
        assert_eq!(
            ledger.drops()[0],
            1,
            "drops of the first value after {} stores, while a guard of \
             another `Swap` lives: seen (left), expected (right)",
            STORES + 1
        );
    }

    #[test]
    fn the_drop_of_a_value_may_load_and_store() {
        let ledger = Ledger::default();
        let value = |on_drop| Hooked { value: ledger.value(), on_drop };
        let [first, inner] = [value(None), value(None)];
        let swap = Swap::new(first);
        let shared = swap.clone();
        let on_drop = move || {
            shared.store(inner);
            let seen = shared.reader().load().value.number;
            assert_eq!(
                seen, 1,
                "`load` in the drop of a value, after a store there: number \
                 seen (left), expected (right)"
            );
        };
        swap.store(value(Some(Box::new(on_drop))));
        let later = Vec::from_iter((0..=STORES).map(|_| value(None)));
        with_deadline("a store that drops a value whose drop stores", || {
            later.into_iter().for_each(move |value| swap.store(value));
        });
        assert_eq!(
            ledger.drops()[2],
            1,
            "drops of the value whose drop stores, after {STORES} more stores: \
             seen (left), expected (right)"
        );
    }

    #[test]
    fn dropping_the_swap_and_its_readers_drops_each_value_once() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value());
        let readers = [swap.reader(), swap.reader()];
        let guards = readers.each_ref().map(Reader::load);
        let (stored, is_stored) = mpsc::channel();
        let (_end, ends) = mpsc::channel::<()>();
        thread::spawn({
            let (swap, ledger) = (swap.clone(), ledger.clone());
            move || {
                swap.store(ledger.value());
                swap.store(ledger.value());
                drop(swap);
                stored.send(()).expect("the test waits for the stores");
                // This thread lives until the test ends.
                ends.recv()
            }
        });
        is_stored.recv().expect("the other thread stores two values");
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
            "drops of each value after the last reader was dropped, while the \
             thread that stored still lives: seen (left), expected (right)"
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
        let readers =
            Vec::from_iter((0..readers).map(|_| clones[random(3)].reader()));
        let mut current = 0;
        for _ in 0..8 {
            let mut guards = Vec::new();
            for _ in 0..100 {
                match random(8) {
                    0..=2 => {
                        let reader = &readers[random(readers.len())];
                        guards.push((current, reader.load()));
                    }
                    3..=4 if !guards.is_empty() => {
                        guards.swap_remove(random(guards.len()));
                    }
                    _ => {
                        clones[random(3)].store(ledger.value());
                        current += 1;
                    }
                }
                check_guards(&guards, &ledger);
            }
            drop(guards);
            let kept = ledger.left() - 1;
            for stores in 1..=kept + STORES + 5 {
                clones[random(3)].store(ledger.value());
                current += 1;
                let left = ledger.left();
                assert!(
                    stores < kept + STORES || left <= STORES + 1,
                    "{kept} replaced values were kept when the last guard was \
                     dropped; after {stores} more stores {left} values are not \
                     dropped, expected at most {}: the current one and {STORES}",
                    STORES + 1
                );
            }
        }
        drop((clones, readers));
        assert!(
            ledger.drops().iter().all(|drops| *drops == 1),
            "drops of each value after the last `Swap` and the last reader \
             were dropped: seen {:?}, expected one each",
            ledger.drops()
        );
    }
}
