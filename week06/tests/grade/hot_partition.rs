use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use proptest::{array::uniform4, collection::vec};
use week05::window;
use week06::hot::{self, HotKeys};
use week06::hot_partition::{self, Config, Counters};

type Spreader = hot_partition::Spreader<u64, [u8; 8]>;
type Route = hot_partition::Route<u64, [u8; 8]>;

const SECOND: Duration = Duration::from_secs(1);
const BOB: [u8; 8] = *b"Bob     ";
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// At this time, the records of `START` do not count any more.
static LATER: LazyLock<Instant> = LazyLock::new(|| *START + 60 * SECOND);

mod spread {
    use super::*;

    #[test]
    fn a_subject_that_is_not_hot_uses_sub_key_zero() {
        for ways in [1, 2, 17, 1_500, u32::MAX] {
            let mut spreader = new([2_000, 4, 4], ways);
            heat(&mut spreader, 4);
            for n in 0..4_500 {
                let (subject, author) = (1 + n / 3, u64::to_be_bytes(n));
                let route = spreader.route(subject, author, *START);
                let seen = (route.subject, route.author, route.sub);
                assert_eq!(seen, (subject, author, 0), "seen, expected");
                if n % 2 == 0 {
                    spreader.done(&route);
                }
            }
        }
    }

    #[test]
    fn a_hot_subject_is_spread_by_the_hash_of_its_authors() {
        for ways in [1, 2, 3, 17, 64, 130, 1_500, u32::MAX] {
            let mut spreader = new([1, 1, 1], ways);
            let mut loads = [0; 130];
            for author in (0..10_000).map(u64::to_be_bytes) {
                let route = spreader.route(0, author, *START);
                assert_eq!(route.sub, hash(&author, ways), "{ways} ways");
                loads[route.sub as usize % 130] += 1;
                spreader.done(&route);
            }
            let (mean, most) = (10_000 / ways, loads.into_iter().max());
            let text = format!("{most:?}, mean {mean}, {ways} ways");
            assert!(ways > 130 || most < Some(mean * 3 / 2), "load: {text}");
        }
    }

    #[test]
    fn each_record_counts_towards_the_heat_of_its_subject() {
        for (hot_at, is_done) in [(2, false), (17, false), (130, true)] {
            let mut spreader = new([1, hot_at, 1], 99);
            for route in route_many(&mut spreader, hot_at - 1) {
                assert_eq!(route.sub, 0, "sub-key of a subject that is cold");
                if is_done {
                    spreader.done(&route);
                }
            }
            let seen = spreader.route(0, [0; 8], *START).sub;
            assert_eq!(seen, hash(&[0; 8], 99), "sub-key at record {hot_at}");
        }
    }
}

mod order {
    use super::*;

    #[test]
    fn authors_with_unprocessed_records_stay_when_the_subject_heats() {
        let mut spreader = new([9, 4_000, 4_000], 99);
        // The authors 2,645 and 3,264 have the same `hash(author, u32::MAX)`.
        let author = |n: u64| u64::to_be_bytes(n * 55);
        let route = |n| _ = spreader.route(0, author(n), *START);
        (0..3_000).for_each(route);
        heat(&mut spreader, 1_000);
        for n in 0..6_000 {
            let seen = spreader.route(0, author(n), *START).sub;
            let expected = if n < 3_000 { 0 } else { hash(&author(n), 99) };
            assert_eq!(seen, expected, "sub-key of author {n}, new: 3,000..");
        }
    }

    #[test]
    fn an_author_keeps_its_sub_key_until_its_last_record_is_done() {
        let [eight, five] = [8, 5].map(|ways| hash(&BOB, ways));
        for n in [1, 2, 17, 300] {
            // The subject becomes hot.
            let mut spreader = new([9, 1_000, 1_000], 8);
            let routes = route_many(&mut spreader, n);
            heat(&mut spreader, 1_000);
            check_changes(&mut spreader, &routes, [0, eight], *START);
            // The number of sub-keys changes.
            let routes = route_many(&mut spreader, n);
            spreader.set_ways(5.try_into().unwrap());
            check_changes(&mut spreader, &routes, [eight, five], *START);
            // The subject cools.
            let mut routes = route_many(&mut spreader, n);
            routes.reverse();
            check_changes(&mut spreader, &routes, [five, 0], *LATER);
        }
    }

