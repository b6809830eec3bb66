use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lab::cancel::after_polls;
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep, timeout};
use week08::segment::{
    BadRange, Config, DoubleBuffer, Exhausted, Failed, Segments, Store,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const TICK: Duration = Duration::from_millis(2);
const HIGHEST: u64 = i64::MAX as u64;

mod buffer {
    use super::*;

    #[test]
    fn a_refill_is_due_when_a_tenth_is_used_and_no_spare_is_left() {
        for len in [1, 2, 9, 10, 11, 19, 20, 21, 130, 1_500] {
            for give_up in [false, true] {
                let mut pair = Pair::default();
                for _ in 0..3 * len {
                    pair.claim();
                    if pair.claimed {
                        if give_up {
                            pair.give_up();
                            pair.claim();
                        }
                        pair.claim();
                        pair.put(pair.leased_to..pair.leased_to + len);
                        pair.claim();
                    }
                    pair.next();
                }
            }
        }
    }

    #[test]
    fn empty_overlapping_and_too_high_ranges_are_refused() {
        for base in [0, 1, 1_500, u64::from(u32::MAX), HIGHEST - 11] {
            for used in [0, 1, 9, 10] {
                let mut pair = Pair::default();
                pair.put(base..base);
                pair.put(base..base + 10);
                (0..used).for_each(|_| pair.next());
                let end = base + 10;
                pair.put(Range { start: end + 1, end });
                pair.put(Range { start: u64::MAX, end: 0 });
                for bad in [0..1, base..end, base..end + 1, end - 1..end + 1] {
                    pair.put(bad);
                }
                for bad in [end..end, 0..u64::MAX] {
                    pair.put(bad);
                }
                for end in [HIGHEST + 1, HIGHEST + 2, u64::MAX] {
                    pair.put(HIGHEST..end);
                }
                pair.put(end..end + 1);
                pair.next();
                pair.put(HIGHEST - 1..HIGHEST);
                (0..12).for_each(|_| pair.next());
            }
        }
    }

    #[test]
    fn any_ranges_are_handed_out_in_order_without_a_gap() {
        for ops in numbers(300, 3, 120) {
            let mut pair = Pair::default();
            for op in ops.chunks_exact(3) {
                let from = pair.leased_to;
                let start = from + [0, 0, 1, 1_000, 1 << 40][op[1] % 5];
                let len = [1, 2, 9, 10, 11, 20, 47][op[2] % 7];
                match op[0] % 16 {
                    0..8 => pair.next(),
                    8..11 => pair.claim(),
                    11 if pair.claimed => pair.give_up(),
                    12 if pair.claimed => pair.put(start..start),
                    13 if pair.claimed => {
                        pair.put(from.saturating_sub(len)..start)
                    }
                    14.. if pair.claimed => pair.put(start..start + len),
                    _ => (0..len).for_each(|_| pair.next()),
                }
            }
            // The last range is too long to be used up.
            let len = 1 << (30 + ops.len() % 33);
            for _ in 0..200 {
                if pair.claimed {
                    pair.put(pair.leased_to..pair.leased_to + len);
                }
                pair.next();
                pair.claim();
            }
        }
    }
}

mod step {
    use super::*;

    #[test]
    fn the_step_doubles_below_15_and_halves_above_30_minutes() {
        let nano = Duration::from_nanos(1);
        let bounds = [15 * MINUTE, 30 * MINUTE].into_iter();
        let times = bounds.flat_map(|at| [at - nano, at, at + nano]);
        let times = times.chain([Duration::ZERO, 20 * MINUTE, Duration::MAX]);
        let steps = [1, 2, 3, 17, 130, 1_500, u64::MAX / 2 + 1, u64::MAX];
        for lasted in times {
            for (min, max) in steps.iter().flat_map(|a| steps.map(|b| (*a, b)))
            {
                let config = config(min, max);
                for step in [0].into_iter().chain(steps) {
                    let seen = config.adapt(step, lasted);
                    let wide = u128::from(step);
                    let wide = match lasted {
                        _ if lasted < 15 * MINUTE => 2 * wide,
                        _ if lasted > 30 * MINUTE => wide / 2,
                        _ => wide,
                    };
                    let expected = wide.min(max.into()).max(min.into());
                    assert_eq!(
                        u128::from(seen),
                        expected,
                        "step {step} after {lasted:?}, {min} to {max}"
                    );
                }
            }
        }
    }
}

mod refill {
    use super::*;

    #[test]
    fn each_lease_has_the_step_for_the_time_that_the_ids_lasted() {
        for times in numbers(60, 2, 20) {
            paused(async {
                let (db, mut config) = (Db::default(), config(3, 70));
                config.backoff = MINUTE;
                config.lease_timeout = HOUR;
                let ids = Segments::new(db.clone(), config);
                assert_eq!(ids.next().await, Ok(0));
                settle().await;
                // The first id is the tenth of the first range.
                let tries: Vec<_> = db.tries().iter().map(|t| t.0).collect();
                assert_eq!(tries, [3, 6], "steps of the first leases");
                let mut step = 6_u64;
                for time in times.chunks_exact(2) {
                    let minutes = [0, 5, 9, 11, 13, 14, 23, 27, 31, 90];
                    advance(minutes[time[0] % 10] * MINUTE).await;
                    let latency = [0, 4][time[0] / 10 % 2] * MINUTE;
                    db.lock().latency = latency;
                    let leased_at = db.lock().leased_at.expect("two leases");
                    let from = db.lock().max_id + step.div_ceil(10) - 1;
                    let used = step;
                    step = config.adapt(step, leased_at.elapsed());
                    let outage = [0, 0, 3, 40][time[1] % 4] * MINUTE;
                    if outage > Duration::ZERO {
                        db.lock().answer = Answer::Error;
                    }
                    let before = db.tries().len();
                    let mut id = 0;
                    while db.tries().len() == before {
                        id = ids.next().await.expect("ids are at hand");
                        settle().await;
                    }
                    assert_eq!(id + used, from, "the id that starts a refill");
                    sleep(outage).await;
                    db.lock().answer = Answer::Lease;
                    sleep(config.backoff + 2 * latency + TICK).await;
                    for (seen, _) in db.tries().split_off(before) {
                        assert_eq!(seen, step, "step of a lease or its retry");
                    }
                }
            });
        }
    }

    #[test]
    fn an_outage_is_survived_for_all_ids_that_were_leased() {
        for step in [1, 2, 10, 17, 130, 1_500] {
            paused(async {
                let (db, config) = (Db::default(), config(step, step));
                let ids = Segments::new(db.clone(), config);
                for outage in 1..4 {
                    // A tenth of a range is used.
                    let tenth = 5 * outage * step + step.div_ceil(10) - 1;
                    let mut id = ids.next().await.expect("the store is there");
                    while id < tenth {
                        settle().await;
                        id = ids.next().await.expect("the store is there");
                    }
                    settle().await;
                    db.lock().answer = Answer::Error;
                    let (start, last) = (Instant::now(), db.lock().max_id);
                    while id + 1 < last {
                        let next = ids.next().await;
                        settle().await;
                        assert_eq!(next, Ok(id + 1), "leased: 0..{last}");
                        id += 1;
                    }
                    let end = (5 * outage + 2) * step;
                    assert_eq!(last, end, "end of the spare, after {tenth}");
                    assert_eq!(start.elapsed(), Duration::ZERO, "waited");
                    let error = ids.next().await.expect_err("no ids are left");
                    let cause = error.cause.expect("the store has failed");
                    assert!(matches!(cause, Failed::Store(_)), "{cause:?}");
                    sleep(10 * MINUTE).await;
                    db.lock().answer = Answer::Lease;
                    sleep(config.backoff + TICK).await;
                    assert_eq!(ids.next().await, Ok(last), "after the outage");
                    settle().await;
                }
            });
        }
    }

    #[test]
    fn each_failed_lease_is_retried_once_after_the_backoff() {
        for (answer, later) in (0..8).flat_map(|a| [(a, 0), (a, 1), (a, 4)]) {
            paused(async {
                let (db, config) = (Db::default(), config(1, 1));
                let ids = Arc::new(Segments::new(db.clone(), config));
                for id in 0..later {
                    assert_eq!(ids.next().await, Ok(id));
                    settle().await;
                }
                let bad = db.lock().max_id;
                let (bad, took, cause) = match answer {
                    0 => (Answer::Error, 0, None),
                    1 => (Answer::Panic, 0, Some(Failed::Panicked)),
                    2 => (Answer::PanicLater, 0, Some(Failed::Panicked)),
                    3 => (Answer::Hang, 5, Some(Failed::TimedOut)),
                    _ => {
                        let reversed = Range { start: bad + 3, end: bad + 1 };
                        let old = bad.saturating_sub(1)..bad + 3;
                        let high = bad..HIGHEST + 1;
                        let bad = [bad..bad, old, reversed, high];
                        let mut bad = bad[answer - 4].clone();
                        if later == 0 && answer == 5 {
                            bad = 7..7;
                        }
                        let cause = Failed::BadRange(BadRange(bad.clone()));
                        (Answer::Range(bad), 0, Some(cause))
                    }
                };
                db.lock().answer = bad;
                let before = db.tries().len();
                // Uses up the spare, and then waits.
                let call = || {
                    let ids = Arc::clone(&ids);
                    tokio::spawn(async move { ids.next().await })
                };
                for _ in 0..u64::from(later > 0) {
                    ids.next().await.expect("a spare range");
                }
                settle().await;
                for second in 1..40 {
                    let calls: Vec<_> = (0..5).map(|_| call()).collect();
                    for call in calls {
                        let seen = call.await.expect("no panic reaches a call");
                        let expected = Exhausted { cause: cause.clone() };
                        let is_first = second <= took;
                        let tries = db.tries().len();
                        let seen = match seen {
                            Err(Exhausted {
                                cause: Some(Failed::Store(number)),
                            }) if answer == 0 => {
                                let is_latest = number + 1 >= tries;
                                let text = format!("{number} of {tries}");
                                assert!(is_latest, "error {text} leases");
                                continue;
                            }
                            Err(Exhausted { cause: None }) if is_first => {
                                continue;
                            }
                            seen => seen,
                        };
                        assert_eq!(seen, Err(expected), "second {second}");
                    }
                }
                let tries = db.tries().split_off(before);
                let pause = config.backoff + took * SECOND;
                for (a, b) in tries.iter().zip(&tries[1..]) {
                    let seen = b.1 - a.1;
                    let is_right = pause <= seen && seen <= pause + 2 * TICK;
                    assert!(
                        is_right,
                        "between leases: {seen:?}, not {pause:?}"
                    );
                }
                assert!(tries.len() >= 3, "{} leases in 39 s", tries.len());
                assert_eq!(db.lock().most, 1, "concurrent leases");
                db.lock().answer = Answer::Lease;
                let first = db.lock().max_id;
                sleep(pause + 2 * TICK).await;
                db.lock().answer = Answer::Hang;
                assert_eq!(ids.next().await, Ok(first), "after the failure");
                let seen = ids.next().await;
                assert_eq!(seen, Err(Exhausted { cause: None }), "later");
            });
        }
    }

    #[test]
    fn a_call_waits_for_an_id_up_to_the_bound() {
        let cases = [(0, 1), (500, 400), (500, 600), (500, 3_600_000)];
        let cases = cases.map(|(a, b)| [a, b].map(Duration::from_millis));
        let long = [HOUR, 100 * HOUR].map(|latency| [Duration::MAX, latency]);
        for [wait, latency] in cases.into_iter().chain(long) {
            paused(async {
                let (db, mut config) = (Db::default(), config(1, 1));
                config.max_wait = wait;
                config.lease_timeout = Duration::MAX;
                db.lock().latency = latency;
                let ids = Segments::new(db.clone(), config);
                let start = Instant::now();
                let seen = ids.next().await;
                let expected = wait.min(latency);
                let took = start.elapsed();
                let in_time = expected <= took && took <= expected + TICK;
                assert!(in_time, "waited {took:?}, not {expected:?}");
                if wait > latency {
                    assert_eq!(seen, Ok(0), "wait {wait:?}, lease {latency:?}");
                    return;
                }
                assert_eq!(seen, Err(Exhausted { cause: None }), "{latency:?}");
                sleep(latency + TICK).await;
                let start = Instant::now();
                assert_eq!(ids.next().await, Ok(0), "the lease went on");
                assert_eq!(start.elapsed(), Duration::ZERO, "waited");
            });
        }
    }

    #[test]
    fn each_of_many_calls_waits_for_its_id_up_to_the_bound() {
        // The store leases `len` ids at a time, whatever the step is.
        for (calls, len) in [(1, 1), (5, 1), (17, 3), (130, 17), (130, 200)] {
            for latency in [370, 150].map(Duration::from_millis) {
                paused(async {
                    let (db, config) = (Db::default(), config(4, 4));
                    db.lock().latency = latency;
                    db.lock().len = Some(len);
                    let ids = Arc::new(Segments::new(db, config));
                    let start = Instant::now();
                    let calls = (0..calls).map(|_| {
                        let ids = Arc::clone(&ids);
                        tokio::spawn(async move {
                            let id = ids.next().await;
                            (start.elapsed(), id)
                        })
                    });
                    let mut ends = Vec::new();
                    for call in calls.collect::<Vec<_>>() {
                        ends.push(call.await.expect("no panic"));
                    }
                    ends.sort_by_key(|(took, id)| (*took, id.clone().ok()));
                    for (n, (took, seen)) in (0..).zip(ends) {
                        let leases = n as u32 / len as u32 + 1;
                        let ready = leases * latency;
                        let expected = match ready < config.max_wait {
                            true => Ok(n),
                            false => Err(Exhausted { cause: None }),
                        };
                        assert_eq!(seen, expected, "call {n}, {ready:?}");
                        let end = ready.min(config.max_wait);
                        let in_time = end..=end + leases * TICK;
                        let text = format!("call {n} took {took:?}");
                        assert!(in_time.contains(&took), "{text}, not {end:?}");
                    }
                });
            }
        }
    }

    #[test]
    fn waiting_calls_get_ids_although_others_are_dropped() {
        for (calls, step) in [(1, 1), (2, 1), (17, 5), (130, 7), (1_500, 1_000)]
        {
            paused(async {
                let (db, mut config) = (Db::default(), config(step, step));
                config.max_wait = HOUR;
                db.lock().answer = Answer::Error;
                db.lock().latency = SECOND / 100;
                let ids = Arc::new(Segments::new(db.clone(), config));
                let calls = (0..calls).map(|i| {
                    let ids = Arc::clone(&ids);
                    let polls = if i % 3 == 0 { 1 + i % 2 } else { u32::MAX };
                    tokio::spawn(async move {
                        after_polls(polls.max(1), ids.next()).await
                    })
                });
                let calls: Vec<_> = calls.collect();
                sleep(10 * SECOND).await;
                assert!(db.tries().len() <= 6, "{} leases", db.tries().len());
                db.lock().answer = Answer::Lease;
                let mut seen = BTreeSet::new();
                for call in calls {
                    let id = call.await.expect("the call was not aborted");
                    let Some(id) = id else { continue };
                    let id = id.expect("ids come after the outage");
                    assert!(seen.insert(id), "id {id} was returned twice");
                }
                let next = ids.next().await;
                let all = seen.len() as u64;
                let most = all + u64::from(step == 1 || all % 2 == 1) + all;
                let next = next.expect("ids come after the outage");
                assert!((all..=most).contains(&next), "{next} after {all} ids");
                assert_eq!(db.lock().most, 1, "concurrent leases");
            });
        }
    }

    #[test]
    fn a_dropped_call_loses_no_id_and_does_not_stop_the_refill() {
        for polls in 1..20 {
            let complete = paused(async {
                let (db, config) = (Db::default(), config(1, 1));
                db.lock().latency = SECOND / 10;
                let ids = Segments::new(db.clone(), config);
                for id in 0..4 {
                    let seen = after_polls(polls, ids.next()).await;
                    sleep(SECOND).await;
                    let start = Instant::now();
                    let Some(seen) = seen else {
                        assert_eq!(ids.next().await, Ok(id), "next id");
                        assert_eq!(start.elapsed(), Duration::ZERO, "waited");
                        continue;
                    };
                    assert_eq!(seen, Ok(id), "after {polls} polls");
                }
                after_polls(polls, ids.next()).await.is_some()
            });
            if complete && polls > 4 {
                return;
            }
        }
    }

    #[test]
    fn threads_issuers_and_restarts_never_repeat_an_id() {
        let mut runtime = Builder::new_multi_thread();
        let runtime = runtime.worker_threads(4).enable_time().build();
        let runtime = runtime.expect("a runtime");
        let db = Db::default();
        db.lock().fails_every = 7;
        let (mut seen, mut issued) = (BTreeSet::new(), 0);
        for restart in 0..4 {
            let mut config = config(1 + 40 * restart, 1_000);
            config.max_wait = SECOND / 100;
            config.backoff = Duration::from_millis(1);
            let first = db.lock().max_id;
            let calls: Vec<_> = (0..2)
                .map(|_| Arc::new(Segments::new(db.clone(), config)))
                .flat_map(|ids| [(); 3].map(|()| Arc::clone(&ids)))
                .map(|ids| {
                    runtime.spawn(async move {
                        let mut all = Vec::new();
                        while all.len() < 4_000 {
                            all.extend(ids.next().await);
                        }
                        all
                    })
                })
                .collect();
            for call in calls {
                let call = async { timeout(8 * SECOND, call).await };
                let ids = runtime.block_on(call).expect("a call hangs");
                let ids = ids.expect("no panic");
                assert!(ids.is_sorted_by(|a, b| a < b), "ids of one caller");
                assert!(ids[0] >= first, "id {} after a restart", ids[0]);
                issued += ids.len();
                seen.extend(ids);
            }
            assert_eq!(seen.len(), issued, "different ids, ids issued");
        }
        let leased = db.lock().max_id;
        assert!(seen.last() < Some(&leased), "{seen:?} of 0..{leased}");
    }

    #[test]
    fn a_refill_starts_again_when_its_runtime_shuts_down() {
        for polls in [0, 1, 5] {
            let (db, mut config) = (Db::default(), config(1, 1));
            config.max_wait = HOUR;
            let ids = Arc::new(Segments::new(db.clone(), config));
            let first = runtime();
            first.block_on(async {
                assert_eq!(ids.next().await, Ok(0));
                settle().await;
                db.lock().latency = SECOND;
                assert_eq!(ids.next().await, Ok(1));
                for _ in 0..polls {
                    yield_now().await;
                }
            });
            runtime().block_on(async {
                let shared = Arc::clone(&ids);
                let call = tokio::spawn(async move { shared.next().await });
                settle().await;
                first.shutdown_background();
                let seen = timeout(MINUTE, call).await.expect("the call hangs");
                assert!(matches!(seen, Ok(Ok(2..4))), "{seen:?}");
                assert_eq!(db.lock().most, 1, "concurrent leases");
            });
        }
    }

    #[test]
    fn dropping_the_issuer_ends_its_refill() {
        for (answer, seconds) in (0..3).flat_map(|a| [(a, 0), (a, 1), (a, 7)]) {
            paused(async {
                let db = Db::default();
                let answers = [Answer::Error, Answer::Hang, Answer::Lease];
                db.lock().answer = { answers }[answer].clone();
                db.lock().latency = SECOND / 2;
                let ids = Segments::new(db.clone(), config(1, 1));
                _ = after_polls(1, ids.next()).await;
                sleep(seconds * SECOND).await;
                drop(ids);
                settle().await;
                let tries = db.tries().len();
                sleep(HOUR).await;
                assert_eq!(db.tries().len(), tries, "leases after the drop");
                assert_eq!(db.lock().running, 0, "leases that are running");
                assert_eq!(Arc::strong_count(&db.0), 1, "the store is kept");
            });
        }
    }
}

fn config(min: u64, max: u64) -> Config {
    Config {
        min_step: min.try_into().expect("not 0"),
        max_step: max.try_into().expect("not 0"),
        lease_timeout: 5 * SECOND,
        backoff: 2 * SECOND,
        max_wait: SECOND,
    }
}

fn numbers(
    n: usize,
    each: usize,
    most: usize,
) -> impl Iterator<Item = Vec<usize>> {
    let numbers = vec(0..10_000_usize, 0..each * most);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Default::default(), rng);
    (0..n)
        .map(move |_| numbers.new_tree(&mut runner).expect("a value").current())
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}

