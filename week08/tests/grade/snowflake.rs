use std::collections::{HashMap, HashSet, VecDeque};
use std::future::pending;
use std::mem::replace;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use lab::cancel::after_polls;
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use week08::snowflake::{
    Config, EPOCH, Failed, Generator, Grant, Ids, Millis, NoId, Refused,
    Registry, TOLERANCE, Table, Worker,
};

const TTL: u64 = 9_000;
const MARGIN: u64 = 1_000;
const NOW: Millis = EPOCH + 10_000_000_000;
const LAST: u64 = (1 << 41) - 1;

mod sequence {
    use super::*;

    #[test]
    fn any_clock_and_any_latest_id_match_the_model() {
        let edges = [0, 1, EPOCH - 1, EPOCH, EPOCH + 1, EPOCH + LAST - 1];
        let beyond = [EPOCH + LAST, EPOCH + LAST + 1, u64::MAX - 1, u64::MAX];
        let edges = [&edges[..], &beyond].concat();
        for random in numbers(1_500, 3, 40) {
            let Some((start, steps)) = random.split_first_chunk::<3>() else {
                continue;
            };
            let worker = worker((start[0] >> 32) as u16 % 1024);
            let edge = edges[start[1] as usize % edges.len()];
            let mut now = [edge, NOW + start[1] % LAST][start[0] as usize % 2];
            let mut pair = if start[0] % 3 == 0 {
                let latest = now.saturating_sub(EPOCH).min(LAST);
                let sequence = [0, 1, 4_094, 4_095, start[2]];
                let sequence = sequence[start[2] as usize % 5] % 4_096;
                Pair::after((latest, worker.get().into(), sequence))
            } else if start[0] % 3 == 1 {
                now = EPOCH + (start[2] >> 22) % (LAST + 1);
                Pair::after(parts(start[2] >> 1))
            } else {
                let used_to = now.wrapping_add(start[2] % 12).wrapping_sub(6);
                Pair::new(worker, used_to)
            };
            for step in steps.chunks_exact(3) {
                let amount = step[1] % 14;
                now = match step[0] % 10 {
                    0..3 => now,
                    3 | 4 => now.saturating_add(1),
                    5 | 6 => now.saturating_sub(amount),
                    7 => now.saturating_add(amount),
                    8 => EPOCH.max(pair.clock()) + step[1] % 4 * amount,
                    _ => edges[step[1] as usize % edges.len()],
                };
                let calls = [1, 1, 2, 3, 17, 130, 4_095, 4_096, 4_100];
                for _ in 0..calls[(step[2] % 63).saturating_sub(54) as usize] {
                    pair.next(now);
                }
            }
        }
    }

    #[test]
    fn each_worker_gets_4096_of_5000_ids_in_a_millisecond() {
        for id in 0..1024 {
            for now in [EPOCH + 1, NOW, EPOCH + LAST] {
                let calls = if id % 64 < 2 || id > 1_021 { 5_000 } else { 3 };
                let generator = Generator::new(worker(id), now - 1);
                for sequence in 0..calls {
                    let seen = generator.try_next(now);
                    let expected = if sequence < 4_096 {
                        Ok((now - EPOCH, id.into(), sequence))
                    } else {
                        Err(full(1))
                    };
                    assert_eq!(seen.map(parts), expected, "call {sequence}");
                    assert!(seen.is_ok_and(|id| id >> 63 == 0) || calls > 3);
                }
            }
        }
    }

