use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
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
type Route<S = u64, A = [u8; 8]> = hot_partition::Route<S, A>;

const SECOND: Duration = Duration::from_secs(1);
const BOB: [u8; 8] = *b"Bob     ";
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

mod spread {
    use super::*;

    #[test]
    fn a_hot_subject_is_spread_by_the_hash_of_its_authors() {
        let mut spreader = new([1, 1, 1], 7);
        for ways in [1, 2, 3, 17, 64, 130, 1_500, u32::MAX] {
            spreader.set_ways(ways.try_into().unwrap());
            for author in (0..10_000).map(u64::to_be_bytes) {
                let route = spreader.route(0, author, *START);
                assert_eq!(route.sub, hash(&author, ways), "{ways} ways");
                spreader.done(&route);
            }
        }
    }

    #[test]
    fn each_record_counts_and_the_sub_key_is_zero_until_the_subject_is_hot() {
        let cases = [(2, 1_500, 99), (17, 130, u32::MAX), (130, 17, 1_500)];
        for (hot_at, subjects, ways) in cases {
            let mut spreader = new([2_000, hot_at, 1], ways);
            for i in 0..hot_at * subjects {
                let (n, subject) = (i / subjects, i % subjects);
                // Bob has unprocessed records of every second subject.
                let is_hot = n + 1 == hot_at;
                let author = if is_hot { [0; 8] } else { BOB };
                let sub = if is_hot { hash(&author, ways) } else { 0 };
                let route = spreader.route(subject as u64, author, *START);
                let seen = (route.subject, route.author, route.sub);
                let expected = (subject as u64, author, sub);
                assert_eq!(seen, expected, "at record {n} of {hot_at}");
                if subject % 2 == 0 {
                    spreader.done(&route);
                }
            }
        }
    }
}

mod order {
    use super::*;

    #[test]
    fn an_author_keeps_its_sub_key_until_its_last_record_is_done() {
        let [eight, five] = [8, 5].map(|ways| hash(&BOB, ways));
        for n in [1, 2, 17, 300] {
            // The subject becomes hot.
            let mut spreader = new([9, 1_000, 1_000], 8);
            let routes = route_many(&mut spreader, n);
            for _ in 0..1_000 {
                let route = spreader.route(0, [9; 8], *START);
                spreader.done(&route);
            }
            check_changes(&mut spreader, &routes, [0, eight], *START);
            // The number of sub-keys changes.
            let routes = route_many(&mut spreader, n);
            spreader.set_ways(5.try_into().unwrap());
            check_changes(&mut spreader, &routes, [eight, five], *START);
            // The subject cools.
            let mut routes = route_many(&mut spreader, n);
            routes.reverse();
            let later = *START + 60 * SECOND;
            check_changes(&mut spreader, &routes, [five, 0], later);
        }
    }

    /// Routes the record `n` of one author and subject, of many authors, or of
    /// many subjects. The first is Bob's, of the subject 0.
    const ROUTES: [fn(&mut Spreader, u64) -> Route; 3] = [
        |spreader, _| spreader.route(0, BOB, *START),
        |spreader, n| {
            let author = u64::from_be_bytes(BOB) + n;
            spreader.route(0, author.to_be_bytes(), *START)
        },
        |spreader, n| spreader.route(n, BOB, *START),
    ];

    #[test]
    fn a_record_that_is_done_leaves_nothing_behind_for_a_second_done() {
        for route in ROUTES {
            let mut spreader = new([1, 1, 1], 8);
            let first = route(&mut spreader, 0);
            let mut done = vec![];
            let sizes = [100, 66_000].map(|records| {
                for n in done.len() as u64..records {
                    done.push(route(&mut spreader, n));
                    spreader.done(&done[n as usize]);
                }
                format!("{spreader:?}").len()
            });
            let text = "length of `{:?}` after 100 and 66,000 records";
            assert!(sizes[1] < sizes[0] + 500, "{text}: {sizes:?}");
            let routes = [first, route(&mut spreader, 0)];
            spreader.set_ways(5.try_into().unwrap());
            done.iter().for_each(|route| spreader.done(&route.clone()));
            let subs = [8, 5].map(|ways| hash(&BOB, ways));
            check_changes(&mut spreader, &routes, subs, *START);
        }
    }

    #[test]
    fn the_time_of_a_call_is_the_same_with_few_and_many_records() {
        let mut spreader = new([1, 2, 2], 8);
        // The shortest of 40 times, since the machine has other work, too.
        let mut shortest = |unprocessed: usize| {
            let routes = route_many(&mut spreader, unprocessed);
            let (first, last) = routes.split_at(unprocessed / 2);
            let times = last.chunks(50).take(40).map(|some| {
                let start = Instant::now();
                some.iter().for_each(|route| spreader.done(route));
                start.elapsed()
            });
            let shortest = times.min().unwrap();
            first.iter().chain(last).for_each(|route| spreader.done(route));
            shortest
        };
        let [few, many] = [5_000, 300_000].map(&mut shortest);
        assert!(
            many < 8 * few,
            "50 records of 300,000 are done in {many:?}, and of 5,000 in \
             {few:?}: expected less than 8 times as much"
        );
    }

