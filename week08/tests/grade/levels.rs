use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, sleep, timeout};
use week08::levels::{Config, GetError, Levels, RemoteError};

use schedules::{READS, check_schedules};
use world::*;

#[cfg(unix)]
#[path = "levels/redis_level.rs"]
mod redis_level;
#[path = "levels/schedules.rs"]
mod schedules;
#[path = "levels/world.rs"]
mod world;

mod reads {
    use super::*;

    #[test]
    fn a_hit_at_a_level_asks_no_level_below() {
        run(async {
            for row in [Some(7), None] {
                let world = World::new(1, &[("book", row)]);
                let levels = world.process(config());
                for calls in [3, 3, 4, 4] {
                    if calls == 4 && world.lock().calls.len() == 3 {
                        levels.channel_restored(filter(&KEYS));
                    }
                    world.expect("book", row, levels.get("book", 0.0).await);
                    let seen = world.lock().calls.clone();
                    assert_eq!(
                        seen.len(),
                        calls,
                        "the number of calls until now (left), expected \
                         (right), for the row {row:?}. The first read calls \
                         `get`, `load` and `set`, the second calls nothing, \
                         the third, after `channel_restored`, calls `get`, \
                         and the fourth calls nothing. Calls: {seen:?}"
                    );
                }
            }
        });
    }

    #[test]
    fn a_local_entry_is_a_hit_until_its_age_reaches_its_life() {
        let lives = [1, 999_999, 1_000_001, 2_500_000, 8_000_000_300];
        for case in 0..5 * 2 {
            let [life, from_remote] = digits(case, [5, 2]);
            let life = Duration::from_nanos(lives[life]);
            run(async {
                let world = World::new(1, &[("book", Some(7))]);
                let mut config = config();
                if from_remote == 1 {
                    let end = Instant::now() + life;
                    let entry = (vec![1, 0, 0, 0, 7], Some(end));
                    world.lock().remote.insert("book".into(), entry);
                    config.local_ttl = Duration::MAX;
                } else {
                    config.local_ttl = life;
                }
                let levels = world.process(config);
                levels.channel_restored(filter(&KEYS));
                let nano = Duration::from_nanos(1);
                let mut seen = Vec::new();
                for time in [Duration::ZERO, life - nano, nano] {
                    advance(time).await;
                    world.lock().calls.clear();
                    let read = levels.get("book", 0.0).await;
                    world.expect("book", Some(7), read);
                    seen.push(world.lock().calls.is_empty());
                }
                assert_eq!(
                    seen,
                    [false, true, false],
                    "whether a read was a local hit (left), expected (right): \
                     a first read, a read when the entry is {:?} old, and a \
                     read when it is {life:?} old. This is its life, by {}",
                    life - nano,
                    ["`local_ttl`", "`Stored::ttl`"][from_remote]
                );
            });
        }
    }

    #[test]
    fn reads_of_any_schedule_match_a_model_of_the_levels() {
        check_schedules(150, &READS, &[[0, 0]]);
    }

    #[test]
    fn a_life_counts_from_before_the_read_however_slow_that_is() {
        let delays = [[100, 50], [0, 300], [700, 200], [0, 999]];
        check_schedules(150, &READS, &delays);
    }
}

mod invalidation {
    use super::*;