    #[test]
    fn a_second_done_of_a_record_changes_nothing() {
        for n in [2, 17, 300] {
            let mut spreader = new([9, 1_000, 1_000], 8);
            let mut routes = route_many(&mut spreader, n);
            heat(&mut spreader, 1_000);
            (0..n).for_each(|_| spreader.done(&routes[1].clone()));
            let first = [routes.remove(0)];
            routes.iter().for_each(|route| spreader.done(route));
            let eight = hash(&BOB, 8);
            check_changes(&mut spreader, &first, [0, eight], *START);
            let next = [spreader.route(0, BOB, *START)];
            routes.iter().chain(&first).for_each(|r| spreader.done(r));
            check_changes(&mut spreader, &next, [eight, 0], *LATER);
        }
    }

    #[test]
    fn an_authors_records_are_processed_in_order_at_any_speed() {
        streams().enumerate().for_each(|(i, s)| simulate(i, s, false));
    }

    #[test]
    fn any_schedule_has_the_sub_keys_and_the_memory_of_the_model() {
        streams().enumerate().for_each(|(i, s)| simulate(i, s, true));
    }

    #[test]
    fn many_records_leave_nothing_behind_and_do_not_slow_down_a_call() {
        for (authors, n) in [(1, 70_000), (u64::MAX, 110_000)] {
            let mut spreader = new([1, 9, 9], 16);
            let sizes = [100, 9_000].map(|records| {
                heat(&mut spreader, records);
                format!("{spreader:?}").len()
            });
            let text = "length of `{:?}` after 100 and 9,100 records";
            assert!(sizes[1] < sizes[0] + 500, "{text}: {sizes:?}");
            let author = |n: u64| (n % authors).to_be_bytes();
            let route = |n| spreader.route(0, author(n), *START);
            let routes: Vec<_> = (0..n).map(route).collect();
            spreader.set_ways(5.try_into().unwrap());
            for route in routes.iter().step_by(9).rev() {
                let probe = spreader.route(0, route.author, *START);
                let old = if authors == 1 { &routes[0] } else { route };
                assert_eq!(probe.sub, old.sub, "sub-key, seen and before");
                spreader.done(&probe);
            }
            let (first, last) = routes.split_at(routes.len() / 2);
            // A list of records would be searched to its middle.
            let order = first.iter().rev().zip(last);
            for route in order.flat_map(|(a, b)| [a, b]) {
                spreader.done(route);
            }
            let sub = spreader.route(0, [0; 8], *LATER).sub;
            assert_eq!(sub, 0, "sub-key, {n} records done");
        }
    }
}

mod counters {
    use super::*;

    type Id = Reverse<u64>;

    fn ids(entries: &[((Id, Arc<()>), i128)]) -> Vec<(Id, i128)> {
        entries.iter().map(|((id, _), sum)| (*id, *sum)).collect()
    }

    #[test]
    fn increments_become_one_entry_per_subject_in_ascending_order() {
        for n in [0, 1, 2, 17, 130, 1_500] {
            let (counters, stored) = (Counters::default(), Arc::new(()));
            for i in 0..n * 100 {
                let id = i * 7_919 % n;
                let delta = id as i64 % 5 - 2;
                counters.add((Reverse(id), Arc::clone(&stored)), delta);
            }
            let clones = Arc::strong_count(&stored) as u64 - 1;
            assert!(clones <= n, "{clones} stored, {n} subjects");
            drop(counters.take());
            let batch = counters.take();
            let sums =
                (0..n).map(|id| (Reverse(id), id as i128 % 5 * 100 - 200));
            let expected: Vec<_> = sums.rev().filter(|e| e.1 != 0).collect();
            assert_eq!(ids(batch.entries()), expected, "entries");
            batch.commit();
            let clones = Arc::strong_count(&stored) - 1;
            assert_eq!(clones, 0, "stored clones, {n} subjects committed");
        }
    }

    #[test]
    fn a_batch_dropped_by_a_panic_or_a_cancelled_task_is_given_back() {
        let counters = Counters::default();
        for case in 0..4 {
            (0..1_500).for_each(|id| counters.add(id, 5));
            let batch = counters.take();
            (1..1_600).step_by(2).for_each(|id| counters.add(id, 2));
            match case {
                0 => drop(batch),
                1 => drop(catch_unwind(|| {
                    let _batch = batch;
                    panic!("on purpose");
                })),
                2 => thread::spawn(|| drop(batch)).join().unwrap(),
                _ => drop(async { batch.commit() }),
            }
            let next = counters.take();
            let sum = |id| i128::from(id < 1_500) * 5 + i128::from(id) % 2 * 2;
            let sums = (0..1_600).map(|id| (id, sum(id)));
            let expected: Vec<_> = sums.filter(|e| e.1 != 0).collect();
            assert_eq!(next.entries(), expected, "entries, case {case}");
            next.commit();
        }
        counters.add(7, 1);
        let last = counters.take();
        drop(counters);
        assert_eq!(last.entries(), [(7, 1)], "entries without counters");
    }