    #[test]
    fn many_unprocessed_records_do_not_slow_down_a_call() {
        for route in ROUTES {
            let mut spreader = new([1, 2, 2], 8);
            spreader.route(0, [9; 8], *START);
            let mut routes: Vec<_> =
                (0..80_000).map(|n| route(&mut spreader, n)).collect();
            spreader.set_ways(5.try_into().unwrap());
            for n in (0..80_000).rev().step_by(10) {
                let probe = route(&mut spreader, n);
                let old = routes[n as usize].sub;
                assert_eq!(probe.sub, old, "sub-key, seen and before");
                routes.push(probe);
            }
            let (first, last) = routes.split_at(routes.len() / 2);
            // A list of records would be searched to its middle.
            let order = first.iter().rev().zip(last);
            order.flat_map(|(a, b)| [a, b]).for_each(|r| spreader.done(r));
            let later = *START + 60 * SECOND;
            let sub = spreader.route(0, BOB, later).sub;
            assert_eq!(sub, 0, "sub-key of a cool subject, all records done");
        }
    }

    #[test]
    fn any_schedule_has_the_sub_keys_and_the_memory_of_the_model() {
        for (i, stream) in streams().enumerate() {
            let (capacity, hot_at) = ([1, 2, 40][i % 3], [1, 3, 5, 9][i % 4]);
            let mut config = config([capacity, hot_at, 1 + hot_at / 2], 8);
            let mut now = *START + i as u32 * SECOND / 3;
            let mut spreader = hot_partition::Spreader::new(config, now);
            let mut hot = HotKeys::new(config.hot, now);
            let stored = [(); 3].map(|()| Arc::new(()));
            let (mut unprocessed, mut done) = (vec![], vec![]);
            // In the end, all records are done.
            let end = [[0.5, 0.0, 0.0, 0.0]; 300];
            for [op, x, y, step] in stream.into_iter().chain(end) {
                now += (40 * SECOND).mul_f64(step.powi(30));
                let of = |routes: &[_]| (y * routes.len() as f64) as usize;
                match (op * 100.0) as u32 {
                    0..45 => {
                        let name = |n: usize, most: f64, z: f64| Name {
                            id: (z * z * most) as u8,
                            text: "é".repeat((z * 900.0) as usize % 7),
                            _stored: Arc::clone(&stored[n]),
                        };
                        let [subject, author] =
                            [name(0, 3.0, x), name(1, 9.0, y)];
                        let is_hot = hot.record(&name(2, 3.0, x), now);
                        let ways = if is_hot { config.ways.get() } else { 1 };
                        let is_same = |r: &&Route<Name, Name>| {
                            r.subject == subject && r.author == author
                        };
                        let first = unprocessed.iter().find(is_same);
                        let by_hash = hash(author.as_ref(), ways);
                        let sub = first.map_or(by_hash, |route| route.sub);
                        let expected = format!("{subject:?} {author:?} {sub}");
                        let r = spreader.route(subject, author, now);
                        let seen =
                            format!("{:?} {:?} {}", r.subject, r.author, r.sub);
                        assert_eq!(seen, expected, "subject, author, sub-key");
                        unprocessed.push(r);
                    }
                    45..85 if !unprocessed.is_empty() => {
                        let route = unprocessed.remove(of(&unprocessed));
                        spreader.done(&route);
                        done.push(route);
                    }
                    85..95 if !done.is_empty() => {
                        spreader.done(&done[of(&done)].clone());
                    }
                    95.. => {
                        let ways = (y * 32.0).exp2() as u32;
                        config.ways = ways.try_into().unwrap();
                        spreader.set_ways(config.ways);
                    }
                    _ => {}
                }
                // The routes have clones, too.
                let n = unprocessed.len();
                let held = 1 + n + done.len();
                let clones = stored.each_ref().map(Arc::strong_count);
                let seen = [clones[0] - held, clones[1] - held];
                let most = [2 * n + clones[2] - 1, 2 * n];
                let is_less = seen[0] <= most[0] && seen[1] <= most[1];
                let text = "stored clones of the subject and of the author";
                assert!(is_less, "{text}: {seen:?}, at most {most:?}");
            }
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
            let add = |i| {
                let id = i * 7_919 % n;
                let delta = id as i64 % 5 - 2;
                counters.add((Reverse(id), Arc::clone(&stored)), delta);
            };
            thread::scope(|scope| {
                for i in 0..4 {
                    scope.spawn(move || (i..n * 100).step_by(4).for_each(add));
                }
            });
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
            let entries = batch.entries();
            let subjects: BTreeSet<_> = entries.iter().map(|e| e.0).collect();
            assert_eq!(subjects.len(), entries.len(), "subjects, entries");
            let sum = entries.iter().map(|e| e.1).sum::<i128>();
            (i % 2 == 1).then(|| batch.commit()).map_or(0, |()| sum)
        };
        let (added, committed) = thread::scope(|scope| {
            let adders = [(); 2].map(|()| scope.spawn(add));
            let write_many = || (0..10_000).map(write).sum::<i128>();
            let writers = [(); 2].map(|()| scope.spawn(write_many));
            let committed = writers.map(|writer| writer.join());
            is_over.store(true, Relaxed);
            (
                adders.map(|adder| adder.join().unwrap()),
                committed.map(|sum| sum.unwrap()),
            )
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

/// A subject or author. Those with the same id are equal. The clones of the
/// `Arc` are those that are stored.
#[derive(Debug, Clone)]
struct Name {
    id: u8,
    text: String,
    _stored: Arc<()>,
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}