    #[test]
    fn no_process_keeps_the_old_value_whenever_it_reads() {
        // A reader that begins before, during or after the invalidation is
        // polled in any order with it, in the same process and in another one.
        let changes = [[Some(1), Some(2)], [None, Some(2)], [Some(1), None]];
        for case in 0..2 * 2 * 8 * 6 * 8 * 3 {
            let [reader, end, a, b, c, d] = digits(case, [2, 2, 8, 6, 8, 3]);
            run(async {
                let [old, new] = changes[d];
                let world = World::new(2, &[("book", old)]);
                let levels = world.processes(2);
                if a % 2 == 0 {
                    // Otherwise only the remote level has the old value.
                    world.expect("book", old, levels[1].get("book", 0.0).await);
                }
                world.expect("book", old, levels[0].get("book", 0.0).await);
                if reader == 0 {
                    levels[0].channel_restored(filter(&["book"]));
                }
                world.write("book", new);
                let mut read = Box::pin(levels[reader].get("book", 0.0));
                let mut write = Box::pin(levels[0].invalidate("book"));
                let mut is_read = poll_times(a, &mut read).is_some();
                let mut written = None;
                for _ in 0..b {
                    if written.is_none() {
                        written = poll_times(1, &mut write);
                    }
                    // Process 0 is right without its own message.
                    world.deliver_to(1, &levels[1]);
                }
                is_read = is_read || poll_times(c, &mut read).is_some();
                if end == 0 && !is_read {
                    drop(read.as_mut().await);
                    is_read = true;
                }
                while written.is_none() {
                    written = poll_times(1, &mut write);
                    world.deliver_to(1, &levels[1]);
                }
                if !is_read {
                    drop(read.await);
                }
                assert_eq!(
                    written,
                    Some(Ok(())),
                    "the result of `invalidate` (left), expected (right)"
                );
                let ends = [
                    "the reader to its end, then the invalidation",
                    "the invalidation to its end, then the reader",
                ];
                for (i, process) in levels.iter().enumerate() {
                    let seen = process.get("book", 0.0).await;
                    assert_eq!(
                        seen.map(|v| v.map(|price| price.0)),
                        Ok(new),
                        "the value in process {i} (left), expected (right), \
                         after {old:?} was changed to {new:?} and process 0 \
                         has called `invalidate`. A reader in process \
                         {reader} was polled {a} times, then the invalidation \
                         {b} times, then the reader {c} times, then {}, \
                         unless they had ended before. Calls: {:?}",
                        ends[end],
                        world.lock().calls
                    );
                }
            });
        }
    }

    #[test]
    fn each_failure_is_returned_and_the_remaining_steps_are_done() {
        let all = [
            Outcome::Ok,
            Outcome::Error,
            Outcome::Hang,
            Outcome::Panic,
            Outcome::PanicWhenCalled,
        ];
        for case in 0..5 * 4 {
            let [delete, publish] = digits(case, [5, 4]).map(|i| all[i]);
            let is_panic = delete == all[3] || delete == all[4];
            run(async {
                let world = World::new(1, &[("book", Some(1))]);
                let levels = &world.processes(1)[0];
                drop(levels.get("book", 0.0).await);
                world.write("book", Some(2));
                world.lock().calls.clear();
                world.lock().plans[DELETE].outcome = delete;
                world.lock().plans[PUBLISH].outcome = publish;
                let steps =
                    format!("`delete`: {delete:?}, `publish`: {publish:?}");
                let call = catch(levels.invalidate("book"));
                let Ok(seen) = timeout(NEVER, call).await else {
                    panic!("`invalidate` never returns, with {steps}");
                };
                let expected = [delete, publish].map(|outcome| match outcome {
                    Outcome::Ok => Some(Ok(())),
                    Outcome::Error => Some(Err(RemoteError::Failed(Broken))),
                    Outcome::Hang => Some(Err(RemoteError::TimedOut)),
                    Outcome::Panic | Outcome::PanicWhenCalled => None,
                });
                let [first, second] = expected.clone();
                if !is_panic && publish != Outcome::Panic {
                    let expected = first.unwrap().and(second.unwrap());
                    assert_eq!(
                        seen,
                        Some(expected),
                        "the result of `invalidate` (left), expected (right): \
                         the first failure, if any, with {steps}"
                    );
                }
                if !is_panic {
                    let expected = ["book"; 2].map(String::from);
                    let [deleted, published] = expected;
                    assert_eq!(
                        world.lock().calls,
                        [Call::Delete(deleted), Call::Publish(published)],
                        "calls (left), expected (right), with {steps}"
                    );
                }
                world.lock().remote.clear();
                world.lock().plans = Default::default();
                let seen = levels.get("book", 0.0).await;
                assert_eq!(
                    seen,
                    Ok(Some(Price(2))),
                    "`get` after `invalidate` (left), expected (right): \
                     `invalidate` removes the local entry, with {steps}"
                );
            });
        }
    }

