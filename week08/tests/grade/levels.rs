use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::future::{pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fastbloom::AtomicBloomFilter;
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tokio::runtime::Builder;
use tokio::time::{Instant, advance, sleep, timeout};
use week08::levels::{
    Config, GetError, Levels, Origin, Remote, RemoteError, Stored, Value,
};

#[cfg(unix)]
#[path = "levels/redis_level.rs"]
mod redis_level;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const KEYS: [&str; 3] = ["book", "", "日本 %\n"];

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
        let all = [Outcome::Ok, Outcome::Error, Outcome::Hang, Outcome::Panic];
        for case in 0..16 {
            let [delete, publish] = digits(case, [4, 4]).map(|i| all[i]);
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
                    Outcome::Panic => None,
                });
                let [first, second] = expected.clone();
                if delete != Outcome::Panic && publish != Outcome::Panic {
                    let expected = first.unwrap().and(second.unwrap());
                    assert_eq!(
                        seen,
                        Some(expected),
                        "the result of `invalidate` (left), expected (right): \
                         the first failure, if any, with {steps}"
                    );
                }
                if delete != Outcome::Panic {
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
        for case in 0..10 * 6 * 2 * 2 {
            let [polls, event, from_remote, second] =
                digits(case, [10, 6, 2, 2]);
            run(async {
                let world = World::new(1, &[("book", Some(1))]);
                let levels = &world.processes(1)[0];
                if from_remote == 1 {
                    drop(levels.get("book", 0.0).await);
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
                    _ => {
                        levels.channel_lost();
                        levels.channel_restored(filter(&["book"]));
                    }
                }
                let names = [
                    "`invalidate`",
                    "`on_invalidation`",
                    "`channel_lost`",
                    "`channel_restored`",
                    "256 calls of `on_invalidation`",
                    "`channel_lost` and `channel_restored`",
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
                     local level",
                    names[event],
                    if had_ended { "before" } else { "after" }
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
            let mut fills: Vec<_> = keys
                .iter()
                .flat_map(|key| [key, key])
                .map(|key| Box::pin(levels.get(key, 0.0)))
                .collect();
            for fill in &mut fills {
                let _ = poll_times(1, fill);
            }
            levels.on_invalidation("another key");
            for fill in fills {
                drop(fill.await);
            }
            world.lock().calls.clear();
            for key in &keys {
                drop(levels.get(key, 0.0).await);
            }
            let calls = world.lock().calls.clone();
            let missed = calls.iter().filter(|c| c.kind() == GET).count();
            assert!(
                missed <= 150,
                "{missed} of 1,500 keys are not in the local level. Two `get`s \
                 of each key were running when another key was invalidated: \
                 expected at most 150"
            );
        });
    }

    #[test]
    fn threads_that_read_and_invalidate_leave_no_old_value() {
        let (row, done) = (Row::default(), AtomicBool::new(false));
        let levels = Levels::new(config(), Empty, row.clone());
        levels.channel_restored(filter(&["book"]));
        let runtime = || {
            let runtime = Builder::new_current_thread().enable_time().build();
            runtime.unwrap()
        };
        let reader = || {
            runtime().block_on(async {
                while !done.load(SeqCst) {
                    drop(levels.get("book", 0.0).await);
                }
            });
        };
        let write = async |value| {
            // The next reads are misses. Meanwhile, the row changes.
            levels.on_invalidation("book");
            (0..value % 128 * 8).for_each(|_| std::hint::spin_loop());
            row.0.store(value, SeqCst);
            levels.on_invalidation("book");
            for _ in 0..3 {
                let seen = levels.get("book", 0.0).await;
                if seen != Ok(Some(Price(value))) {
                    return Some(seen);
                }
            }
            None
        };
        runtime().block_on(async {
            // On one thread first: a fill that has read the row.
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
        std::thread::scope(|scope| {
            scope.spawn(reader);
            scope.spawn(reader);
            let old = runtime().block_on(async {
                for value in 2..10_000 {
                    if let Some(seen) = write(value).await {
                        return Some((value, seen));
                    }
                }
                None
            });
            done.store(true, SeqCst);
            assert_eq!(
                old, None,
                "a value that was written, and the different result of a \
                 `get` after its `on_invalidation` (left), expected no such \
                 result (right), while two other threads call `get`"
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
                let keys: Vec<_> = (0..=limit).map(|i| i.to_string()).collect();
                let world = World::new(1, &[]);
                let config = Config { loads_without_remote: limit, ..config() };
                let levels = world.process(config);
                levels.channel_restored(filter(&keys));
                world.lock().plans[GET].outcome = failures[failure];
                world.lock().plans[LOAD].before = 100 * SECOND;
                for round in 0..3 {
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
                             run without the remote level, and no more do"
                        );
                    }
                    world.lock().calls.clear();
                    let seen = levels.get(&keys[limit], 0.0).await;
                    assert_eq!(
                        seen,
                        Err(GetError::Refused),
                        "a read (left), expected (right), whose remote `get` \
                         fails, with `loads_without_remote: {limit}`, while \
                         {limit} such loads run"
                    );
                    let calls = world.lock().calls.clone();
                    let get = Call::Get(keys[limit].clone());
                    assert_eq!(
                        calls,
                        [get],
                        "the calls of a refused read (left), expected (right)"
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
                    let is_get = |c: &Call| c.kind() == GET;
                    assert!(
                        calls.iter().all(is_get),
                        "calls from the refused read to the end of all loads: \
                         {calls:?}, expected no `set` after a remote `get` \
                         that has failed"
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
                let _ = poll_times(polls + 1, &mut read);
                drop(read);
                world.lock().plans[panics].outcome = Outcome::Ok;
                for _ in 0..2 {
                    let seen = levels.get("book", 0.0).await;
                    assert_eq!(
                        seen,
                        Ok(Some(Price(1))),
                        "`get` (left), expected (right), after another `get`, \
                         in which {} would panic, was polled {} times at \
                         most, and then dropped. Bad entry: {}, the remote \
                         `get` fails: {}",
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

/// Steps of a schedule: only reads, changes of rows, time, and bad bytes.
const READS: [usize; 10] = [0, 0, 0, 0, 0, 0, 1, 2, 2, 3];
const TIMEOUT: Duration = Duration::from_millis(1_000);
const GET: usize = 0;
const SET: usize = 1;
const DELETE: usize = 2;
const PUBLISH: usize = 3;
const LOAD: usize = 4;
const CALLS: [&str; 5] = ["`get`", "`set`", "`delete`", "`publish`", "`load`"];
/// No call takes so long.
const NEVER: Duration = Duration::from_secs(10_000);

fn config() -> Config {
    Config {
        capacity: 10_000.try_into().unwrap(),
        local_ttl: 8 * SECOND,
        remote_ttl: 64 * SECOND,
        negative_ttl: 4 * SECOND,
        unsynced_ttl: 2 * SECOND,
        jitter: 0.5,
        remote_timeout: TIMEOUT,
        loads_without_remote: 1,
    }
}

fn filter<K: AsRef<str>>(keys: &[K]) -> AtomicBloomFilter {
    let filter = AtomicBloomFilter::with_false_pos(1e-6).seed(&7);
    let filter = filter.expected_items(4_000);
    keys.iter().for_each(|key| _ = filter.insert(key.as_ref()));
    filter
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Price(u32);

impl Value for Price {
    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u32::from_be_bytes(bytes)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Broken;

/// A row that is never missing.
#[derive(Clone, Default)]
struct Row(Arc<AtomicU32>);

impl Origin for Row {
    type Value = Price;
    type Error = Broken;

    async fn load(&self, _: &str) -> Result<Option<Price>, Broken> {
        let value = self.0.load(SeqCst);
        wait(Duration::ZERO).await;
        Ok(Some(Price(value)))
    }
}

/// A remote level that stores nothing.
struct Empty;

impl Remote for Empty {
    type Error = Broken;

    async fn get(&self, _: &str) -> Result<Option<Stored>, Broken> {
        Ok(None)
    }

    async fn set(
        &self,
        _: &str,
        _: Vec<u8>,
        _: Duration,
    ) -> Result<(), Broken> {
        Ok(())
    }

    async fn delete(&self, _: &str) -> Result<(), Broken> {
        Ok(())
    }

    async fn publish(&self, _: &str) -> Result<(), Broken> {
        Ok(())
    }
}

/// A simulated remote level and origin, which processes share.
#[derive(Clone)]
struct World(Arc<Mutex<State>>);

#[derive(Debug, Clone, Default)]
struct State {
    /// Keys that are here, but have no price, are absent.
    rows: HashMap<String, Option<u32>>,
    /// The entries, and when they expire.
    remote: HashMap<String, (Vec<u8>, Option<Instant>)>,
    /// The messages for each process. `None` if its channel is lost.
    messages: Vec<Option<Vec<String>>>,
    /// What calls of each kind do.
    plans: [Plan; 5],
    calls: Vec<Call>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Get(String),
    Set(String, Vec<u8>, Duration),
    Delete(String),
    Publish(String),
    Load(String),
}

/// How long a call takes before and after its effect, and how it ends.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    before: Duration,
    after: Duration,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Outcome {
    #[default]
    Ok,
    Error,
    Hang,
    Panic,
}

impl Call {
    fn kind(&self) -> usize {
        match self {
            Self::Get(_) => GET,
            Self::Set(..) => SET,
            Self::Delete(_) => DELETE,
            Self::Publish(_) => PUBLISH,
            Self::Load(_) => LOAD,
        }
    }
}

impl State {
    /// What a call does and returns.
    fn execute(&mut self, call: &Call, now: Instant) -> Option<Stored> {
        match call {
            Call::Get(key) => {
                let (bytes, end) = self.remote.get(key)?.clone();
                let rest = |end: Instant| end.saturating_duration_since(now);
                let ttl = end.map_or(Duration::MAX, rest);
                return (!ttl.is_zero()).then_some(Stored { bytes, ttl });
            }
            Call::Set(key, bytes, ttl) => {
                let entry = (bytes.clone(), now.checked_add(*ttl));
                self.remote.insert(key.clone(), entry);
            }
            Call::Delete(key) => _ = self.remote.remove(key),
            Call::Publish(key) => {
                let queues = self.messages.iter_mut().flatten();
                queues.for_each(|queue| queue.push(key.clone()));
            }
            Call::Load(_) => {}
        }
        None
    }

    fn row(&self, key: &str) -> Option<Price> {
        self.rows.get(key).copied().flatten().map(Price)
    }
}

impl World {
    fn new(processes: usize, rows: &[(&str, Option<u32>)]) -> Self {
        let rows = rows.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let messages = vec![Some(Vec::new()); processes];
        let state = State { rows, messages, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Returns a process whose channel is lost.
    fn process(&self, config: Config) -> Levels<Self, Self> {
        Levels::new(config, self.clone(), self.clone())
    }

    /// Returns processes with a filter that has the keys of all rows.
    fn processes(&self, n: usize) -> Vec<Levels<Self, Self>> {
        let keys: Vec<_> = self.lock().rows.keys().cloned().collect();
        let process = |_| {
            let levels = self.process(config());
            levels.channel_restored(filter(&keys));
            levels
        };
        (0..n).map(process).collect()
    }

    fn write(&self, key: &str, row: Option<u32>) {
        self.lock().rows.insert(key.to_owned(), row);
    }

    /// Delivers all messages.
    fn deliver(&self, levels: &[Levels<Self, Self>]) {
        for (i, process) in levels.iter().enumerate() {
            self.deliver_to(i, process);
        }
    }

    fn deliver_to(&self, i: usize, process: &Levels<Self, Self>) {
        let queue = self.lock().messages[i].as_mut().map(std::mem::take);
        let messages = queue.unwrap_or_default();
        messages.iter().for_each(|key| process.on_invalidation(key));
    }

    fn begin(&self, call: &Call) -> Plan {
        let mut state = self.lock();
        state.calls.push(call.clone());
        state.plans[call.kind()]
    }

    async fn call(&self, call: Call) -> Result<Option<Stored>, Broken> {
        let Plan { before, after, outcome } = self.begin(&call);
        wait(before).await;
        // Looked up again: it may have changed during the wait.
        let outcome = match outcome {
            Outcome::Ok => self.lock().plans[call.kind()].outcome,
            _ => outcome,
        };
        match outcome {
            Outcome::Ok => {}
            Outcome::Error => return Err(Broken),
            Outcome::Hang => pending().await,
            Outcome::Panic => panic!("on purpose"),
        }
        let reply = self.lock().execute(&call, Instant::now());
        wait(after).await;
        Ok(reply)
    }

    fn expect(
        &self,
        key: &str,
        row: Option<u32>,
        seen: Result<Option<Price>, GetError<Broken>>,
    ) {
        let calls = &self.lock().calls;
        let latest = &calls[calls.len().saturating_sub(10)..];
        assert_eq!(
            seen.map(|value| value.map(|price| price.0)),
            Ok(row),
            "`get` of {key:?} (left), expected (right); the latest calls: \
             {latest:?}"
        );
    }
}

impl Remote for World {
    type Error = Broken;

    async fn get(&self, key: &str) -> Result<Option<Stored>, Broken> {
        self.call(Call::Get(key.to_owned())).await
    }

    async fn set(
        &self,
        key: &str,
        bytes: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), Broken> {
        self.call(Call::Set(key.to_owned(), bytes, ttl)).await.map(drop)
    }

    async fn delete(&self, key: &str) -> Result<(), Broken> {
        self.call(Call::Delete(key.to_owned())).await.map(drop)
    }

    async fn publish(&self, key: &str) -> Result<(), Broken> {
        self.call(Call::Publish(key.to_owned())).await.map(drop)
    }
}

impl Origin for World {
    type Value = Price;
    type Error = Broken;

    async fn load(&self, key: &str) -> Result<Option<Price>, Broken> {
        let row = self.lock().row(key);
        self.call(Call::Load(key.to_owned())).await.map(|_| row)
    }
}

/// The rules, for calls one after the other.
struct Model {
    config: Config,
    state: State,
    now: Instant,
    processes: Vec<Process>,
}

#[derive(Debug, Clone, Default)]
struct Process {
    entries: HashMap<String, Local>,
    keys: Option<HashSet<String>>,
}

#[derive(Debug, Clone)]
struct Local {
    value: Option<Price>,
    since: Instant,
    ttl: Duration,
}

impl Model {
    fn call(
        &mut self,
        call: Call,
    ) -> Result<Option<Stored>, RemoteError<Broken>> {
        let plan = self.state.plans[call.kind()];
        let limit = if call.kind() == LOAD { 1_000 * SECOND } else { TIMEOUT };
        let (took, result) = match plan.outcome {
            Outcome::Ok if plan.before < limit => {
                let at = self.now + plan.before;
                let reply = self.state.execute(&call, at);
                (plan.before + plan.after, Ok(reply))
            }
            Outcome::Error => (plan.before, Err(RemoteError::Failed(Broken))),
            _ => (limit, Ok(None)),
        };
        self.state.calls.push(call);
        self.now += took.min(limit);
        if took < limit { result } else { Err(RemoteError::TimedOut) }
    }

    fn get(
        &mut self,
        p: usize,
        key: &str,
        rand: f64,
    ) -> Result<Option<Price>, GetError<Broken>> {
        let process = &self.processes[p];
        if let Some(entry) = process.entries.get(key)
            && self.now - entry.since < entry.ttl
        {
            return Ok(entry.value);
        }
        if process.keys.as_ref().is_some_and(|keys| !keys.contains(key)) {
            return Ok(None);
        }
        let mut entry = self.fill(key.to_owned(), rand)?;
        let config = self.config;
        let unsynced = config.local_ttl.min(config.unsynced_ttl);
        let process = &mut self.processes[p];
        let ttl = process.keys.as_ref().map_or(unsynced, |_| config.local_ttl);
        entry.ttl = entry.ttl.min(self.config.life(ttl, rand));
        process.entries.insert(key.to_owned(), entry.clone());
        Ok(entry.value)
    }

    fn fill(
        &mut self,
        key: String,
        rand: f64,
    ) -> Result<Local, GetError<Broken>> {
        let since = self.now;
        let found = self.call(Call::Get(key.clone()));
        if let Ok(Some(Stored { bytes, ttl })) = &found {
            let value = match &**bytes {
                [0] => Some(None),
                [1, a, b, c, d] => Some(Price::decode(&[*a, *b, *c, *d])),
                _ => None,
            };
            if let Some(value) = value {
                return Ok(Local { value, since, ttl: *ttl });
            }
            let _ = self.call(Call::Delete(key.clone()));
        }
        if found.is_err() && self.config.loads_without_remote == 0 {
            return Err(GetError::Refused);
        }
        let since = self.now;
        let value = self.state.row(&key);
        let load = self.call(Call::Load(key.clone()));
        load.map_err(|_| GetError::Origin(Broken))?;
        let (bytes, ttl) = match value {
            Some(price) => {
                ([vec![1], price.encode()].concat(), self.config.remote_ttl)
            }
            None => (vec![0], self.config.negative_ttl),
        };
        let ttl = self.config.life(ttl, rand);
        let rest = ttl.saturating_sub(self.now - since);
        if found.is_ok() && !rest.is_zero() {
            let _ = self.call(Call::Set(key, bytes, rest));
        }
        Ok(Local { value, since, ttl })
    }

    fn invalidate(
        &mut self,
        p: usize,
        key: &str,
    ) -> Result<(), RemoteError<Broken>> {
        let deleted = self.call(Call::Delete(key.to_owned()));
        self.forget(p, key);
        let published = self.call(Call::Publish(key.to_owned()));
        deleted.and(published).map(drop)
    }

    fn forget(&mut self, p: usize, key: &str) {
        let Process { entries, keys } = &mut self.processes[p];
        entries.remove(key);
        keys.as_mut().map(|keys| keys.insert(key.to_owned()));
    }
}

trait Life {
    fn life(&self, ttl: Duration, rand: f64) -> Duration;
}

impl Life for Config {
    fn life(&self, ttl: Duration, rand: f64) -> Duration {
        ttl - ttl.mul_f64(self.jitter * rand)
    }
}

/// Runs random schedules of the steps `kinds`, and compares each result, each
/// call and the time with those of the model.
fn check_schedules(cases: usize, kinds: &[usize], delays: &[[u64; 2]]) {
    const STEPS: [u64; 8] = [1, 500, 999, 1_000, 2_000, 4_000, 8_000, 32_000];
    let bytes: [&[u8]; 8] = [
        &[],
        &[0, 1],
        &[1],
        &[2],
        &[1, 0, 0, 0],
        &[1, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 9],
        &[0],
    ];
    let steps =
        vec((0..kinds.len(), 0..3_usize, 0..3_usize, 0..8_usize), 1..60);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Default::default(), rng);
    for case in 0..cases {
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let bases = [delays.len(), 2, 3, 2, 4];
        let [delay, loads_without_remote, load, capped, lives] =
            digits(case, bases);
        let [before, after] = delays[delay].map(Duration::from_millis);
        run(async {
            let world = World::new(3, &[]);
            let plan = Plan { before, after, outcome: Outcome::Ok };
            let load = [0, 5, 200][load] * SECOND;
            world.lock().plans = [plan; 5];
            world.lock().plans[LOAD] = Plan { before: load, ..plan };
            let unsynced_ttl = [2, 100][capped] * SECOND;
            let mut config =
                Config { unsynced_ttl, loads_without_remote, ..config() };
            match lives {
                0 => config.local_ttl = Duration::MAX,
                1 => config.remote_ttl = Duration::MAX,
                2 => config.negative_ttl = Duration::ZERO,
                _ => {}
            }
            let levels: Vec<_> =
                (0..3).map(|_| world.process(config)).collect();
            let (state, now) = (world.lock().clone(), Instant::now());
            let processes = vec![Process::default(); 3];
            let mut model = Model { config, state, now, processes };
            let mut channels = "lost at first, and `channel_restored` gets \
                                the keys of the rows that are not `None`";
            if kinds == READS {
                channels = "restored at first, with all keys";
                for (process, levels) in model.processes.iter_mut().zip(&levels)
                {
                    process.keys = Some(KEYS.map(String::from).into());
                    levels.channel_restored(filter(&KEYS));
                }
            }
            let mut names = Vec::new();
            for (kind, p, k, x) in steps {
                let key = KEYS[k];
                let row = (x > 1).then_some(x as u32);
                let mut seen = format!("{:?}", ());
                let mut expected = seen.clone();
                let name = match kinds[kind] {
                    0 => {
                        let rand = x as f64 / 8.0;
                        seen = returned(levels[p].get(key, rand)).await;
                        expected = debug(model.get(p, key, rand));
                        format!("process {p}: `get({key:?}, {rand})`")
                    }
                    1 => {
                        world.write(key, row);
                        model.state.rows.insert(key.to_owned(), row);
                        format!("the row of {key:?} changes to {row:?}")
                    }
                    2 => {
                        let step = Duration::from_millis(STEPS[x]);
                        advance(step).await;
                        model.now += step;
                        format!("{step:?} pass")
                    }
                    3 => {
                        let end = model.now + 5 * SECOND;
                        let entry = (bytes[x].to_vec(), Some(end));
                        model.state.remote.insert(key.into(), entry.clone());
                        world.lock().remote.insert(key.into(), entry);
                        let bytes = bytes[x];
                        format!("the remote entry of {key:?} is now {bytes:?}")
                    }
                    4 => {
                        world.write(key, row);
                        model.state.rows.insert(key.to_owned(), row);
                        seen = returned(levels[p].invalidate(key)).await;
                        expected = debug(model.invalidate(p, key));
                        format!(
                            "the row of {key:?} changes to {row:?}, process \
                             {p}: `invalidate({key:?})`"
                        )
                    }
                    5 => {
                        let queue = &mut model.state.messages[p];
                        let queue = queue.as_mut().map(std::mem::take);
                        for key in queue.unwrap_or_default() {
                            model.forget(p, &key);
                        }
                        world.deliver_to(p, &levels[p]);
                        format!("process {p}: `on_invalidation` per message")
                    }
                    6 => {
                        world.lock().messages[p] = None;
                        model.state.messages[p] = None;
                        levels[p].channel_lost();
                        model.processes[p] = Process::default();
                        format!("process {p}: `channel_lost`")
                    }
                    7 => {
                        world.lock().messages[p] = Some(Vec::new());
                        model.state.messages[p] = Some(Vec::new());
                        let exists = |k: &&str| model.state.row(k).is_some();
                        let keys = KEYS.iter().copied().filter(exists);
                        let keys: Vec<_> = keys.map(String::from).collect();
                        levels[p].channel_restored(filter(&keys));
                        let keys = Some(keys.into_iter().collect());
                        let entries = HashMap::new();
                        model.processes[p] = Process { entries, keys };
                        format!("process {p}: `channel_restored`")
                    }
                    8 => {
                        let kind = x % 5;
                        let hang = [Outcome::Hang, Outcome::Error];
                        let hang = hang[usize::from(kind == LOAD)];
                        let outcome = [Outcome::Ok, Outcome::Error, hang][k];
                        world.lock().plans[kind].outcome = outcome;
                        model.state.plans[kind].outcome = outcome;
                        let call = CALLS[kind];
                        format!("from now on, {call} ends by {outcome:?}")
                    }
                    _ => {
                        for state in [&mut model.state, &mut world.lock()] {
                            for plan in &mut state.plans {
                                plan.outcome = Outcome::Ok;
                            }
                        }
                        "from now on, all calls end by Ok".to_owned()
                    }
                };
                names.push(name);
                let calls = std::mem::take(&mut world.lock().calls);
                let seen = (seen, calls, Instant::now() - now);
                let calls = std::mem::take(&mut model.state.calls);
                let expected = (expected, calls, model.now - now);
                assert_eq!(
                    seen,
                    expected,
                    "a step's result, its calls, and the time since the start \
                     (left), expected (right). The channels are {channels}. \
                     {}. Remote calls take {before:?} until their \
                     effect and {after:?} after it, `load` takes {load:?} and \
                     {after:?}. The step is the last one of this list: {}",
                    debug(config).replace(&debug(Duration::MAX), "MAX"),
                    names.join("; ")
                );
            }
        });
    }
}

fn debug(value: impl Debug) -> String {
    format!("{value:?}")
}

/// Returns the result of `call` as text.
async fn returned(call: impl Future<Output: Debug>) -> String {
    timeout(NEVER, call).await.map_or("it never returns".to_owned(), debug)
}

/// Returns the digits of a number with these bases.
fn digits<const N: usize>(mut number: usize, bases: [usize; N]) -> [usize; N] {
    bases.map(|base| {
        let digit = number % base;
        number /= base;
        digit
    })
}

/// Runs a test in paused time, which advances when all tasks wait.
fn run(test: impl Future<Output = ()>) {
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let test = timeout(1_000_000 * SECOND, test).await;
        test.expect("a call of `get` or `invalidate` never returns");
    });
}

/// Waits, and for at least one poll.
async fn wait(time: Duration) {
    if !time.is_zero() {
        return sleep(time).await;
    }
    let mut is_first = true;
    poll_fn(|context| {
        if !std::mem::take(&mut is_first) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Polls `future` at most `n` times.
fn poll_times<F: Future>(
    n: usize,
    future: &mut Pin<Box<F>>,
) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..n {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}

/// Returns `None` if `future` panics.
async fn catch<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let poll = AssertUnwindSafe(|| future.as_mut().poll(context));
        catch_unwind(poll).map_or(Poll::Ready(None), |poll| poll.map(Some))
    })
    .await
}
