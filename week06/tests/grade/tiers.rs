use std::collections::HashMap;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, unconstrained, yield_now};
use tokio::time::{Instant, advance, sleep, sleep_until};
use week06::tiers::{Answer, Config, Failed, Node, Upstream, rank};

use Kind::{Broken, Missing, NoAnswer, Panicked, Panics, Unavailable, Value};

/// `keep`, `attempt_timeout`, `deadline` and `retry_after` in milliseconds. An
/// odd one is a nanosecond less: no event is between.
type Settings = [u64; 4];
const SETTINGS: Settings = [1_000, 200, 2_005, 5_000];
const NEVER: u64 = u64::MAX;
/// Too long for an `Instant`, and not the maximum.
const AGES: u64 = NEVER - 1;
const DAY: u64 = 86_400_000;
const ORIGIN: usize = 999;
const KINDS: [Kind; 7] =
    [Value, Missing, Broken, NoAnswer, Panicked, Unavailable, Panics];

mod order {
    use super::*;

    #[test]
    fn upstreams_are_ranked_by_their_score_for_the_key() {
        let mut rng = Rng::with_seed(2026);
        for (size, length) in [0, 1, 2, 3, 17, 130, 1_500]
            .into_iter()
            .flat_map(|size| [0, 1, 20, 64].map(|length| (size, length)))
        {
            let mut text = || -> String {
                let length = rng.usize(..=length);
                (0..length).map(|_| rng.char(..)).collect()
            };
            let key = text();
            let names: Vec<_> = (0..size).map(|_| text()).collect();
            let seen = rank(&key, names.iter().map(String::as_str));
            let mut all = seen.clone();
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..size), "{seen:?} of {size}");
            let scores = seen.iter().map(|i| score(&key, &names[*i]));
            let scores: Vec<_> = scores.collect();
            let falls = scores.is_sorted_by(|a, b| a >= b);
            assert!(falls, "scores for {key:?}, as ranked: {scores:?}");
        }
    }
}