    #[test]
    fn the_local_entry_is_removed_between_delete_and_publish() {
        run(async {
            let world = World::new(1, &[("book", Some(1))]);
            let levels = &world.processes(1)[0];
            drop(levels.get("book", 0.0).await);
            world.write("book", Some(2));
            let mut invalidate = Box::pin(levels.invalidate("book"));
            let phases = [
                ("while `delete` runs", DELETE, 1, 0),
                ("while `publish` runs", PUBLISH, 2, 3),
                ("after `invalidate`", GET, 2, 0),
            ];
            for (when, running, price, calls) in phases {
                world.lock().plans = Default::default();
                if running == GET {
                    assert_eq!(invalidate.as_mut().await, Ok(()));
                } else {
                    world.lock().plans[running].before = 100 * MS;
                    let _ = poll_times(10, &mut invalidate);
                }
                world.lock().calls.clear();
                let seen = levels.get("book", 0.0).await;
                let seen = (seen, world.lock().calls.len());
                assert_eq!(
                    seen,
                    (Ok(Some(Price(price))), calls),
                    "the result of `get` and the number of its calls {when} \
                     (left), expected (right). The price was changed from 1 to \
                     2. After `delete` has ended, the local entry is removed, \
                     and the next `get` calls `get`, `load` and `set`. Then \
                     `publish` is called, and removes nothing"
                );
                advance(100 * MS).await;
            }
        });
    }

    #[test]
    fn a_dropped_invalidation_removes_the_local_entry() {
        for case in 0..10 {
            let [polls, refills] = digits(case, [5, 2]);
            run(async {
                let world = World::new(1, &[("book", Some(1))]);
                let levels = &world.processes(1)[0];
                drop(levels.get("book", 0.0).await);
                world.write("book", Some(2));
                let mut invalidate = Box::pin(levels.invalidate("book"));
                let polls = polls + 1;
                let _ = poll_times(polls, &mut invalidate);
                if refills == 1 {
                    // This may copy the old value from the remote level.
                    levels.channel_restored(filter(&["book"]));
                    drop(levels.get("book", 0.0).await);
                }
                drop(invalidate);
                world.lock().remote.clear();
                let meanwhile = ["", "; meanwhile, another `get` was called"];
                let seen = levels.get("book", 0.0).await;
                assert_eq!(
                    seen,
                    Ok(Some(Price(2))),
                    "`get` (left), expected (right), after `invalidate` was \
                     polled {polls} times at most, and then dropped{}",
                    meanwhile[refills]
                );
            });
        }
    }

    #[test]
    fn a_fill_that_began_before_an_event_is_not_stored() {
        for case in 0..10 * 7 * 2 * 2 * 2 {
            let [polls, event, from_remote, second, lost] =
                digits(case, [10, 7, 2, 2, 2]);
            run(async {
                let world = World::new(1, &[("book", Some(1))]);
                let levels = &world.process(config());
                if from_remote == 1 {
                    drop(levels.get("book", 0.0).await);
                    levels.channel_lost();
                }
                if lost == 0 {
                    levels.channel_restored(filter(&["book"]));
                }
                let mut fill = Box::pin(levels.get("book", 0.0));
                let mut seen = poll_times(polls + 1, &mut fill);
                let had_ended = seen.is_some();
                world.write("book", Some(2));
                match event {
                    0 => drop(levels.invalidate("book").await),
                    1 => levels.on_invalidation("book"),
                    2 => levels.channel_lost(),
                    3 => levels.channel_restored(filter(&["book"])),
                    4 => (0..256).for_each(|_| levels.on_invalidation("book")),
                    5 => {
                        levels.channel_lost();
                        levels.channel_restored(filter(&["book"]));
                    }
                    _ => {
                        levels.channel_restored(filter(&["book"]));
                        levels.channel_lost();
                    }
                }
                let names = [
                    "`invalidate`",
                    "`on_invalidation`",
                    "`channel_lost`",
                    "`channel_restored`",
                    "256 calls of `on_invalidation`",
                    "`channel_lost` and `channel_restored`",
                    "`channel_restored` and `channel_lost`",
                ];
                if second == 1 {
                    world.lock().remote.clear();
                    let seen = levels.get("book", 0.0).await;
                    world.expect("book", Some(2), seen);
                }
                if seen.is_none() {
                    seen = Some(fill.await);
                }
                let value = seen.and_then(Result::ok).flatten();
                assert!(
                    matches!(value, Some(Price(1 | 2))),
                    "the fill returned {value:?}: expected the price 1 or 2"
                );
                // The remote level can have the old value: the stale refill.
                world.lock().remote.clear();
                let seen = levels.get("book", 0.0).await;
                assert_eq!(
                    seen,
                    Ok(Some(Price(2))),
                    "`get` (left), expected (right): another `get` began \
                     before {}, ended {} it, and its old result is in the \
                     local level. The channel was {} when it began",
                    names[event],
                    if had_ended { "before" } else { "after" },
                    if lost == 1 { "lost" } else { "restored" }
                );
            });
        }
    }