    #[test]
    fn any_sequence_of_calls_has_the_sums_of_the_model() {
        for (i, stream) in streams().enumerate() {
            let (counters, stored) = (Counters::default(), Arc::new(()));
            let mut sums = BTreeMap::<_, i128>::new();
            let mut open = Vec::<(_, Vec<_>)>::new();
            for [op, x, y, _] in stream {
                if op < 0.7 {
                    let id = (x * [2.0, 9.0, 99.0][i % 3]) as u64;
                    let deltas = [1, -1, 1, -1, i64::MAX, i64::MIN, 0, 77];
                    let delta = deltas[(y * 8.0) as usize];
                    counters.add((Reverse(id), Arc::clone(&stored)), delta);
                    *sums.entry(Reverse(id)).or_default() += i128::from(delta);
                } else if op < 0.8 {
                    let batch = counters.take();
                    sums.retain(|_, sum| *sum != 0);
                    let entries = std::mem::take(&mut sums);
                    open.push((batch, entries.into_iter().collect()));
                } else if !open.is_empty() {
                    let n = (x * open.len() as f64) as usize;
                    let (batch, entries) = open.swap_remove(n);
                    if y < 0.5 {
                        batch.commit();
                    } else {
                        drop(batch);
                        for (id, sum) in entries {
                            *sums.entry(id).or_default() += sum;
                        }
                    }
                }
                let mut most = sums.len();
                for (batch, expected) in &open {
                    assert_eq!(ids(batch.entries()), *expected, "entries");
                    most += expected.len();
                }
                let clones = Arc::strong_count(&stored) - 1;
                assert!(clones <= most, "{clones} stored, expected: {most}");
            }
        }
    }

    #[test]
    fn threads_lose_no_increment_and_commit_none_twice() {
        let (counters, is_over) = (Counters::default(), AtomicBool::new(false));
        let add = || {
            let is_running = |_: &i64| !is_over.load(Relaxed);
            let deltas = (1..).take_while(is_running);
            deltas.inspect(|i| counters.add(i % 7, *i)).sum::<i64>()
        };
        let write = |i| {
            let batch = counters.take();
            (0..7).for_each(|subject| counters.add(subject, 1));
            let sum = batch.entries().iter().map(|e| e.1).sum::<i128>();
            (i % 2 == 1).then(|| batch.commit()).map_or(0, |()| sum)
        };
        let (added, committed) = thread::scope(|scope| {
            let adders = [(); 2].map(|()| scope.spawn(add));
            let write_many = || (0..10_000).map(write).sum::<i128>();
            let writers = [(); 2].map(|()| scope.spawn(write_many));
            let committed = writers.map(|writer| writer.join().unwrap());
            is_over.store(true, Relaxed);
            (adders.map(|adder| adder.join().unwrap()), committed)
        });
        let expected = added.iter().sum::<i64>() + 2 * 10_000 * 7;
        let seen = committed.iter().sum::<i128>() + write(1);
        assert_eq!(seen, i128::from(expected), "committed in all");
    }
}

fn config([capacity, hot_at, cool_below]: [usize; 3], ways: u32) -> Config {
    let buckets = 10.try_into().unwrap();
    let hot = hot::Config {
        capacity: capacity.try_into().unwrap(),
        window: window::Config { bucket: SECOND, buckets },
        hot_at: (hot_at as u64).try_into().unwrap(),
        cool_below: (cool_below as u64).try_into().unwrap(),
    };
    Config { hot, ways: ways.try_into().unwrap() }
}

fn new(of: [usize; 3], ways: u32) -> Spreader {
    Spreader::new(config(of, ways), *START)
}

fn hash(author: &[u8], ways: u32) -> u32 {
    let hash = author.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    ((hash ^ hash >> 32) % u64::from(ways)) as u32
}

/// Records the subject 0 `n` times.
fn heat(spreader: &mut Spreader, n: usize) {
    for _ in 0..n {
        let route = spreader.route(0, [9; 8], *START);
        spreader.done(&route);
    }
}

fn route_many(spreader: &mut Spreader, n: usize) -> Vec<Route> {
    (0..n).map(|_| spreader.route(0, BOB, *START)).collect()
}