mod merging {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn concurrent_readers_of_a_key_share_one_query() {
        for size in [1, 2, 17, 130, 1_500] {
            for kind in KINDS.iter().take(if size > 130 { 1 } else { 7 }) {
                let mut pair = Pair::new(SETTINGS, size % 3);
                pair.plan_all(*kind, 50);
                for key in ["", "表"] {
                    pair.read(key, size).await;
                    pair.pass(20).await;
                    pair.read(key, 2).await;
                }
                pair.pass(500).await;
                pair.read("", size).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_is_kept_until_keep_has_passed_since_its_flight() {
        for keep in [0, 1, 2, 1_000, DAY, AGES, NEVER] {
            for (kind, after) in plans([0, 31, NEVER]) {
                let mut pair = Pair::new([keep, 200, 455, 0], 1);
                pair.plan_all(kind, after);
                for wait in [0, 0, 500, keep / 2, keep.saturating_sub(1), 1, 0]
                {
                    pair.pass(wait.min(DAY)).await;
                    pair.read("key", 2).await;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_ends_and_is_kept_although_no_reader_is_polled() {
        let mut pair = Pair::new(SETTINGS, 1);
        pair.world.plan(0, Value, 50);
        let node = pair.node.clone();
        let unpolled = node.get("other");
        pair.read("key", 2).await;
        pair.readers.iter_mut().for_each(|r| r.is_stalled = true);
        pair.pass(60).await;
        pair.read("key", 1).await;
        pair.readers.iter_mut().for_each(|r| r.is_stalled = false);
        pair.check().await;
        drop(unpolled);
        pair.read("other", 1).await;
        let unpolled = node.get("key");
        pair.pass(1_000).await;
        pair.read("key", 1).await;
        pair.pass(60).await;
        let expected = &pair.kept["key"].1;
        assert_eq!(unpolled.await, *expected, "a read of now: seen, expected");
    }

    #[tokio::test(start_paused = true)]
    async fn flights_of_different_keys_do_not_wait_for_each_other() {
        let mut pair = Pair::new([1_000, NEVER, NEVER, NEVER], 1);
        pair.world.plan(0, Value, NEVER);
        for key in ["", " ", "key ", "Key", "k\u{e9}y", "ke\u{301}y", "k\0y"] {
            pair.read(key, 1).await;
        }
        for key in 0..130 {
            pair.read(&format!("key {key}"), 1).await;
        }
        pair.world.plan(0, Value, 0);
        pair.read("key", 2).await;
        // The others wait as long as their settings allow.
        pair.pass(100 * DAY).await;
        pair.check().await;
    }

    #[test]
    fn readers_on_several_threads_ask_once_for_a_key() {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(4).enable_time().build().unwrap();
        for kind in [Value, Missing, Broken] {
            let pair = runtime.block_on(async { Pair::new([NEVER; 4], 0) });
            pair.plan_all(kind, 0);
            let read = || {
                let node = pair.node.clone();
                runtime.spawn(async move {
                    for key in 0..12_000 {
                        let seen = node.get(&key.to_string()).await;
                        let is_right = match &seen {
                            Ok(Some(_)) => kind == Value,
                            Ok(None) => kind == Missing,
                            Err(failed) => {
                                let is_origin =
                                    matches!(failed, Failed::Origin(_));
                                is_origin && kind == Broken
                            }
                        };
                        assert!(is_right, "{seen:?}, expected {kind:?}");
                    }
                })
            };
            // The last reader finds all results.
            for readers in [8, 1] {
                let readers: Vec<_> = (0..readers).map(|_| read()).collect();
                for reader in readers {
                    runtime.block_on(reader).unwrap();
                }
            }
            let asked = pair.world.asked.lock().unwrap().len();
            assert_eq!(asked, 12_000, "queries ({kind:?}): seen, expected");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn results_are_removed_after_twice_the_time_they_are_kept() {
        for keep in [0, 20, 1_500] {
            let mut pair = Pair::new([keep, 200, 2_005, 0], 1);
            let last = 2 * keep + 500;
            for key in (0..last).chain([last + 2 * keep + 100]) {
                let kind = if key % 2 == 0 { Value } else { Broken };
                pair.world.plan(0, kind, 0);
                pair.pass(key - pair.now).await;
                pair.read(&key.to_string(), 1).await;
                let most = if key > last { 1 } else { key.min(2 * keep) + 1 };
                let alive = pair.world.count(1) as u64;
                let of = "results in memory, of";
                assert!(alive <= most, "{alive} {of} {most} for {keep} ms");
                // The others are kept, and not asked for.
                if key < last && key % 7 == 0 {
                    let age = keep.saturating_sub(1 + key % 2 * 1_000);
                    let kept = key.saturating_sub(age);
                    pair.read(&kept.to_string(), 1).await;
                }
            }
        }
    }
}

mod failover {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_an_unavailable_parent_is_left_for_the_next() {
        for (parents, dead) in
            [(0, 0), (1, 0), (1, 1), (3, 1), (3, 2), (3, 3), (17, 9), (17, 17)]
        {
            for (i, (kind, after)) in plans([0, 31, NEVER]).iter().enumerate() {
                let mut pair = Pair::new([1_000, 200, 9_005, 5_000], parents);
                let key = format!("key {i}");
                pair.plan_all(*kind, 31);
                for id in ranked(&key, parents).into_iter().take(dead) {
                    pair.world.plan(id, Unavailable, *after);
                }
                pair.read(&key, 2).await;
                pair.pass(4_000).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_attempts_together_end_at_the_deadline() {
        for deadline in [1, 199, 201, 399, 401, 599, 601, 1_999, AGES, NEVER] {
            for (kind, after) in [(Value, 0), (Value, 300), (Unavailable, 151)]
            {
                let mut pair = Pair::new([0, 200, deadline, NEVER], 3);
                pair.plan_all(Value, NEVER);
                pair.world.plan(ORIGIN, kind, after);
                // The deadline makes no parent unavailable.
                for key in ["a", "b", "c", "d", "e"] {
                    pair.read(key, 2).await;
                    pair.pass(2_100).await;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_tiers_ask_the_origin_once_for_the_readers_of_ten_edges() {
        for (kind, after) in plans([50, NEVER]) {
            let world = World::new();
            let parents = [0, 1, 2, ORIGIN].map(|id| {
                world.plan(id, kind, after);
                // The number shows through which parent the origin is asked.
                let hop = Hop(id, world.clone());
                Node::new(config([1_000, 200, 95, 5_000]), Vec::new(), hop)
            });
            let edges = [(); 10].map(|()| {
                let name =
                    |id: usize| (format!("parent-{id}"), parents[id].clone());
                let names = [2, 0, 1].map(name).into();
                Node::new(config(SETTINGS), names, parents[3].clone())
            });
            let mut readers = JoinSet::new();
            for i in 0..1_000 {
                let edge = edges[i % 10].clone();
                readers.spawn(async move {
                    sleep(Duration::from_millis(i as u64 / 25)).await;
                    edge.get("key").await
                });
            }
            let is_answer = kind != Unavailable && after != NEVER;
            let kind = if is_answer { kind } else { NoAnswer };
            let query = (0, ranked("key", 3)[0], "key".to_owned());
            let expected = result(kind, query.clone(), &Arc::default());
            for seen in readers.join_all().await {
                assert_eq!(seen, expected, "a result: seen, expected");
            }
            let seen = world.asked.lock().unwrap().clone();
            assert_eq!(seen, [query], "queries at the origin: seen, expected");
        }
    }
}

mod recovery {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unavailable_parent_is_asked_again_after_retry_after() {
        for retry_after in [0, 1, 2, 5_000, DAY, AGES, NEVER] {
            for (kind, after) in plans([0, 31, NEVER]) {
                let mut pair = Pair::new([0, 200, 2_005, retry_after], 1);
                for up in [false, false, true, true, false, true] {
                    let kind = if up { kind } else { Unavailable };
                    pair.world.plan(0, kind, after);
                    for wait in [0, retry_after.saturating_sub(1), 1, 201] {
                        pair.pass(wait.min(DAY)).await;
                        pair.read(&pair.now.to_string(), 1).await;
                    }
                }
            }
        }
        let mut pair = Pair::new([0, 200, 2_005, 5_000], 130);
        pair.plan_all(Unavailable, 0);
        for key in ["first", "second"] {
            pair.read(key, 1).await;
        }
        pair.check().await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_one_flight_probes_an_unavailable_parent() {
        for kind in KINDS {
            for (after, leaves) in
                [(1_501, false), (7_001, false), (NEVER, true), (NEVER, false)]
            {
                let mut pair = Pair::new([0, 9_000, 8_005, 2_000], 2);
                let first = ranked("probe", 2)[0];
                pair.world.plan(first, Unavailable, 0);
                pair.read("probe", 1).await;
                pair.pass(2_000).await;
                pair.world.plan(first, kind, after);
                pair.read("probe", 2).await;
                for key in 0..100 {
                    if leaves && key == 10 {
                        pair.leave(0);
                        pair.leave(0);
                    }
                    if key == 80 {
                        pair.world.plan(first, Value, 0);
                    }
                    pair.read(&key.to_string(), 1).await;
                    pair.pass(101).await;
                }
            }
        }
    }

    #[test]
    fn only_one_of_two_threads_probes_an_unavailable_parent() {
        let runtime = paused();
        let nodes: Vec<_> = runtime.block_on(async {
            let new = |_| Pair::new([0, 9_000, 9_000, 2_000], 1);
            let nodes: Vec<_> = (0..250).map(new).collect();
            for Pair { world, node, .. } in &nodes {
                world.plan(0, Unavailable, 0);
                node.get("first").await.unwrap();
                world.plan(0, Value, NEVER);
            }
            nodes.into_iter().map(|pair| (pair.world, pair.node)).collect()
        });
        // On a loaded machine, the threads wait milliseconds for each other.
        let start = std::time::Instant::now();
        let in_time = |_: &usize| start.elapsed() < Duration::from_secs(2);
        for expected in (1..=160).take_while(in_time) {
            // The probes before are dropped, so the next ones are due.
            runtime.block_on(advance(Duration::from_secs(2)));
            let arrived = AtomicUsize::new(0);
            let read_all = |key| {
                let _guard = runtime.enter();
                for (round, (_, node)) in nodes.iter().enumerate() {
                    let node = node.clone();
                    let read = async move { node.get(key).await };
                    let mut read: Read = Box::pin(unconstrained(read));
                    arrived.fetch_add(1, Relaxed);
                    // Both must run at the same time to meet, so neither gives
                    // its core away unless the other one does not come.
                    for spins in 0.. {
                        if arrived.load(Relaxed) >= 2 * round + 2 {
                            break;
                        }
                        if spins > 30_000 {
                            thread::yield_now();
                        }
                    }
                    poll(&mut read);
                }
            };
            thread::scope(|scope| {
                scope.spawn(|| read_all("second"));
                scope.spawn(|| read_all("third"));
            });
            for (world, _) in &nodes {
                let asked = world.asked.lock().unwrap();
                let asked = asked.iter().filter(|query| query.1 == 0).count();
                let probes = asked - 1;
                assert_eq!(probes, expected, "probes: seen, expected");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_end_of_an_attempt_decides_about_a_parent() {
        for (early, late) in KINDS.iter().flat_map(|e| KINDS.map(|l| (*e, l))) {
            let mut pair = Pair::new([0, 9_000, 9_005, 5_000], 1);
            pair.world.plan(ORIGIN, Unavailable, 51);
            for (kind, after) in [(early, 1_501), (late, 301), (Value, 0)] {
                pair.world.plan(0, kind, after);
                pair.read(&after.to_string(), 1).await;
                pair.pass(400).await;
            }
            for key in 0..80 {
                pair.pass(101).await;
                pair.read(&format!("key {key}"), 1).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flight_goes_on_as_long_as_a_reader_waits() {
        for (parents, stay) in (0..3).flat_map(|n| (0..4).map(move |s| (n, s)))
        {
            for steps in 0..3 {
                let mut pair = Pair::new(SETTINGS, parents);
                pair.plan_all(Unavailable, 31);
                pair.world.plan(ORIGIN, Value, 31);
                pair.read("key", 4).await;
                for _ in stay..4 {
                    pair.pass(steps * 3).await;
                    // The leader is the first to leave.
                    pair.leave(0);
                }
                pair.read("key", 1).await;
                pair.pass(200).await;
                pair.read("key", 1).await;
            }
        }
    }

    #[test]
    fn readers_in_another_runtime_get_unavailable_at_a_shutdown() {
        let (old, new) = (paused(), paused());
        let settings = [DAY, NEVER, NEVER, NEVER];
        let pair = old.block_on(async { Pair::new(settings, 2) });
        let node = pair.node.clone();
        let read = |node: Node<Hop>| -> Read {
            Box::pin(async move { node.get("key").await })
        };
        let mut readers = [read(node.clone()), read(node)];
        old.block_on(async {
            _ = pair.node.get("kept").await;
            pair.plan_all(Value, NEVER);
            assert_eq!(readers.each_mut().map(poll), [None, None]);
            settle().await;
        });
        drop(old);
        let seen = readers.each_mut().map(poll);
        let expected = [(); 2].map(|()| Some(Err(Failed::Unavailable)));
        assert_eq!(seen, expected, "seen, expected");
        pair.plan_all(Value, 0);
        new.block_on(async {
            for key in ["kept", "key"] {
                let seen = pair.node.get(key).await;
                assert!(matches!(seen, Ok(Some(_))), "{seen:?} for {key}");
            }
            advance(Duration::from_millis(2 * DAY)).await;
            _ = pair.node.get("kept").await;
        });
        let asked = pair.world.asked.lock().unwrap().clone();
        let seen: Vec<_> = asked.iter().map(|q| (q.1, &*q.2)).collect();
        let expected = ["kept", "key", "key", "kept"];
        let expected = expected.map(|key| (ranked(key, 2)[0], key));
        assert_eq!(seen, expected, "queries: seen, expected");
    }

    #[tokio::test(start_paused = true)]
    async fn any_sequence_of_reads_failures_and_drops_matches_the_model() {
        let mut rng = Rng::with_seed(2026);
        for case in 0..200 {
            let settings = [
                rng.choice([0, 300, 3_000]).unwrap(),
                rng.u64(1..2_000),
                rng.u64(1_000..6_000),
                rng.choice([0, 1_000, 4_000]).unwrap(),
            ];
            let mut pair = Pair::new(settings, case % 4);
            for _ in 0..60 {
                let time = rng.u64(1..2_500);
                match rng.u8(..10) {
                    0..3 => pair.world.plan(
                        rng.choice([ORIGIN, 0, 1, 2]).unwrap(),
                        rng.choice(KINDS).unwrap(),
                        rng.choice([0, time, NEVER]).unwrap(),
                    ),
                    3..6 => {
                        let key = rng.u8(..6).to_string();
                        pair.read(&key, rng.usize(1..3)).await;
                    }
                    6 if !pair.readers.is_empty() => {
                        pair.leave(rng.usize(..pair.readers.len()));
                        pair.check().await;
                    }
                    _ => pair.pass(time).await,
                }
                if pair.is_ambiguous {
                    break;
                }
            }
        }
    }
}

/// What an upstream does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
#[rustfmt::skip]
enum Kind { Value, Missing, Broken, NoAnswer, Panicked, Unavailable, Panics }

/// When which upstream is asked for which key.
type Query = (u64, usize, String);
type Counted = (Query, Arc<()>);
type Seen = Result<Option<Counted>, Failed<Counted>>;
type Read = Pin<Box<dyn Future<Output = Seen>>>;

/// The upstreams, and the queries that they have got.
#[derive(Clone)]
struct World {
    start: Instant,
    plans: Arc<Mutex<HashMap<usize, (Kind, u64)>>>,
    asked: Arc<Mutex<Vec<Query>>>,
    /// Cloned for each attempt that is open, and for each value or error.
    counts: Arc<[Arc<()>; 2]>,
}

/// An upstream.
struct Hop(usize, World);

/// A node, and a model of it.
struct Pair {
    world: World,
    node: Node<Hop>,
    settings: Settings,
    parents: usize,
    now: u64,
    readers: Vec<Reader>,
    flights: Vec<Flight>,
    kept: HashMap<String, (u64, Seen)>,
    unavailable: HashMap<usize, u64>,
    asked: Vec<Query>,
    /// Whether two events have come at the same time.
    is_ambiguous: bool,
}

struct Reader {
    key: String,
    future: Read,
    seen: Option<Seen>,
    expected: Option<Seen>,
    is_stalled: bool,
}

#[derive(Clone)]
struct Flight {
    key: String,
    deadline: u64,
    /// The upstreams that follow, in reverse.
    next: Vec<usize>,
    /// The attempt, its end, and its result.
    attempt: (Query, u64, Kind),
}

impl World {
    fn new() -> Self {
        let (plans, asked, counts) = Default::default();
        Self { start: Instant::now(), plans, asked, counts }
    }

    /// Returns the number of open attempts (0), or of results (1).
    fn count(&self, of: usize) -> usize {
        Arc::strong_count(&self.counts[of]) - 1
    }

    fn plan(&self, id: usize, kind: Kind, after: u64) {
        self.plans.lock().unwrap().insert(id, (kind, after));
    }
}

impl Upstream for Hop {
    type Value = Counted;
    type Error = Counted;

    async fn get(&self, key: &str) -> Answer<Self> {
        let Self(id, World { start, plans, asked, counts }) = self;
        let now = start.elapsed().as_millis() as u64;
        let query = (now, *id, key.to_owned());
        asked.lock().unwrap().push(query.clone());
        let (kind, after) = plans.lock().unwrap()[id];
        let open = Arc::clone(&counts[0]);
        match after {
            0 => {}
            NEVER => pending().await,
            _ => sleep(Duration::from_millis(after)).await,
        }
        drop(open);
        assert!(kind != Panics, "on purpose");
        result(kind, query, &counts[1])
    }
}

fn result(kind: Kind, query: Query, alive: &Arc<()>) -> Seen {
    match kind {
        Value => Ok(Some((query, Arc::clone(alive)))),
        Missing => Ok(None),
        Broken => Err(Failed::Origin((query, Arc::clone(alive)))),
        NoAnswer => Err(Failed::NoAnswer),
        Panicked => Err(Failed::Panicked("at a parent".to_owned())),
        Unavailable => Err(Failed::Unavailable),
        Panics => Err(Failed::Panicked("on purpose".to_owned())),
    }
}

/// Returns all pairs of what an upstream does and when.
fn plans<const N: usize>(after: [u64; N]) -> Vec<(Kind, u64)> {
    KINDS.iter().flat_map(|kind| after.map(|after| (*kind, after))).collect()
}

fn config(settings: Settings) -> Config {
    let [keep, attempt_timeout, deadline, retry_after] =
        settings.map(|ms| match ms {
            NEVER => Duration::MAX,
            AGES => Duration::from_secs(1 << 63),
            _ => Duration::from_millis(ms) - Duration::from_nanos(ms % 2),
        });
    Config { keep, attempt_timeout, deadline, retry_after }
}

fn score(key: &str, name: &str) -> u64 {
    let [key, name] = [key, name].map(|text| {
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    });
    let hash = key ^ name;
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Returns the parents in the order in which to ask for `key`.
fn ranked(key: &str, parents: usize) -> Vec<usize> {
    let mut ids: Vec<_> = (0..parents).collect();
    ids.sort_by_key(|id| !score(key, &format!("parent-{id}")));
    ids
}

fn poll(future: &mut Read) -> Option<Seen> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(seen) => Some(seen),
        Poll::Pending => None,
    }
}

/// Returns a runtime with a paused time.
fn paused() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

/// Lets all tasks run, without a change of the time.
async fn settle() {
    for _ in 0..8 {
        yield_now().await;
    }
}

impl Pair {
    #[rustfmt::skip]
    fn new(settings: Settings, parents: usize) -> Self {
        let world = World::new();
        let hop = |id| (format!("parent-{id}"), Hop(id, world.clone()));
        let upstreams = (0..parents).map(hop).collect();
        let origin = Hop(ORIGIN, world.clone());
        let node = Node::new(config(settings), upstreams, origin);
        let (readers, flights, asked) = Default::default();
        let (kept, unavailable, now, is_ambiguous) = Default::default();
        let pair = Self {
            world, node, settings, parents, now, readers, flights, kept,
            unavailable, asked, is_ambiguous,
        };
        pair.plan_all(Value, 0);
        pair
    }

    fn plan_all(&self, kind: Kind, after: u64) {
        let ids = (0..self.parents).chain([ORIGIN]);
        ids.for_each(|id| self.world.plan(id, kind, after));
    }

    /// Starts readers, one after the other.
    async fn read(&mut self, key: &str, readers: usize) {
        for _ in 0..readers {
            let (node, owned) = (self.node.clone(), key.to_owned());
            let future = async move { node.get(&owned).await };
            let future = Box::pin(unconstrained(future));
            let kept = self.kept.get(key).cloned();
            let kept = kept.filter(|kept| self.now - kept.0 < self.settings[0]);
            let expected = kept.map(|kept| kept.1);
            let is_kept = expected.is_some();
            let (key, seen, is_stalled) = (key.to_owned(), None, false);
            let reader = Reader { key, future, seen, expected, is_stalled };
            let key = reader.key.clone();
            self.readers.push(reader);
            self.poll(self.readers.len() - 1);
            let joins = self.flights.iter().any(|flight| flight.key == key);
            if !is_kept && !joins {
                let deadline = self.now.saturating_add(self.settings[2]);
                let next = ranked(&key, self.parents).into_iter();
                let next = next.chain([ORIGIN]).rev().collect();
                let attempt = ((0, 0, String::new()), 0, Unavailable);
                self.ask(Flight { key, deadline, next, attempt });
            }
            if !joins {
                self.check().await;
            }
        }
        self.check().await;
    }

    /// Lets a flight ask its next upstreams, until one takes time to answer.
    fn ask(&mut self, mut flight: Flight) {
        let [_, attempt_timeout, _, retry_after] = self.settings;
        while let Some(id) = flight.next.pop() {
            if let Some(since) = self.unavailable.get_mut(&id) {
                if self.now - *since < retry_after {
                    continue;
                }
                *since = self.now;
            }
            let query = (self.now, id, flight.key.clone());
            self.asked.push(query.clone());
            let (mut kind, after) = self.world.plans.lock().unwrap()[&id];
            let mut end = self.now.saturating_add(after);
            let limit = self.now.saturating_add(attempt_timeout);
            self.is_ambiguous |= [flight.deadline, limit].contains(&end);
            if id != ORIGIN && end >= limit {
                (kind, end) = (Unavailable, limit);
            }
            self.is_ambiguous |= flight.deadline == end;
            flight.attempt = (query, end, kind);
            if after > 0 {
                self.flights.push(flight);
                return;
            }
            if self.ends(&flight) {
                return;
            }
        }
    }

    /// Ends an attempt. Returns whether the flight ends with it.
    fn ends(&mut self, flight: &Flight) -> bool {
        let (query, _, mut kind) = flight.attempt.clone();
        match kind {
            Unavailable if query.1 == ORIGIN => kind = NoAnswer,
            Unavailable => {
                self.unavailable.insert(query.1, self.now);
                return false;
            }
            Panics => {}
            _ => _ = self.unavailable.remove(&query.1),
        }
        self.end(&flight.key, kind, query);
        true
    }

    fn end(&mut self, key: &str, kind: Kind, query: Query) {
        let seen = result(kind, query, &Arc::default());
        for reader in self.readers.iter_mut().filter(|r| r.key == key) {
            reader.expected = Some(seen.clone());
        }
        if kind != Panics {
            self.kept.insert(key.to_owned(), (self.now, seen));
        }
    }

    fn leave(&mut self, reader: usize) {
        let key = self.readers.remove(reader).key;
        if self.readers.iter().all(|reader| reader.key != key) {
            self.flights.retain(|flight| flight.key != key);
        }
    }

    /// Lets time pass, with checks before and after each event.
    async fn pass(&mut self, ms: u64) {
        let last = self.now + ms;
        let next = |flight: &Flight| flight.attempt.1.min(flight.deadline);
        loop {
            let event = self.flights.iter().map(next).min().unwrap_or(NEVER);
            self.wait_until(last.min(event - 1)).await;
            if event > last {
                return;
            }
            self.wait_until(event).await;
            let due = self.flights.extract_if(.., |f| next(f) == event);
            let due: Vec<_> = due.collect();
            self.is_ambiguous |= due.len() > 1;
            for flight in due {
                if flight.deadline == event {
                    self.end(&flight.key, NoAnswer, flight.attempt.0);
                } else if !self.ends(&flight) {
                    self.ask(flight);
                }
            }
            self.check().await;
        }
    }

    async fn wait_until(&mut self, now: u64) {
        if now > self.now {
            self.check().await;
            self.now = now;
            sleep_until(self.world.start + Duration::from_millis(now)).await;
            settle().await;
        }
    }

    fn poll(&mut self, first: usize) {
        for reader in &mut self.readers[first..] {
            if reader.seen.is_none() && !reader.is_stalled {
                reader.seen = poll(&mut reader.future);
            }
        }
    }

    /// Compares the results, the queries and the open attempts.
    async fn check(&mut self) {
        for _ in 0..2 {
            settle().await;
            self.poll(0);
        }
        let at = format!("at {} ms, with {:?}", self.now, self.settings);
        for Reader { key, seen, expected, is_stalled, .. } in &self.readers {
            let is_same = seen == expected || *is_stalled;
            assert!(
                is_same,
                "{at}: a reader of {key:?} has {seen:?}, expected {expected:?}"
            );
        }
        self.readers.retain(|reader| reader.seen.is_none());
        let mut asked = self.world.asked.lock().unwrap();
        // Flights of different keys ask in any order.
        let by_key = |(at, _, key): &Query| (*at, key.clone());
        asked.sort_by_key(by_key);
        self.asked.sort_by_key(by_key);
        let expected = &self.asked;
        assert_eq!(*asked, *expected, "{at}: queries: seen, expected");
        asked.clear();
        self.asked.clear();
        let (open, expected) = (self.world.count(0), self.flights.len());
        assert_eq!(open, expected, "{at}: open attempts: seen, expected");
    }
}