    #[test]
    fn fills_of_other_keys_and_other_fills_of_the_key_are_stored() {
        run(async {
            let keys: Vec<_> = (0..1_500).map(|i| format!("key {i}")).collect();
            let rows: Vec<_> =
                keys.iter().map(|k| (k.as_str(), Some(1))).collect();
            let world = World::new(1, &rows);
            let levels = world.process(config());
            levels.channel_restored(filter(&keys));
            let mut fills = Vec::new();
            for (i, key) in keys.iter().enumerate() {
                // The life of the first result is shorter.
                let rand = if i % 3 == 0 { 0.875 } else { 0.0 };
                let mut first = Box::pin(levels.get(key, rand));
                let mut second = Box::pin(levels.get(key, 0.0));
                let _ = poll_times(1, &mut first);
                let _ = poll_times(1, &mut second);
                fills.push([first, second]);
            }
            levels.on_invalidation("another key");
            for (i, [first, second]) in fills.into_iter().enumerate() {
                match i % 3 {
                    0 => drop((first.await, second.await)),
                    1 => {
                        drop(second);
                        drop(first.await);
                    }
                    _ => {
                        drop(first);
                        drop(second.await);
                    }
                }
            }
            let calls = std::mem::take(&mut world.lock().calls);
            let gets = calls.iter().filter(|c| c.kind() == GET).count();
            // If `get`s share calls, it is open whose `rand` counts.
            if gets == 3_000 {
                advance(5 * SECOND).await;
            }
            for key in &keys {
                drop(levels.get(key, 0.0).await);
            }
            let calls = world.lock().calls.clone();
            let missed = calls.iter().filter(|c| c.kind() == GET).count();
            assert!(
                missed <= 150,
                "{missed} of 1,500 keys are not in the local level. Two `get`s \
                 of each key began before another key was invalidated. Then \
                 both were awaited, the second result with a longer life, or \
                 the first or the second one was dropped: expected at most 150"
            );
        });
    }

    #[test]
    fn threads_that_read_and_invalidate_leave_no_old_value() {
        let row = Row::default();
        let levels = Levels::new(config(), Empty, row.clone());
        runtime().block_on(async {
            // On one thread first: a fill that has read the row.
            levels.channel_restored(filter(&["book"]));
            let mut fill = Box::pin(levels.get("book", 0.0));
            let _ = poll_times(1, &mut fill);
            row.0.store(1, SeqCst);
            levels.on_invalidation("book");
            drop(fill.await);
            assert_eq!(
                levels.get("book", 0.0).await,
                Ok(Some(Price(1))),
                "`get` after `on_invalidation` (left), expected (right): \
                 another `get` had loaded 0 before 1 was written, and ended \
                 after `on_invalidation`"
            );
        });
        // The hash of a long key takes long. So the threads also meet between two
        // steps that should be one.
        for (keys, len, rounds) in [(64, 0, 1_500), (8, 1 << 14, 40)] {
            let keys: Vec<_> =
                (0..keys).map(|i| format!("{i}{}", "_".repeat(len))).collect();
            levels.channel_restored(filter(&keys));
            race(&levels, &row, &keys, rounds);
        }
    }