/// Runs `test` with a clock that advances when all tasks are idle.
fn paused<T>(test: impl Future<Output = T>) -> T {
    // Without the box, `block_on` would be compiled for each test.
    let test: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(test);
    runtime().block_on(async {
        timeout(200 * HOUR, test).await.expect("a call hangs")
    })
}

/// Lets the tasks run until they wait for something.
async fn settle() {
    for _ in 0..12 {
        yield_now().await;
    }
}

/// The row of a database. The clones share it.
#[derive(Clone, Default)]
struct Db(Arc<Mutex<Row>>);

#[derive(Default)]
struct Row {
    max_id: u64,
    answer: Answer,
    latency: Duration,
    /// The length of each range, if it is not the step.
    len: Option<u64>,
    /// If it is not 0, each lease with a multiple of this number fails.
    fails_every: usize,
    tries: Vec<(u64, Instant)>,
    leased_at: Option<Instant>,
    running: usize,
    most: usize,
}

#[derive(Clone, Default)]
enum Answer {
    #[default]
    Lease,
    Range(Range<u64>),
    Error,
    Panic,
    PanicLater,
    Hang,
}

impl Db {
    fn lock(&self) -> MutexGuard<'_, Row> {
        self.0.lock().expect("no panic while locked")
    }

    fn tries(&self) -> Vec<(u64, Instant)> {
        self.lock().tries.clone()
    }
}