    #[test]
    fn threads_get_unique_ids_and_each_sees_them_increase() {
        for latest in [0, 4_000] {
            let first = (NOW - EPOCH) << 22 | 7 << 12 | latest;
            let generator = Generator::after(first);
            let position = |id| {
                let (ms, _, sequence) = parts(id);
                (ms << 12 | sequence) - ((NOW - EPOCH) << 12) - latest
            };
            let (clock, start) = (AtomicU64::new(NOW), Barrier::new(4));
            // How often a thread has seen that others took ids in between.
            let (switches, begun) = (AtomicU64::new(0), Instant::now());
            let is_done = |ids: usize| {
                let cap = Duration::from_secs(3);
                let enough = ids >= 10_000 && switches.load(SeqCst) >= 60;
                enough || begun.elapsed() > cap
            };
            let take = |behind| {
                let (mut ids, mut before, mut odd) = (Vec::new(), 0, 0_u64);
                start.wait();
                while !is_done(ids.len()) {
                    odd = 1 - odd;
                    let now = clock.load(SeqCst) - behind * odd;
                    match generator.try_next(now) {
                        Ok(id) => {
                            ids.push(id);
                            let at = position(id);
                            let alone = u64::from(at == before + 1);
                            switches.fetch_add(1 - alone, SeqCst);
                            before = at;
                        }
                        Err(Refused::Full { .. }) => {
                            clock.fetch_max(now + 1, SeqCst);
                        }
                        // Other threads have moved the clock on.
                        Err(Refused::ClockBack { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
                let increase = ids.is_sorted_by(|a, b| a < b);
                assert!(increase, "the ids of a thread do not increase");
                ids
            };
            let all = thread::scope(|scope| {
                let threads = [0, 1, 3, 4]
                    .map(|behind| scope.spawn(move || take(behind)));
                threads.map(|thread| thread.join().expect("no panic"))
            });
            // A millisecond is full before the clock moves on.
            let end = clock.load(SeqCst) - EPOCH;
            let mut is_used = vec![false; all.iter().map(Vec::len).sum()];
            for id in all.into_iter().flatten() {
                let (ms, worker, _) = parts(id);
                assert!(worker == 7 && ms <= end, "{id}, clock at {end}");
                let used = is_used.get_mut(position(id) as usize - 1);
                let used = used.expect("an id was left out");
                assert!(!replace(used, true), "id {id} was returned twice");
            }
        }
    }
}

mod waits {
    use super::*;

    #[test]
    fn a_full_millisecond_is_waited_out_within_the_bound() {
        for (calls, tasks) in [(1, 17), (5_000, 1), (13_000, 1), (9, 1_500)] {
            paused(async {
                let (db, wall) = (Db::new(1), Wall::new());
                let ids = Arc::new(wall.ids(&db, 1_000));
                settle().await;
                let start = Instant::now();
                let mut set = JoinSet::new();
                for _ in 0..tasks {
                    let ids = Arc::clone(&ids);
                    set.spawn(async move {
                        let mut all = Vec::new();
                        for _ in 0..calls {
                            all.push(ids.next().await.expect("an id"));
                        }
                        all
                    });
                }
                let mut all = HashSet::new();
                for ids in set.join_all().await {
                    assert!(ids.is_sorted_by(|a, b| a < b), "ids of a task");
                    all.extend(ids);
                }
                assert_eq!(all.len(), calls * tasks, "different ids");
                let (took, full) = (ms(start), (calls * tasks / 4_096) as u64);
                let bounds = full..=2 * full + 1;
                assert!(bounds.contains(&took), "{took} ms, not {bounds:?}");
            });
        }
        for (max_wait, sequence) in
            [(0, 0), (0, 7), (1, 0), (17, 9), (130, 4_095)]
        {
            paused(async {
                // The clock stands still.
                let (db, wall) = (Db::new(1), Wall::new());
                let ids = wall.ids(&db, max_wait);
                settle().await;
                wall.set(Some(NOW + sequence));
                for _ in 0..4_096 {
                    ids.next().await.expect("an id");
                }
                let start = Instant::now();
                let expected = Err(NoId { refused: full(1), cause: None });
                let minute = Duration::from_secs(60);
                let seen = timeout(minute, ids.next()).await;
                let seen = seen.expect("a call hangs");
                assert_eq!(seen, expected, "a clock stands still");
                let (took, least) = (ms(start), max_wait / 2);
                let bounds = least..=max_wait + 1;
                assert!(bounds.contains(&took), "{took} ms, not {bounds:?}");
            });
        }
    }

    #[test]
    fn a_clock_step_is_waited_out_if_it_fits_in_the_bound() {
        let steps = [0, 1, 2, 4, 5, 6, 7, 17, 130, 1_500].into_iter();
        for (by, full_ms) in steps.flat_map(|by| [(by, false), (by, true)]) {
            for wait in [0, 1, 6, 10, by, by + 1, 2_000] {
                paused(async {
                    let (db, wall) = (Db::new(1), Wall::new());
                    let ids = wall.ids(&db, wait);
                    sleep(Duration::from_secs(1)).await;
                    let now = wall.now();
                    let mut latest = ids.next().await.expect("an id");
                    for _ in 1..if full_ms { 4_096 } else { 5 } {
                        latest = ids.next().await.expect("an id");
                    }
                    wall.step(-(by as i64));
                    let start = Instant::now();
                    let seen = ids.next().await;
                    let took = ms(start);
                    let text = format!("{by} ms back, may wait {wait} ms");
                    let (needs, refused) = match (full_ms, by) {
                        (true, ..=TOLERANCE) => (by + 1, full(by + 1)),
                        (false, ..=TOLERANCE) => (0, full(0)),
                        // The rest of a full millisecond is waited out, too.
                        _ => (by, back(by)),
                    };
                    if needs > wait {
                        let expected = Err(NoId { refused, cause: None });
                        assert_eq!((seen, took), (expected, 0), "{text}");
                    } else if needs == 0 {
                        assert_eq!((seen, took), (Ok(latest + 1), 0), "{text}");
                    } else if !full_ms || needs < wait {
                        let id = seen.expect(&text);
                        assert!(id > latest, "{id} after {latest}, {text}");
                        let bounds = needs..=needs + 3;
                        assert!(bounds.contains(&took), "{took} ms, {text}");
                        assert!(parts(id).0 <= now - EPOCH + 3, "{text}");
                    }
                });
            }
        }
    }

    #[test]
    fn a_time_outside_of_the_41_bits_is_refused_at_once() {
        for wait in [0, 17, 100_000] {
            paused(async {
                let times = [EPOCH - 1, 0, EPOCH + LAST + 1, EPOCH + LAST + 99];
                for (case, time) in times.into_iter().enumerate() {
                    let (db, wall) = (Db::new(1), Wall::new());
                    // The lease has a bound that is close to the end.
                    let first = [EPOCH + 1, EPOCH + LAST][case / 2];
                    wall.set(Some(first));
                    let ids = wall.ids(&db, wait);
                    settle().await;
                    let seen = ids.next().await.map(parts);
                    assert_eq!(seen, Ok((first - EPOCH, 0, 0)));
                    wall.set(Some(time));
                    let refused = if time < EPOCH {
                        Refused::BeforeEpoch
                    } else {
                        Refused::OutOfTime
                    };
                    let start = Instant::now();
                    let expected = Err(NoId { refused, cause: None });
                    assert_eq!(ids.next().await, expected, "time {time}");
                    assert_eq!(ms(start), 0, "waited, time {time}");
                    // Renewals are sent with these clocks.
                    for time in [time, u64::MAX] {
                        wall.set(Some(time));
                        sleep(Duration::from_millis(TTL / 3 + 5)).await;
                    }
                    wall.set(Some(first));
                    sleep(Duration::from_millis(TTL)).await;
                    let seen = ids.next().await.map(parts);
                    let expected = Ok((first - EPOCH, 0, 1));
                    assert_eq!(seen, expected, "after time {time}");
                }
            });
        }
    }

    #[test]
    fn a_call_dropped_at_any_poll_leaves_nothing_behind() {
        for (case, polls) in (0..3).flat_map(|c| (1..7).map(move |p| (c, p))) {
            paused(async {
                let (db, wall) = (Db::new(1), Wall::new());
                db.push([Answer { after: 1_500, ..OK }]);
                let ids = wall.ids(&db, 1_000_000);
                settle().await;
                wall.set(Some(NOW));
                if case > 0 {
                    sleep(Duration::from_millis(1_600)).await;
                    for _ in 0..4_096 {
                        let id = after_polls(1, ids.next()).await;
                        let id = id.expect("an id at the first poll");
                        id.expect("an id");
                    }
                }
                if case == 2 {
                    wall.set(Some(NOW - 50));
                }
                let sent = db.sent().len();
                let clocks = Arc::strong_count(&wall.0);
                let call = after_polls(polls, ids.next());
                _ = timeout(Duration::from_millis(1_000), call).await;
                assert_eq!(db.sent().len(), sent, "requests to the registry");
                let now = Arc::strong_count(&wall.0);
                assert_eq!(now, clocks, "clones of the clock");
                sleep(Duration::from_millis(600)).await;
                wall.set(Some(NOW + 1));
                let next = ids.next().await.map(parts);
                let expected = (NOW + 1 - EPOCH, 0, 0);
                assert_eq!(next, Ok(expected), "case {case}, {polls} polls");
            });
        }
    }
}

mod lease {
    use super::*;

    #[test]
    fn issuing_stops_before_the_lease_ends_counted_from_the_request() {
        for random in numbers(80, 2, 6) {
            paused(async {
                let (db, wall) = (Db::new(1), Wall::new());
                // The answers are late, and then the registry is away.
                let answers: Vec<_> = random
                    .chunks_exact(2)
                    .map(|r| (r[0] % 1_500, r[1] % 1_480))
                    .map(|(before, after)| Answer { before, after, ..OK })
                    .collect();
                let good = answers.len();
                db.push(answers);
                db.lock().default = HANG;
                let ids = wall.ids(&db, 0);
                for _ in 0..300 * good + 10 {
                    if db.sent().len() <= good {
                        sleep(Duration::from_millis(10)).await;
                    }
                }
                assert_eq!(db.sent().len(), good + 1, "requests");
                let id = ids.next().await;
                assert_eq!(id.is_ok(), good > 0, "{id:?}, {good} good answers");
                let sent = db.sent()[good.saturating_sub(1)].at;
                for late in [0, 1, 500, 1_500, 30_000] {
                    let late = Duration::from_millis(TTL - MARGIN + late);
                    sleep_until(sent + late).await;
                    let seen = ids.next().await.map_err(|e| e.refused);
                    let expected = Err(Refused::NotLeased);
                    assert_eq!(seen, expected, "{late:?} after the request");
                }
            });
        }
    }

    #[test]
    fn a_lease_is_valid_up_to_its_margin_whatever_the_wall_clock_shows() {
        let steps = [None, Some(0), Some(4), Some(2_900), Some(3_600_000)];
        for (margin, step) in [0, 1, 1_000, TTL - 500, TTL, TTL + 1, u64::MAX]
            .into_iter()
            .flat_map(|margin| steps.map(|step| (margin, step)))
        {
            paused(async {
                let (db, wall) = (Db::new(1), Wall::new());
                db.push([OK]);
                db.lock().default = ERROR;
                let config = Config {
                    margin: Duration::from_millis(margin),
                    ..config(0)
                };
                let ids = Ids::new(db.clone(), config, wall.clock());
                settle().await;
                let start = db.sent()[0].at;
                sleep(Duration::from_millis(410)).await;
                let stop = TTL.saturating_sub(margin);
                if stop > 410 {
                    assert!(ids.next().await.is_ok(), "margin {margin}");
                }
                match step {
                    None => wall.set(Some(wall.now())),
                    Some(by) => wall.step(-by),
                }
                let mut times = [411, 3_500, stop.saturating_sub(2)];
                times.sort_unstable();
                for at in times {
                    sleep_until(start + Duration::from_millis(at)).await;
                    let seen = ids.next().await.map_err(|e| e.refused);
                    let is_late = ms(start) >= stop;
                    let is_refused = seen == Err(Refused::NotLeased);
                    let text = format!("{seen:?} at {at}, margin {margin}");
                    assert_eq!(is_refused, is_late, "{text}");
                }
                for late in [0, 1, 500, 30_000] {
                    let late = Duration::from_millis(stop + late);
                    sleep_until(start + late).await;
                    let seen = ids.next().await.map_err(|e| e.refused);
                    let expected = Err(Refused::NotLeased);
                    assert_eq!(seen, expected, "at {late:?}, margin {margin}");
                }
            });
        }
    }

    #[test]
    fn any_answers_of_the_registry_lead_to_the_requests_of_the_model() {
        for random in numbers(150, 3, 25) {
            paused(async {
                let (db, wall) = (Db::new(1_024), Wall::new());
                let answers: Vec<_> = random.chunks_exact(3).collect();
                let answers = answers.iter().map(|r| {
                    let outcomes = [OK, OK, OK, ERROR, ERROR, LOST, HANG];
                    let outcome = outcomes[r[0] as usize % 7];
                    let (before, after) = (r[1] % 1_480, r[2] % 1_480);
                    let before = before * [0, 1, 2, 1][r[0] as usize % 4] + 10;
                    let after = after * (r[0] % 3);
                    Answer { before, after, ..outcome }
                });
                let answers: Vec<_> = answers.collect();
                db.push(answers.iter().copied());
                db.lock().default = Answer { before: 10, ..OK };
                // 90 days have more than 32 bits of milliseconds.
                let ttl = [TTL, TTL + 990, 90 * 86_400_000];
                let ttl = ttl[random.len() % 3];
                let config =
                    Config { ttl: Duration::from_millis(ttl), ..config(0) };
                let ids = Ids::new(db.clone(), config, wall.clock());
                settle().await;
                let mut held: Option<(Grant, Instant)> = None;
                for (n, answer) in answers.into_iter().enumerate() {
                    let sent = db.sent()[n];
                    let text = format!("request {n}, {answer:?}");
                    let renews = held.map(|(grant, _)| grant);
                    assert_eq!(sent.renews, renews, "renewed lease, {text}");
                    assert_eq!(sent.ttl, config.ttl, "{text}");
                    let until = wall.at(sent.at) + ttl;
                    assert_eq!(sent.until, until, "bound, {text}");

                    let Answer { before, after, outcome } = answer;
                    let mut took = before;
                    let is_lost = outcome == Outcome::Lost && held.is_some();
                    if outcome != Outcome::Error && !is_lost {
                        took += after;
                    }
                    let in_time = took < ttl / 3 && outcome != Outcome::Hang;
                    let mut cause = None;
                    let pause;
                    if !in_time {
                        (took, pause) = (ttl / 3, ttl / 3 + ttl / 10);
                        cause = Some(Failed::TimedOut);
                    } else if outcome == Outcome::Error {
                        (took, pause) = (before, before + ttl / 10);
                        cause = Some(Failed::Registry(n));
                    } else if is_lost {
                        (held, pause) = (None, took);
                    } else {
                        pause = ttl / 3;
                    }
                    let answered = sent.at + Duration::from_millis(took + 3);
                    // The next request of a lost lease may be there already.
                    if in_time && outcome != Outcome::Error && took < pause {
                        let stop = Duration::from_millis(ttl - MARGIN);
                        sleep_until(answered).await;
                        let grants = &db.lock().grants;
                        let grant = *grants.last().expect("a grant");
                        held = Some((grant, sent.at + stop));
                    } else {
                        sleep_until(answered).await;
                    }
                    let seen = ids.next().await;
                    let now = Instant::now();
                    match held.filter(|(_, stop)| now < *stop) {
                        Some((grant, _)) => {
                            let seen = seen.map(|id| parts(id).1);
                            let worker = grant.worker.get().into();
                            assert_eq!(seen, Ok(worker), "worker, {text}");
                        }
                        None => {
                            let refused = Refused::NotLeased;
                            let expected = Err(NoId { refused, cause });
                            assert_eq!(seen, expected, "after {text}");
                        }
                    }
                    let next = sent.at + Duration::from_millis(pause);
                    sleep_until(next + Duration::from_millis(3)).await;
                    let all = db.sent();
                    assert_eq!(all.len(), n + 2, "requests, {text}");
                    let seen = all[n + 1].at;
                    let bounds = next..=next + Duration::from_millis(3);
                    let seen_after = seen.duration_since(sent.at);
                    assert!(bounds.contains(&seen), "{seen_after:?}, {text}");
                }
            });
        }
    }

    #[test]
    fn a_new_holder_begins_above_the_bound_of_the_old_one() {
        for ahead in [0, 1, 4, 5, 6, 7, 17, 130, 1_500, 20_000] {
            for wait in [0, 1, 6, 20, 1_500, 200_000] {
                paused(async {
                    let (db, wall) = (Db::new(1), Wall::new());
                    let start = wall.now();
                    // The old holder, whose clock was ahead.
                    let short = Duration::from_millis(1);
                    let bound = start + 10 + ahead;
                    let old = db.table.acquire(short, bound).await;
                    old.expect("the table is empty");
                    sleep(Duration::from_millis(10)).await;
                    let ids = wall.ids(&db, wait);
                    settle().await;
                    let (start, now) = (Instant::now(), wall.now());
                    let seen = ids.next().await;
                    let left = (bound + 1).saturating_sub(now);
                    let text = format!("bound {left} ms ahead, waits {wait}");
                    let took = ms(start);
                    match seen {
                        Ok(id) => {
                            let at = parts(id).0 + EPOCH;
                            assert!(at > bound, "{at}, not > {bound}");
                            let bounds = left..=left + 4;
                            assert!(bounds.contains(&took), "{took}: {text}");
                            assert!(left <= wait, "{text}");
                        }
                        Err(error) => {
                            assert!(left > wait || left > 6 && left >= wait);
                            let behind = bound.saturating_sub(now);
                            let expected = if behind > 5 {
                                back(behind)
                            } else {
                                full(left)
                            };
                            let after = took > 0 && error.refused == full(1);
                            let right = error.refused == expected && took == 0;
                            assert!(right || after, "{error:?}, {text}");
                        }
                    }
                });
            }
        }
    }

    #[test]
    fn a_clock_ahead_of_the_bound_waits_for_a_renewal() {
        for jump in [TTL - 10, TTL, TTL + 10, 2 * TTL, 100 * TTL] {
            paused(async {
                let (db, wall) = (Db::new(2), Wall::new());
                let ids = wall.ids(&db, 0);
                let next = async || {
                    let seen = ids.next().await.map(parts);
                    seen.map_err(|error| error.refused)
                };
                settle().await;
                let bound = db.sent()[0].until;
                let now = NOW + jump;
                let at = now - EPOCH;
                wall.set(Some(now));
                let issued = u64::from(now <= bound);
                let expected = match issued {
                    0 => Err(Refused::NotLeased),
                    _ => Ok((at, 0, 0)),
                };
                assert_eq!(next().await, expected, "the bound is {bound}");
                // The next renewal raises the bound, and the ids go on.
                sleep(Duration::from_millis(TTL / 3 + 5)).await;
                let expected = Ok((at, 0, issued));
                assert_eq!(next().await, expected, "after a renewal");
                // A renewal with a lower bound does not lower it.
                wall.set(Some(now - 3));
                sleep(Duration::from_millis(TTL / 3 + 5)).await;
                let expected = Ok((at, 0, issued + 1));
                assert_eq!(next().await, expected, "3 ms back");
                wall.set(Some(now + TTL));
                let expected = Ok((at + TTL, 0, 0));
                assert_eq!(next().await, expected, "at the bound");
                wall.set(Some(now + TTL + 1));
                let expected = Err(Refused::NotLeased);
                assert_eq!(next().await, expected, "above the bound");
                // The next lease has a lower bound.
                wall.set(Some(NOW));
                db.push([LOST]);
                sleep(Duration::from_millis(TTL / 3 + 5)).await;
                wall.set(Some(NOW + TTL + 1));
                assert_eq!(next().await, expected, "above the new bound");
                wall.set(Some(NOW + TTL));
                let expected = Ok((NOW + TTL - EPOCH, 1, 0));
                assert_eq!(next().await, expected, "at the new bound");
            });
        }
        for jump in [1, TTL / 4, TTL / 2, TTL, 3 * TTL] {
            paused(async {
                // The clock is ahead again each time that it is read.
                let (db, reads) = (Db::new(1), AtomicU64::new(NOW));
                let clock = Arc::new(move || reads.fetch_add(jump, SeqCst));
                let ids = Ids::new(db.clone(), config(0), clock);
                settle().await;
                for _ in 0..50 {
                    if let Ok(id) = ids.next().await {
                        let bounds = db.sent().into_iter().map(|s| s.until);
                        let (at, bound) = (parts(id).0 + EPOCH, bounds.max());
                        assert!(Some(at) <= bound, "{at}, bound {bound:?}");
                    }
                    sleep(Duration::from_millis(500)).await;
                }
            });
        }
    }

    #[test]
    fn issuers_with_skewed_clocks_never_repeat_an_id() {
        let (mut issued, mut leases) = (0, 0);
        for random in numbers(12, 2_000, 1) {
            paused(async {
                let db = Db::new(2);
                let new = || {
                    let wall = Wall::new();
                    let ids = wall.ids(&db, 0);
                    (wall, ids)
                };
                let mut issuers = [new(), new(), new()];
                let mut latest = HashMap::new();
                for random in random.chunks_exact(2) {
                    let which = random[1] as usize % 3;
                    let answers = [ERROR, HANG, LOST, ERROR];
                    let skew = (random[1] >> 8) as i64;
                    match random[0] % 40 {
                        0 => issuers[which] = new(),
                        1 => issuers[which].0.step(skew % 3_000),
                        2..5 => issuers[which].0.step(skew % 5),
                        5 => db.push([answers[random[1] as usize % 4]; 12]),
                        6 => db.push([Answer {
                            after: skew as u64 % 4_000,
                            ..OK
                        }]),
                        _ => {}
                    }
                    let pause = [1, 1, 7, 130, 1_500][random[1] as usize % 5];
                    sleep(Duration::from_millis(pause)).await;
                    for (_, ids) in &issuers {
                        for _ in 0..1 + random[0] % 3 {
                            let Ok(id) = ids.next().await else { continue };
                            issued += 1;
                            // Of all holders together.
                            let worker = parts(id).1;
                            let before = latest.insert(worker, id);
                            assert!(
                                before < Some(id),
                                "{id} after {before:?}, worker {worker}"
                            );
                        }
                    }
                }
                leases += db.lock().grants.len();
            });
        }
        assert!(issued > 3_000, "{issued} ids");
        assert!(leases > 100, "{leases} leases");
    }

    #[test]
    fn waiting_calls_get_ids_as_soon_as_there_is_a_lease() {
        for delay in [0, 1, 500, 2_000, 2_990] {
            for (wait, calls) in
                [(0, 1), (400, 17), (1_000, 2), (2_500, 130), (u64::MAX, 1_500)]
            {
                paused(async {
                    let (db, wall) = (Db::new(1), Wall::new());
                    // The first answer is late, or the second one.
                    if calls % 2 == 0 {
                        db.push([Answer { before: 50, ..ERROR }]);
                    }
                    let late = delay + (50 + TTL / 10) * (1 - calls % 2);
                    db.push([Answer { after: delay, ..OK }]);
                    let ids = Arc::new(wall.ids(&db, wait));
                    settle().await;
                    let mut set = JoinSet::new();
                    for _ in 0..calls {
                        let ids = Arc::clone(&ids);
                        set.spawn(async move {
                            let start = Instant::now();
                            (ids.next().await, ms(start))
                        });
                    }
                    // The failure comes while the calls wait.
                    let fails = calls % 2 == 0 && wait > 50;
                    let cause = fails.then_some(Failed::Registry(0));
                    for (seen, took) in set.join_all().await {
                        let text = format!("{took} ms: {late}, {wait} ms");
                        let least = late.min(wait);
                        let bounds = least..=least + 3;
                        assert!(bounds.contains(&took), "{text}");
                        if late < wait || late == 0 {
                            assert!(seen.is_ok(), "{seen:?}, {text}");
                            continue;
                        }
                        let error = seen.expect_err(&text);
                        assert_eq!(error.refused, Refused::NotLeased, "{text}");
                        assert_eq!(error.cause, cause, "{text}");
                    }
                });
            }
        }
    }

    #[test]
    fn any_clock_steps_and_failures_lead_to_the_result_of_the_model() {
        for random in numbers(1_500, 12, 1) {
            paused(async {
                // All times end in other digits, so no two of them are close.
                let start = random[0] % 120 * 100 + 60;
                let fails = random[1] % 11;
                let waits = [0, 150, 850, 2_550, 7_050, 1_000_050];
                let wait = waits[random[2] as usize % 6];
                let (mut steps, mut at) = (Vec::new(), start);
                for r in random[3..].chunks_exact(2) {
                    let most = [5, 15, 60, 200][r[0] as usize % 4];
                    let by = ((r[0] >> 8) % most * 100 + 7) as i64;
                    let is_ahead = (r[0] >> 40).is_multiple_of(4);
                    steps.push((at, if is_ahead { by } else { -by }));
                    at = at / 100 * 100 + 130 + r[1] % 20 * 100;
                }
                let (db, wall) = (Db::new(1), Wall::new());
                db.push([OK]);
                db.push(vec![ERROR; fails as usize]);
                let begin = Instant::now();
                let ids = wall.ids(&db, wait);
                settle().await;
                let mut latest = ids.next().await.expect("an id");
                sleep_until(begin + Duration::from_millis(start)).await;
                if let Some(Ok(id)) = after_polls(1, ids.next()).await {
                    latest = id;
                }
                wall.step(steps[0].1);
                let later_steps = async {
                    for (at, by) in &steps[1..] {
                        sleep_until(begin + Duration::from_millis(*at)).await;
                        wall.step(*by);
                    }
                    pending::<()>().await;
                };
                let seen = tokio::select! {
                    seen = ids.next() => seen,
                    () = later_steps => unreachable!(),
                };
                let end = ms(begin);
                let call = Call { start, fails, wait, steps };
                let model = call.model(latest);
                let Some((expected, least)) = model else { return };
                let text = format!("{call:?}, latest {:?}", parts(latest));
                let bounds = least..=least + 8;
                assert!(bounds.contains(&end), "{seen:?} at {end} ms: {text}");
                let Err(expected) = expected else {
                    let id = seen.expect(&text);
                    assert!(id > latest, "{id}, {text}");
                    return;
                };
                let seen = seen.expect_err(&text);
                assert_eq!(seen.cause, expected.cause, "{text}");
                let by = [seen.refused, expected.refused].map(|refused| {
                    refused.retry_after().map(|by| by.as_millis())
                });
                let same = match by {
                    [Some(seen), Some(expected)] => {
                        (seen..=seen + 8).contains(&expected)
                    }
                    _ => seen.refused == expected.refused,
                };
                assert!(same, "{seen:?}, not {expected:?}: {text}");
            });
        }
    }

    #[test]
    fn dropping_the_issuer_ends_its_requests() {
        let answers = [OK, ERROR, HANG, Answer { after: 2_000, ..OK }];
        for (answer, at) in answers.into_iter().flat_map(|a| {
            [0, 1, 500, 1_000, 3_000, 3_500, 7_000].map(|at| (a, at))
        }) {
            paused(async {
                let (db, wall) = (Db::new(1), Wall::new());
                db.lock().default = answer;
                let ids = wall.ids(&db, 0);
                sleep(Duration::from_millis(at)).await;
                drop(ids);
                settle().await;
                let sent = db.sent().len();
                assert!(
                    sent > 0 || at == 0,
                    "no request before the drop, {at} ms"
                );
                assert_eq!(Arc::strong_count(&db.log), 1, "registries, {at}");
                assert_eq!(Arc::strong_count(&wall.0), 1, "clocks, {at}");
                sleep(Duration::from_millis(10 * TTL)).await;
                assert_eq!(db.sent().len(), sent, "requests after the drop");
            });
        }
    }
}

/// A call of `next`. All times are in milliseconds.
#[derive(Debug)]
struct Call {
    start: u64,
    /// The number of requests that fail, from the second one on.
    fails: u64,
    wait: u64,
    /// When the clock steps, and by how much.
    steps: Vec<(u64, i64)>,
}

impl Call {
    /// Returns the result, and when it is returned. `None` if more than one is
    /// right.
    fn model(&self, latest: u64) -> Option<(Result<(), NoId<usize>>, u64)> {
        let latest = (parts(latest).0 + EPOCH - NOW) as i64;
        let clock = |at: u64| {
            let steps = self.steps.iter().filter(|(step, _)| *step <= at);
            at as i64 + steps.map(|(_, by)| by).sum::<i64>()
        };
        // One request leases a worker id, some fail, and all others renew.
        let nth = |n| TTL / 3 + n * (TTL / 10);
        let failures: Vec<_> = (0..self.fails).map(nth).collect();
        let renewed = nth(self.fails);
        let renewals = (0..1_000).map(|n| renewed + n * (TTL / 3));
        let sent: Vec<_> = [0].into_iter().chain(renewals).collect();
        let is_valid = |at| {
            let sent = sent.iter().take_while(|sent| **sent <= at);
            let bound = sent.clone().map(|sent| clock(*sent) + TTL as i64);
            let sent = sent.last().expect("the first one");
            at < sent + TTL - MARGIN && Some(clock(at)) <= bound.max()
        };
        let end = self.start + self.wait;
        let mut at = self.start;
        loop {
            let behind = (latest - clock(at)).max(0) as u64;
            let (refused, next) = if !is_valid(at) {
                let next = *sent.iter().find(|sent| **sent > at)?;
                // At these times, a call may try again, or not.
                let mut others = failures.iter().chain([&end]);
                if others.any(|t| (at..next).contains(t) && is_valid(*t)) {
                    return None;
                }
                (Refused::NotLeased, next)
            } else if behind > TOLERANCE {
                (back(behind), at + behind)
            } else {
                return Some((Ok(()), at));
            };
            if next > end {
                if refused == Refused::NotLeased {
                    at = end;
                }
                let failed = failures.iter().rposition(|time| *time <= at);
                let cause = failed.filter(|_| at < renewed);
                let cause = cause.map(|n| Failed::Registry(n + 1));
                return Some((Err(NoId { refused, cause }), at));
            }
            at = next;
        }
    }
}

fn worker(id: u16) -> Worker {
    Worker::new(id).expect("10 bits")
}

/// The timestamp, the worker and the sequence of an id.
fn parts(id: u64) -> (u64, u64, u64) {
    (id >> 22, id >> 12 & 1023, id & 4095)
}

fn full(millis: u64) -> Refused {
    Refused::Full { retry_after: Duration::from_millis(millis) }
}

fn back(millis: u64) -> Refused {
    Refused::ClockBack { by: Duration::from_millis(millis) }
}

fn ms(start: Instant) -> u64 {
    start.elapsed().as_millis() as u64
}

fn config(max_wait: u64) -> Config {
    Config {
        ttl: Duration::from_millis(TTL),
        margin: Duration::from_millis(MARGIN),
        max_wait: Duration::from_millis(max_wait),
    }
}

/// Returns `n` lists of up to `most` times `each` numbers. With a `most` of 1,
/// all have this length.
fn numbers(
    n: usize,
    each: usize,
    most: usize,
) -> impl Iterator<Item = Vec<u64>> {
    let least = if most == 1 { each } else { 0 };
    let numbers = vec(0..u64::MAX, least..=each * most);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Default::default(), rng);
    (0..n)
        .map(move |_| numbers.new_tree(&mut runner).expect("a value").current())
}

/// Runs `test` with a clock that advances when all tasks are idle.
fn paused<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build();
    // Without the box, `block_on` would be compiled for each test.
    let test: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(test);
    runtime.expect("a runtime").block_on(async {
        let years = Duration::from_secs(20 * 365 * 86_400);
        timeout(years, test).await.expect("a call hangs")
    })
}

/// Lets the tasks run until they wait for something.
async fn settle() {
    for _ in 0..12 {
        yield_now().await;
    }
}

/// A generator, and a model of it.
struct Pair {
    generator: Generator,
    timestamp: u64,
    worker: u64,
    sequence: u64,
}

impl Pair {
    fn new(worker: Worker, used_to: Millis) -> Self {
        let timestamp = used_to.saturating_sub(EPOCH).min(LAST);
        let generator = Generator::new(worker, used_to);
        Self {
            generator,
            timestamp,
            worker: worker.get().into(),
            sequence: 4095,
        }
    }

    fn after((timestamp, worker, sequence): (u64, u64, u64)) -> Self {
        let latest = timestamp << 22 | worker << 12 | sequence;
        let generator = Generator::after(latest);
        Self { generator, timestamp, worker, sequence }
    }

    fn clock(&self) -> Millis {
        EPOCH + self.timestamp
    }

    fn next(&mut self, now: Millis) {
        let before = (self.clock(), self.sequence);
        let expected = match i128::from(now) - i128::from(self.clock()) {
            _ if now < EPOCH => Err(Refused::BeforeEpoch),
            _ if now - EPOCH > LAST => Err(Refused::OutOfTime),
            1.. => Ok((now - EPOCH, 0)),
            behind if behind < -5 => Err(back(-behind as u64)),
            behind if self.sequence == 4095 => Err(full((1 - behind) as u64)),
            _ => Ok((self.timestamp, self.sequence + 1)),
        };
        let seen = self.generator.try_next(now).map(parts);
        if let Ok(next) = expected {
            (self.timestamp, self.sequence) = next;
        }
        let expected =
            expected.map(|(ms, sequence)| (ms, self.worker, sequence));
        assert_eq!(seen, expected, "at {now}, after {before:?}");
    }
}

/// A wall clock, which may be wrong.
struct Wall(Arc<Mutex<Skew>>, Instant);

#[derive(Default)]
struct Skew {
    skew: i64,
    still: Option<Millis>,
}

impl Wall {
    fn new() -> Self {
        Self(Arc::default(), Instant::now())
    }

    fn at(&self, time: Instant) -> Millis {
        let elapsed = time.duration_since(self.1).as_millis() as u64;
        let skew = self.0.lock().expect("no panic while locked");
        let now = NOW + elapsed;
        skew.still.unwrap_or(now.saturating_add_signed(skew.skew))
    }

    fn now(&self) -> Millis {
        self.at(Instant::now())
    }

    fn step(&self, by: i64) {
        self.0.lock().expect("no panic while locked").skew += by;
    }

    fn set(&self, still: Option<Millis>) {
        self.0.lock().expect("no panic while locked").still = still;
    }

    fn clock(&self) -> week08::snowflake::Clock {
        let wall = Self(Arc::clone(&self.0), self.1);
        Arc::new(move || wall.now())
    }

    fn ids(&self, db: &Db, max_wait: u64) -> Ids<Db> {
        Ids::new(db.clone(), config(max_wait), self.clock())
    }
}

/// A registry with delays and failures. The clones share it.
#[derive(Clone)]
struct Db {
    table: Arc<Table>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    sent: Vec<Sent>,
    grants: Vec<Grant>,
    answers: VecDeque<Answer>,
    default: Answer,
}

#[derive(Clone, Copy)]
struct Sent {
    at: Instant,
    renews: Option<Grant>,
    ttl: Duration,
    until: Millis,
}

/// An answer, and the milliseconds before and after the statement.
#[derive(Debug, Clone, Copy, Default)]
struct Answer {
    before: u64,
    after: u64,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Outcome {
    #[default]
    Ok,
    Error,
    Lost,
    Hang,
}

const OK: Answer = Answer { before: 0, after: 0, outcome: Outcome::Ok };
const ERROR: Answer = Answer { outcome: Outcome::Error, ..OK };
const LOST: Answer = Answer { outcome: Outcome::Lost, ..OK };
const HANG: Answer = Answer { outcome: Outcome::Hang, ..OK };

impl Db {
    fn new(workers: u16) -> Self {
        Self { table: Arc::new(Table::new(workers)), log: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no panic while locked")
    }

    fn push(&self, answers: impl IntoIterator<Item = Answer>) {
        self.lock().answers.extend(answers);
    }

    fn sent(&self) -> Vec<Sent> {
        self.lock().sent.clone()
    }

    async fn begin(
        &self,
        renews: Option<Grant>,
        ttl: Duration,
        until: Millis,
    ) -> Result<(usize, Answer), usize> {
        let (number, answer) = {
            let mut log = self.lock();
            let at = Instant::now();
            log.sent.push(Sent { at, renews, ttl, until });
            let default = log.default;
            let answer = log.answers.pop_front().unwrap_or(default);
            (log.sent.len() - 1, answer)
        };
        pause(answer.before).await;
        match answer.outcome {
            // So that a task which asks again and again does not hang.
            _ if number > 5_000 => pending().await,
            Outcome::Error => Err(number),
            Outcome::Hang => pending().await,
            Outcome::Ok | Outcome::Lost => Ok((number, answer)),
        }
    }
}

async fn pause(millis: u64) {
    if millis > 0 {
        sleep(Duration::from_millis(millis)).await;
    }
}

impl Registry for Db {
    type Error = usize;

    async fn acquire(
        &self,
        ttl: Duration,
        until: Millis,
    ) -> Result<Grant, usize> {
        let (number, answer) = self.begin(None, ttl, until).await?;
        let grant = self.table.acquire(ttl, until).await;
        let grant = grant.map_err(|_| number)?;
        self.lock().grants.push(grant);
        pause(answer.after).await;
        Ok(grant)
    }

    async fn renew(
        &self,
        grant: Grant,
        ttl: Duration,
        until: Millis,
    ) -> Result<bool, usize> {
        let (number, answer) = self.begin(Some(grant), ttl, until).await?;
        if answer.outcome == Outcome::Lost {
            return Ok(false);
        }
        let is_held = self.table.renew(grant, ttl, until).await;
        let is_held = is_held.map_err(|_| number)?;
        pause(answer.after).await;
        Ok(is_held)
    }
}