    #[test]
    fn a_fill_that_ends_during_a_removal_is_not_stored() {
        for round in 0..10 {
            let row = SlowRow::default();
            let gate = &row.gate;
            let levels = Levels::new(config(), Empty, row.clone());
            levels.channel_restored(filter(&["book"]));
            let has_begun = AtomicBool::new(false);
            let has_ended = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    runtime().block_on(async {
                        let mut fill = Box::pin(levels.get("book", 0.0));
                        let _ = poll_times(1, &mut fill);
                        has_begun.store(true, SeqCst);
                        Gate::wait(&gate.is_dropping, 20 * SECOND);
                        drop(fill.await);
                        gate.may_end.store(true, SeqCst);
                        has_ended.store(true, SeqCst);
                    });
                });
                Gate::wait(&has_begun, 20 * SECOND);
                let seen = runtime().block_on(async {
                    let mut second = Box::pin(levels.get("book", 0.0));
                    // Stores its result, unless it shares the load.
                    drop(poll_times(5, &mut second));
                    row.value.store(1, SeqCst);
                    gate.is_armed.store(true, SeqCst);
                    levels.on_invalidation("book");
                    gate.is_armed.store(false, SeqCst);
                    gate.is_dropping.store(true, SeqCst);
                    Gate::wait(&has_ended, 20 * SECOND);
                    levels.get("book", 0.0).await
                });
                let seen = seen.ok().flatten().map(|slow| slow.value);
                assert_eq!(
                    seen,
                    Some(1),
                    "round {round}: `get` after `on_invalidation` (left), \
                     expected (right). Another `get` of the key had loaded 0 \
                     before 1 was written. It ended on another thread, while \
                     `on_invalidation` dropped the value of the local entry"
                );
            });
        }
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_time().build().unwrap()
    }

    /// Reads and invalidates `keys` on two threads at the same time.
    fn race(
        levels: &Levels<Empty, Row>,
        row: &Row,
        keys: &[String],
        rounds: u32,
    ) {
        // Less than the deadline of the test.
        const LIMIT: Duration = Duration::from_secs(8);
        // Waits until both threads have called it `n` times.
        let (met, changed) = (Mutex::new(0), Condvar::new());
        let meet = |n: u32| {
            let mut met = met.lock().unwrap();
            *met += 1;
            changed.notify_all();
            let is_alone = |met: &mut u32| *met < 2 * n;
            let (_met, wait) =
                changed.wait_timeout_while(met, LIMIT, is_alone).unwrap();
            assert!(!wait.timed_out(), "a thread has stopped");
        };
        // Like `meet`, but it spins: a thread that blocks would wake too late.
        let running = AtomicU32::new(0);
        let run_together = |n: u32| {
            running.fetch_add(1, SeqCst);
            let start = std::time::Instant::now();
            while running.load(SeqCst) < 2 * n {
                assert!(start.elapsed() < LIMIT, "a thread has stopped");
                std::thread::yield_now();
            }
        };
        // One thread ends its fills while the other one removes their keys, is
        // faster, and overtakes it at any key.
        let reader = || {
            runtime().block_on(async {
                for round in 0..rounds {
                    meet(2 * round + 1);
                    let mut fills: Vec<_> = keys
                        .iter()
                        .map(|key| Box::pin(can_move(levels.get(key, 0.0))))
                        .collect();
                    if round % 4 > 0 {
                        for fill in &mut fills {
                            assert_eq!(
                                poll_times(1, fill),
                                None,
                                "a `get` while its load runs (left), expected \
                                 (right)"
                            );
                        }
                    }
                    run_together(round + 1);
                    for fill in fills {
                        drop(fill.await);
                    }
                    meet(2 * round + 2);
                }
            });
        };
        let invalidate_all = || {
            keys.iter().for_each(|key| levels.on_invalidation(key));
        };
        std::thread::scope(|scope| {
            scope.spawn(reader);
            let old = runtime().block_on(async {
                let mut old = None;
                for round in 0..rounds {
                    let value = round + 2;
                    meet(2 * round + 1);
                    run_together(round + 1);
                    row.0.store(value, SeqCst);
                    (0..round % 64 * 8).for_each(|_| std::hint::spin_loop());
                    invalidate_all();
                    meet(2 * round + 2);
                    for (i, key) in keys.iter().enumerate() {
                        let seen = levels.get(key, 0.0).await;
                        if seen != Ok(Some(Price(value))) {
                            old.get_or_insert((i, value, seen));
                        }
                    }
                    // The next fills are misses.
                    invalidate_all();
                }
                old
            });
            assert_eq!(
                old,
                None,
                "the number of a key, its value, and the different result of \
                 `get` after `on_invalidation` (left), expected no such result \
                 (right). Another `get` ended at the same time as \
                 `on_invalidation`, on another thread. The keys have {} bytes \
                 or more",
                keys[0].len()
            );
        });
    }
}