struct Running(Db);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

impl Store for Db {
    type Error = usize;

    fn lease(
        &self,
        step: u64,
    ) -> impl Future<Output = Result<Range<u64>, usize>> + Send {
        let mut row = self.lock();
        row.tries.push((step, Instant::now()));
        row.running += 1;
        row.most = row.most.max(row.running);
        let running = Running(self.clone());
        let number = row.tries.len();
        let fails =
            row.fails_every > 0 && number.is_multiple_of(row.fails_every);
        let (answer, latency) = (row.answer.clone(), row.latency);
        drop(row);
        if matches!(answer, Answer::Panic) && number <= 5_000 {
            panic!("on purpose");
        }
        async move {
            let _running = running;
            if latency > Duration::ZERO {
                sleep(latency).await;
            }
            match answer {
                // So that a call which asks again and again does not hang.
                _ if number > 5_000 => pending().await,
                _ if fails => return Err(number),
                Answer::Lease => {}
                Answer::Range(range) => return Ok(range),
                Answer::Error => return Err(number),
                Answer::Panic | Answer::PanicLater => panic!("on purpose"),
                Answer::Hang => pending().await,
            }
            let mut row = self.lock();
            let len = row.len.unwrap_or(step);
            row.max_id += len;
            row.leased_at = Some(Instant::now());
            Ok(row.max_id - len..row.max_id)
        }
    }
}