/// Checks that the sub-key of Bob changes when the last of `routes` is done.
fn check_changes(
    spreader: &mut Spreader,
    routes: &[Route],
    [old, new]: [u32; 2],
    now: Instant,
) {
    for done in 0..=routes.len() {
        let probe = spreader.route(0, BOB, now);
        let expected = if done < routes.len() { old } else { new };
        let text = format!("{done} of {} records done", routes.len());
        assert_eq!(probe.sub, expected, "sub-key: seen, expected, {text}");
        spreader.done(&probe);
        routes.get(done).into_iter().for_each(|r| spreader.done(r));
    }
}

fn streams() -> impl Iterator<Item = Vec<[f64; 4]>> {
    let steps = vec(uniform4(0.0..1.0), 0..400);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Default::default(), rng);
    (0..150).map(move |_| steps.new_tree(&mut runner).unwrap().current())
}

/// A subject or author. The clones of the `Arc` are those that are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name(Vec<u8>, Arc<()>);

impl Hash for Name {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The ids of the subject and of the author, and the route.
type Record = ([u8; 2], hot_partition::Route<Name, Name>);

/// Runs a spreader with a consumer for each sub-key. Checks the order of each
/// author or, if `is_exact`, compares the spreader with a model.
fn simulate(i: usize, stream: Vec<[f64; 4]>, is_exact: bool) {
    let (capacity, hot_at) = ([1, 2, 40][i % 3], [1, 3, 5, 9][i % 4]);
    let mut config = config([capacity, hot_at, 1 + hot_at / 2], 8);
    let mut now = *START + i as u32 * SECOND / 3;
    let mut spreader = hot_partition::Spreader::new(config, now);
    let (mut hot, stored) = (HotKeys::new(config.hot, now), Arc::new(()));
    let (mut sent, mut processed, mut done) = (vec![], vec![], vec![]);
    // In the end, all records are processed and done, and the subjects cool.
    let end = (0..427).map(|n| match n {
        0..200 => [0.4, 0.0, 0.0, 0.0],
        200..400 => [0.7, 0.0, 0.0, 0.0],
        _ => [0.0, f64::from(n % 9) / 9.0, f64::from(n % 5) / 5.0, 0.9],
    });
    for [op, x, y, step] in stream.into_iter().chain(end) {
        now += (40 * SECOND).mul_f64(step.powi(30));
        let of = |records: &[Record]| (y * records.len() as f64) as usize;
        match (op * 100.0) as u32 {
            0..35 => {
                let ids = [x * x * 3.0, y * y * 9.0].map(|id| id as u8);
                let [subject, author] = ids.map(|id| {
                    Name(vec![b'x'; 9 * usize::from(id)], Arc::clone(&stored))
                });
                let is_hot = hot.record(&ids[0], now);
                let ways = if is_hot { config.ways.get() } else { 1 };
                let by_hash = hash(&author.0, ways);
                let mut unprocessed = sent.iter().chain(&processed);
                let first =
                    unprocessed.find(|(other, _): &&Record| *other == ids);
                let expected = first.map_or(by_hash, |(_, route)| route.sub);
                let route = spreader.route(subject, author, now);
                let seen = if is_exact { route.sub } else { expected };
                assert_eq!(seen, expected, "sub-key, {ways} ways: {first:?}");
                sent.push((ids, route));
            }
            35..65 if !sent.is_empty() => {
                // A consumer processes the next record of its sub-key.
                let key = |(ids, route): &Record| (ids[0], route.sub);
                let some = key(&sent[of(&sent)]);
                let next = sent.iter().position(|r| key(r) == some).unwrap();
                let ids = sent[next].0;
                let is_first = sent[..next].iter().all(|r| r.0 != ids);
                assert!(is_first, "a later record of {ids:?} is processed");
                processed.push(sent.remove(next));
            }
            // Some records could not be sent.
            65..93 => {
                let from = if op < 0.9 { &mut processed } else { &mut sent };
                if !from.is_empty() {
                    let record = from.remove(of(from));
                    spreader.done(&record.1);
                    done.push(record);
                }
            }
            93..97 if !done.is_empty() => {
                spreader.done(&done[of(&done)].1.clone());
            }
            97.. => {
                config.ways = (1 + (y * 20.0) as u32).try_into().unwrap();
                spreader.set_ways(config.ways);
            }
            _ => {}
        }
        // The routes have clones, too.
        let unprocessed = sent.len() + processed.len();
        let held = 1 + 2 * (unprocessed + done.len());
        let clones = Arc::strong_count(&stored) - held;
        let most = 4 * unprocessed + 2 * capacity;
        assert!(clones <= most || !is_exact, "{clones} stored, most: {most}");
    }
}