mod failures {
    use super::*;

    #[test]
    fn loads_without_the_remote_level_are_limited() {
        let failures = [Outcome::Error, Outcome::Hang];
        for case in 0..2 * 4 * 4 {
            let [failure, limit, end] = digits(case, [2, 4, 4]);
            let limit = [0, 1, 2, 17][limit];
            run(async {
                let keys: Vec<_> =
                    (0..limit + 7).map(|i| i.to_string()).collect();
                let world = World::new(1, &[]);
                let config = Config { loads_without_remote: limit, ..config() };
                let levels = world.process(config);
                levels.channel_restored(filter(&keys));
                world.lock().plans[LOAD].before = 100 * SECOND;
                let mut others = Vec::new();
                // Begins a load whose remote `get` does not fail.
                let mut begin_other = |i: usize| {
                    world.lock().plans[GET].outcome = Outcome::Ok;
                    let mut read = Box::pin(levels.get(&keys[i], 0.0));
                    let _ = poll_times(3, &mut read);
                    others.push(read);
                };
                for round in 0..3 {
                    begin_other(limit + 1 + round);
                    world.lock().plans[GET].outcome = Outcome::Hang;
                    let mut early = Box::pin(levels.get(&keys[limit], 0.0));
                    let _ = poll_times(1, &mut early);
                    world.lock().plans[GET].outcome = failures[failure];
                    let mut fills: Vec<_> = keys[..limit]
                        .iter()
                        .map(|key| Box::pin(catch(levels.get(key, 0.0))))
                        .collect();
                    for fill in &mut fills {
                        let _ = poll_times(3, fill);
                    }
                    advance(2 * TIMEOUT).await;
                    for fill in &mut fills {
                        assert_eq!(
                            poll_times(3, fill),
                            None,
                            "a read in round {round} (left), expected \
                             (right): its load runs, since {limit} loads may \
                             run without the remote level, and no more do. \
                             Loads whose remote `get` has not failed run, \
                             too, and one read waits for its remote `get`"
                        );
                    }
                    drop(early);
                    world.lock().calls.clear();
                    let seen = levels.get(&keys[limit], 0.0).await;
                    assert_eq!(
                        seen,
                        Err(GetError::Refused),
                        "a read (left), expected (right), whose remote `get` \
                         fails, with `loads_without_remote: {limit}`, while \
                         {limit} such loads run"
                    );
                    begin_other(limit + 4 + round);
                    let key = &keys[limit + 4 + round];
                    let calls = std::mem::take(&mut world.lock().calls);
                    let expected = [
                        Call::Get(keys[limit].clone()),
                        Call::Get(key.clone()),
                        Call::Load(key.clone()),
                    ];
                    assert_eq!(
                        calls, expected,
                        "the calls of a refused read, and of a read whose \
                         remote `get` returns no entry (left), expected (right)"
                    );
                    // Each way in which a load ends gives its permit back.
                    world.lock().plans[LOAD].outcome = match end {
                        1 => Outcome::Error,
                        2 => Outcome::Panic,
                        _ => Outcome::Ok,
                    };
                    let expected = match end {
                        1 => Some(Err(GetError::Origin(Broken))),
                        2 => None,
                        _ => Some(Ok(None)),
                    };
                    for fill in fills {
                        if end < 3 {
                            assert_eq!(
                                fill.await,
                                expected,
                                "a read whose remote `get` has failed (left), \
                                 expected (right), or `None` for a panic"
                            );
                        }
                    }
                    let calls = world.lock().calls.clone();
                    assert_eq!(
                        calls,
                        [],
                        "calls while these loads end (left), expected (right): \
                         no `set` after a remote `get` that has failed"
                    );
                    levels.channel_restored(filter(&keys));
                }
            });
        }
    }

