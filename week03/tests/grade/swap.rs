use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use week03::swap::{Guard, Reader, Swap};

use crate::common::{Hooked, Ledger, NotSend as _, Probe, with_deadline};

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
    fn reader_returns_none_only_while_all_readers_exist() {
        for limit in [0, 1, 2, 17, 130, 5_000] {
            let swap = Swap::new("value", limit);
            let mut readers: Vec<_> =
                (0..limit).map(|_| reader(&swap)).collect();
            // Each of these places is freed and taken again, the first and
            // the last one included.
            for place in (0..limit).step_by(limit / 20 + 1).chain([limit]) {
                assert!(
                    swap.reader().is_none(),
                    "`reader` returned a reader while all {limit} readers \
                     exist: expected `None`"
                );
                let Some(last) = readers.len().checked_sub(1) else { continue };
                drop(readers.swap_remove(place.min(last)));
                readers.push(reader(&swap));
                assert_eq!(
                    *readers[last].load(),
                    "value",
                    "`load` by a new reader: seen (left), stored (right)"
                );
            }
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
        drop(reader.load());
        let seen = reader.load(); // of a value that the reader has loaded before
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
    fn a_guard_is_not_send() {
        let swap = Swap::new(1, 1);
        assert_eq!(
            *reader(&swap).load(),
            1,
            "`load` before any store: seen (left), given to `new` (right)"
        );
        let is_send = [
            Probe::<Guard<'_, u8>>::IS_SEND,
            Probe::<Reader<u8>>::IS_SEND,
            Probe::<Swap<u8>>::IS_SEND,
            Probe::<&Swap<u8>>::IS_SEND,
        ];
        assert_eq!(
            is_send,
            [false, true, true, true],
            "whether `Guard`, `Reader`, `Swap` and `&Swap` are `Send`: seen \
             (left), expected (right)"
        );
    }
}

mod frees {
    use super::*;

    const LIMITS: [usize; 6] = [0, 1, 2, 17, 130, 300];

    #[test]
    fn store_drops_the_old_value_if_no_reader_has_loaded_it() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 2);
        let _reader = reader(&swap);
        for stores in 1..=3 {
            swap.store(ledger.value());
            assert_eq!(
                ledger.left(),
                1,
                "values not dropped after {stores} stores, without a load: \
                 seen (left), expected (right)"
            );
        }
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
    fn a_guard_keeps_only_its_own_value() {
        let ledger = Ledger::default();
        let swap = Swap::new(ledger.value(), 1);
        let mut reader = reader(&swap);
        let _seen = reader.load();
        for _ in 0..1000 {
            swap.store(ledger.value());
            let left = ledger.left();
            assert!(
                left <= 2,
                "{left} values are not dropped while one guard exists: \
                 expected at most 2, the current one and that of the guard"
            );
        }
    }

    #[test]
    fn random_readers_keep_only_the_values_that_they_loaded_last() {
        LIMITS.iter().for_each(|limit| compare_with_model(*limit, false));
    }

    #[test]
    fn a_panic_in_the_drop_of_a_value_affects_no_other_value() {
        LIMITS.iter().for_each(|limit| compare_with_model(*limit, true));
    }

    #[test]
    fn the_drop_of_a_value_may_load_and_store() {
        let ledger = Ledger::default();
        let value = |on_drop| Hooked { value: ledger.value(), on_drop };
        let [first, inner, last] = [value(None), value(None), value(None)];
        let swap = Swap::new(first, 1);
        let shared = swap.clone();
        let on_drop = move || {
            shared.store(inner);
            let seen = reader(&shared).load().value.number;
            assert_eq!(
                seen, 1,
                "`load` in the drop of a value, after a store there: number \
                 seen (left), expected (right)"
            );
        };
        swap.store(value(Some(Box::new(on_drop))));
        with_deadline("a store whose old value stores when dropped", {
            let swap = swap.clone();
            move || swap.store(last)
        });
        assert_eq!(
            (reader(&swap).load().value.number, ledger.drops()),
            (1, vec![1, 0, 1, 1]),
            "the current value and the drops of each value, after a value was \
             stored by the drop of another: seen (left), expected (right)"
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

    /// Loads and stores at random, through a random number of readers and
    /// clones, and compares the values that are left with a model. If `panics`,
    /// the drop of every fourth value panics.
    fn compare_with_model(limit: usize, panics: bool) {
        let rounds = 4 + 60 / limit.max(1);
        let mut seed = limit as u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let ledger = Ledger::default();
        let in_store = Arc::new(AtomicBool::new(false));
        let drop_panics = |number: &usize| panics && number % 4 == 3;
        let value = || {
            let (value, in_store) = (ledger.value(), Arc::clone(&in_store));
            let number = value.number;
            let on_drop = move || {
                // A panic during another one would abort the process.
                if in_store.load(Relaxed) && !thread::panicking() {
                    resume_unwind(Box::new(number));
                }
            };
            let on_drop = drop_panics(&number).then(|| Box::new(on_drop) as _);
            Hooked { value, on_drop }
        };
        let mut clones = vec![Swap::new(value(), limit)];
        let mut current = 0;
        let mut readers = Vec::new();
        // The number of the value that each reader loaded last.
        let mut loaded: Vec<Option<usize>> = Vec::new();
        for round in 1..=rounds {
            for _ in 0..random(readers.len() + 1) {
                let reader = random(readers.len());
                drop(readers.swap_remove(reader));
                loaded.swap_remove(reader);
            }
            for _ in 0..=random(limit - readers.len() + 1) {
                let reader = clones[random(clones.len())].reader();
                assert_eq!(
                    reader.is_some(),
                    readers.len() < limit,
                    "whether `reader` returns a reader when {} of {limit} \
                     exist: seen (left), expected (right)",
                    readers.len()
                );
                if let Some(reader) = reader {
                    readers.push(reader);
                    loaded.push(None);
                }
            }
            clones.push(clones[random(clones.len())].clone());
            if random(2) == 0 {
                clones.swap_remove(random(clones.len()));
            }
            let stores = [1, 4, 100][random(3)]; // one store in as many loads
            let mut guards = Vec::new();
            // The last step has no reader: without readers, it may still store.
            let steps = readers.iter_mut().map(Some).chain([None]);
            for (index, reader) in steps.enumerate() {
                if let Some(reader) = reader
                    && random(4) > 0
                {
                    let guard = reader.load();
                    assert_eq!(
                        guard.value.number, current,
                        "`load`: number seen (left), stored last (right)"
                    );
                    loaded[index] = Some(current);
                    guards.push((current, guard));
                }
                if random(3) == 0 && !guards.is_empty() {
                    guards.swap_remove(random(guards.len()));
                }
                if random(stores) > 0 {
                    continue;
                }
                let (swap, new) = (&clones[random(clones.len())], value());
                let before = ledger.drops();
                in_store.store(true, Relaxed);
                let store = catch_unwind(AssertUnwindSafe(|| swap.store(new)));
                in_store.store(false, Relaxed);
                current += 1;
                let drops = ledger.drops();
                let mut panicked =
                    Vec::from_iter((0..current).filter(drop_panics));
                panicked.retain(|number| drops[*number] > before[*number]);
                let seen = store.map_err(|panic| panic.downcast_ref().copied());
                let is_right = panicked.is_empty() && seen.is_ok()
                    || panicked.iter().any(|number| seen == Err(Some(*number)));
                assert!(
                    is_right,
                    "result of a store in which the drops of the values \
                     {panicked:?} panicked: seen {seen:?}, expected `Ok` if \
                     there are none, else `Err(Some(_))` with one of these \
                     numbers, its payload"
                );
                check_guards(&guards, &drops);
                let mut kept = vec![false; drops.len()];
                kept[current] = true;
                loaded.iter().flatten().for_each(|value| kept[*value] = true);
                for (number, kept) in kept.into_iter().enumerate() {
                    let expected = if kept { 0..=1 } else { 1..=1 };
                    assert!(
                        expected.contains(&drops[number]),
                        "drops of value {number}, after the store of value \
                         {current}: seen {}, expected {expected:?} (only a \
                         value that a reader loaded last may be kept)",
                        drops[number]
                    );
                }
            }
            if round == rounds {
                clones.clear();
                check_guards(&guards, &ledger.drops());
            }
        }
        in_store.store(true, Relaxed);
        drop(catch_unwind(AssertUnwindSafe(|| drop(readers))));
        assert!(
            ledger.drops().iter().all(|drops| *drops == 1),
            "drops of each value after the last `Swap` and the last reader were \
             dropped: seen {:?}, expected one each",
            ledger.drops()
        );
    }

    /// Panics unless each guard shows the value with its number.
    fn check_guards(guards: &[(usize, Guard<'_, Hooked>)], drops: &[usize]) {
        for (number, guard) in guards {
            // This comes first: a dropped value must not be read.
            assert_eq!(
                drops[*number], 0,
                "drops of a value that a guard shows: seen (left), expected \
                 (right)"
            );
            assert_eq!(
                guard.value.number, *number,
                "the value that a guard shows: number seen (left), number when \
                 loaded (right)"
            );
        }
    }
}