/// A buffer, and a model of it.
struct Pair {
    buffer: DoubleBuffer,
    ids: VecDeque<Range<u64>>,
    /// The length of the current range, and how many ids of it are used.
    current: (u64, u64),
    claimed: bool,
    leased_to: u64,
}

impl Default for Pair {
    fn default() -> Self {
        let (buffer, ids) = (DoubleBuffer::new(), VecDeque::new());
        Self { buffer, ids, current: (0, 0), claimed: false, leased_to: 0 }
    }
}

impl Pair {
    fn next(&mut self) {
        let seen = self.buffer.try_next();
        if self.current.0 == self.current.1
            && let Some(range) = self.ids.front()
        {
            self.current = (range.end - range.start, 0);
        }
        let expected = self.ids.front_mut().and_then(Iterator::next);
        self.ids.retain(|range| !range.is_empty());
        self.current.1 += u64::from(expected.is_some());
        assert_eq!(seen, expected, "next id, then {:?}", self.ids);
    }

    fn claim(&mut self) {
        let (len, used) = self.current;
        let left = usize::from(used < len);
        let no_spare = self.ids.len() == left;
        let is_due = no_spare && used >= len.div_ceil(10) && !self.claimed;
        let seen = self.buffer.claim_refill();
        let text = format!("{used} of {len} used, claimed: {}", self.claimed);
        assert_eq!(seen, is_due, "a refill is due: {text}, {:?}", self.ids);
        self.claimed |= is_due;
    }

    fn put(&mut self, range: Range<u64>) {
        // Only the owner of the claim calls `put`.
        while !self.claimed {
            self.next();
            self.claim();
        }
        let is_good = range.start < range.end
            && range.start >= self.leased_to
            && range.end <= HIGHEST;
        let seen = self.buffer.put(range.clone());
        if !is_good {
            assert_eq!(seen, Err(BadRange(range)), "below: {}", self.leased_to);
            return;
        }
        assert_eq!(seen, Ok(()), "{range:?} after {}", self.leased_to);
        (self.claimed, self.leased_to) = (false, range.end);
        self.ids.push_back(range);
    }

    fn give_up(&mut self) {
        self.buffer.give_up();
        self.claimed = false;
    }
}