    #[test]
    fn a_dropped_or_panicked_read_does_not_change_the_next_one() {
        for case in 0..12 * 2 * 2 * 5 {
            let [polls, bad, fails, panics] = digits(case, [12, 2, 2, 5]);
            run(async {
                let world = World::new(1, &[("book", Some(1))]);
                let loads_without_remote = 1;
                let config = Config { loads_without_remote, ..config() };
                let levels = world.process(config);
                levels.channel_restored(filter(&["book"]));
                let end = Instant::now() + 100 * SECOND;
                let entry = (vec![9], Some(end));
                if bad == 1 {
                    world.lock().remote.insert("book".into(), entry);
                }
                if fails == 1 {
                    world.lock().plans[GET].outcome = Outcome::Error;
                }
                world.lock().plans[panics].outcome = Outcome::Panic;
                let mut read = Box::pin(catch(levels.get("book", 0.0)));
                let ended = poll_times(polls + 1, &mut read).flatten();
                drop(read);
                world.lock().plans[panics].outcome = Outcome::Ok;
                for is_stored in [ended.is_some(), true] {
                    world.lock().calls.clear();
                    let seen = levels.get("book", 0.0).await;
                    let is_hit = world.lock().calls.is_empty();
                    assert_eq!(
                        (seen, is_hit),
                        (Ok(Some(Price(1))), is_stored),
                        "`get`, and whether it was a local hit (left), \
                         expected (right), after another `get`, in which {} \
                         would panic, was polled {} times at most, and then \
                         dropped. Bad entry: {}, the remote `get` fails: {}",
                        CALLS[panics],
                        polls + 1,
                        bad == 1,
                        fails == 1
                    );
                }
            });
        }
    }
}

mod channel {
    use super::*;

    #[test]
    fn any_schedule_of_messages_losses_and_failures_matches_the_model() {
        let all: Vec<_> = (0..10).chain([0, 0, 0, 0, 2, 4, 4, 5]).collect();
        let delays = [[0, 0], [100, 50], [0, 300], [700, 700], [1_500, 0]];
        check_schedules(400, &all, &delays);
    }

    #[test]
    fn absent_keys_cost_no_call_while_the_filter_is_valid() {
        run(async {
            let world = World::new(2, &[]);
            let levels = world.processes(2);
            let keys: Vec<_> = (0..1_500).map(|i| format!("no {i}")).collect();
            for levels in &levels {
                levels.channel_restored(filter_for::<&str>(2_000, &[]));
            }
            for key in &keys {
                world.expect(key, None, levels[0].get(key, 0.0).await);
            }
            let calls = world.lock().calls.len();
            assert!(
                calls <= 10,
                "1,500 reads of absent keys made {calls} calls: expected none, \
                 or a few for keys that the filter contains by chance"
            );
            for key in &keys {
                world.write(key, Some(5));
                assert_eq!(levels[0].invalidate(key).await, Ok(()));
                world.expect(key, Some(5), levels[0].get(key, 0.0).await);
                world.deliver(&levels);
                world.expect(key, Some(5), levels[1].get(key, 0.0).await);
            }
            levels[1].channel_lost();
            world.write("new", Some(6));
            world.expect("new", Some(6), levels[1].get("new", 0.0).await);
        });
    }
}

#[cfg(unix)]
mod redis {
    use super::redis_level::{RedisLevel, follow};
    use super::*;

    const LEFT: &str = "the result (left), expected (right)";

    /// Two processes with one Redis, and the rows.
    async fn with_redis<F: Future<Output = ()>>(
        url: &str,
        test: impl FnOnce([Arc<Levels<RedisLevel, Row>>; 2], Row) -> F,
    ) {
        let client = ::redis::Client::open(format!("{url}?protocol=resp3"));
        let (client, row) = (client.unwrap(), Row::default());
        row.0.store(1, SeqCst);
        let mut levels = Vec::new();
        let mut tasks = Vec::new();
        for _ in 0..2 {
            let remote = RedisLevel::new(&client, "price:").await.unwrap();
            let origin = row.clone();
            let config = Config { local_ttl: 100 * SECOND, ..config() };
            let process = Arc::new(Levels::new(config, remote, origin));
            let (followed, client) = (Arc::clone(&process), client.clone());
            let keys = async || filter(&["book"]);
            tasks.push(tokio::spawn(async move {
                follow(&client, "price:", &followed, keys).await
            }));
            levels.push(process);
        }
        let [a, b] = [levels.remove(0), levels.remove(0)];
        for process in [&a, &b] {
            // A key that does not exist is refused once the filter is there.
            until("the channel is not ready", async || {
                process.get("no such key", 0.0).await == Ok(None)
            })
            .await;
        }
        test([a, b], row).await;
        for task in tasks {
            task.abort();
        }
    }

    async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
        let start = std::time::Instant::now();
        while !is_true().await {
            assert!(start.elapsed() < 5 * SECOND, "{what} after 5 s");
            sleep(5 * MS).await;
        }
    }

    fn run_real(test: impl AsyncFnOnce(&str)) {
        let server = lab::servers::Redis::start().unwrap();
        let runtime = Builder::new_multi_thread().enable_all().build();
        runtime.unwrap().block_on(test(&server.url()));
    }

    #[test]
    #[ignore = "needs redis-server"]
    fn a_change_reaches_another_process_through_redis() {
        run_real(async |url| {
            with_redis(url, async |[a, b], row| {
                for value in 2..50 {
                    let old = Ok(Some(Price(value - 1)));
                    for process in [&a, &b] {
                        let seen = process.get("book", 0.0).await;
                        assert_eq!(seen, old, "before a change: {LEFT}");
                    }
                    row.0.store(value, SeqCst);
                    let invalidated = a.invalidate("book").await;
                    assert_eq!(invalidated, Ok(()), "`invalidate`: {LEFT}");
                    let new = Ok(Some(Price(value)));
                    let seen = a.get("book", 0.0).await;
                    assert_eq!(seen, new, "after `invalidate`: {LEFT}");
                    until("process b has the old price", async || {
                        b.get("book", 0.0).await == new
                    })
                    .await;
                }
            })
            .await;
        });
    }

    #[test]
    #[ignore = "needs redis-server"]
    fn no_old_value_survives_a_connection_that_was_killed() {
        run_real(async |url| {
            let client = ::redis::Client::open(url).unwrap();
            let admin = client.get_multiplexed_async_connection().await;
            let mut admin = admin.unwrap();
            with_redis(url, async |[a, b], row| {
                for value in 2..5 {
                    let old = Ok(Some(Price(value - 1)));
                    for process in [&b, &a] {
                        let seen = process.get("book", 0.0).await;
                        assert_eq!(seen, old, "before a change: {LEFT}");
                    }
                    // Both lose their messages, and the row changes.
                    let mut kill = ::redis::cmd("CLIENT");
                    kill.arg("KILL").arg("TYPE").arg("pubsub");
                    let killed: u32 =
                        kill.query_async(&mut admin).await.unwrap();
                    assert_eq!(killed, 2, "connections that were killed");
                    row.0.store(value, SeqCst);
                    drop(a.invalidate("book").await);
                    for process in [&a, &b] {
                        until("the old price survived", async || {
                            process.get("book", 0.0).await
                                == Ok(Some(Price(value)))
                        })
                        .await;
                    }
                    let mut count = ::redis::cmd("PUBSUB");
                    count.arg("NUMSUB").arg("price:");
                    until("the channel is not restored", async || {
                        let seen = count.query_async(&mut admin).await;
                        let (_, n): (String, u32) = seen.unwrap();
                        n == 2
                    })
                    .await;
                }
            })
            .await;
        });
    }
}

/// Does not compile if the future cannot move to another thread, as a task of a
/// server does.
fn can_move<F: Future + Send>(future: F) -> F {
    future
}
