use std::collections::{BTreeMap, HashMap};
use std::fs::read_to_string;
use std::hash::{Hash, Hasher};
use std::num::NonZero;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use proptest::{array::uniform3, collection::vec};
use week05::window;
use week06::hot::{Config, HotKeys};

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);
const CENTURIES: Duration = Duration::from_secs(250 * 31_557_600);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

mod counts {
    use super::*;

    #[test]
    fn hot_keys_are_listed_with_their_counts_highest_first() {
        for keys in [0, 1, 2, 17, 130, 1_500] {
            let mut pair = Pair::new(config([1_500, 3, 3], SECOND, 10));
            for id in 0..keys {
                let n = (id * 7) % 11 + u64::from(id == keys / 2) * 1_500;
                pair.record_many(n, id, *START);
            }
            pair.check_exact(*START);
        }
    }

    #[test]
    fn a_record_counts_for_the_window_and_at_most_one_bucket_more() {
        let widths = [0, 1, 7, 1_000_000_000, 3_600_000_000_000];
        for (width, n) in widths.iter().flat_map(|w| [(*w, 1), (*w, 130)]) {
            let config = config([3, 2, 2], Duration::from_nanos(width), n);
            let width = Duration::from_nanos(width).max(NANO);
            for first in [0, 1, n as u32, 65_537] {
                let mut pair = Pair::new(config);
                let begin = *START + first * width;
                let expiry = begin + (n as u32 + 1) * width;
                pair.record(0, begin);
                pair.record_many(2, 0, begin + width - NANO);
                pair.check_exact(begin + width - NANO);
                pair.check_exact(expiry - width);
                pair.check_exact(expiry - NANO);
                pair.check_exact(expiry);
                pair.record_many(2, 0, expiry - NANO);
                for now in [expiry, expiry + CENTURIES] {
                    pair.record_many(3, 0, now);
                    pair.check_exact(now);
                    pair.check_exact(now + CENTURIES);
                }
                // From now on, no bucket is without a record.
                for _ in 0..2 * n {
                    pair.record(0, pair.latest + width);
                }
                pair.check_exact(pair.latest);
                pair.check_exact(pair.latest + n as u32 / 2 * width);
            }
        }
    }

    #[test]
    fn a_record_with_an_earlier_time_counts_at_the_latest_time() {
        let mut pair = Pair::new(config([4, 2, 2], SECOND, 10));
        pair.record_many(2, 3, *START - SECOND);
        pair.check_exact(*START - SECOND);
        let late = *START + 100 * SECOND;
        pair.record_many(3, 0, late);
        for now in [*START, *START + 95 * SECOND, *START - SECOND] {
            (0..4).for_each(|id| pair.record(id, now));
            pair.check_exact(now);
        }
        (100..130).for_each(|s| pair.check_exact(*START + s * SECOND));
    }

    #[test]
    fn keys_with_equal_hashes_are_counted_apart() {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        struct Collides(u64);
        impl Hash for Collides {
            fn hash<H: Hasher>(&self, _: &mut H) {}
        }
        let mut hot = HotKeys::new(config([8, 90, 90], SECOND, 1), *START);
        (0..480).for_each(|i| _ = hot.record(&Collides(i % 8), *START));
        (0..50).for_each(|_| _ = hot.record(&Collides(5), *START));
        assert_eq!(
            hot.hot(*START),
            [(Collides(5), 110)],
            "`hot` (left), expected (right): 8 keys with 60 records each, and \
             50 more of key 5; all hashes are equal"
        );
    }

    #[test]
    fn the_time_of_a_call_depends_neither_on_records_nor_on_capacity() {
        let one_key = config([2, 70_000, 70_000], SECOND, 10);
        let mut hot = HotKeys::new(one_key, *START);
        let mut records = CpuTime::of("`record`, of one key", "records");
        let mut reads = CpuTime::of("`is_hot` of 100,000 records", "records");
        for i in 1..=100_000 {
            let seen = hot.record(&1, *START);
            assert_eq!(
                seen,
                i >= 70_000,
                "record {i} (left), expected (right), with a `hot_at` of 70,000"
            );
            records.expect_short();
        }
        for s in 0..20 {
            let now = *START + s * SECOND;
            let mut seen = 0;
            for _ in 0..4_000 {
                seen += u32::from(hot.is_hot(&1, now));
                reads.expect_short();
            }
            let expected = if s <= 10 { 4_000 } else { 0 };
            assert_eq!(
                seen, expected,
                "the calls of `is_hot` in second {s} that returned true \
                 (left), expected (right), of 4,000 calls: the records in \
                 second 0 count until the end of second 10"
            );
        }
        let many_keys = config([50_000, 1, 1], SECOND, 3);
        let mut hot = HotKeys::new(many_keys, *START);
        let capacity = "with a capacity of 50,000";
        let records = &format!("`record` {capacity}");
        let mut records = CpuTime::of(records, "capacity");
        let reads = &format!("`is_hot` {capacity}");
        let mut reads = CpuTime::of(reads, "capacity");
        // When a round begins, all keys of the one before have expired.
        for round in 0..3 {
            let now = *START + 4 * round * SECOND;
            let mut seen = 0;
            let ids = (round * 50_000..).take(50_000);
            for id in ids.clone() {
                hot.record(&id, now);
                records.expect_short();
            }
            for id in ids {
                seen += u32::from(hot.is_hot(&id, now));
                reads.expect_short();
            }
            assert_eq!(
                seen, 50_000,
                "keys that are hot (left), expected (right), in round {round}: \
                 each round records 50,000 new keys {capacity}, when all \
                 earlier keys have expired"
            );
        }
    }
}

mod hysteresis {
    use super::*;

    #[test]
    fn a_hot_key_stays_hot_until_its_count_is_below_the_lower_threshold() {
        for cool_below in (1..=22).chain([usize::MAX]) {
            let mut pair = Pair::new(config([1, 20, cool_below], SECOND, 10));
            (0..10).for_each(|s| pair.record_many(2, 0, *START + s * SECOND));
            (0..25).for_each(|s| pair.check_exact(*START + s * SECOND));
        }
    }

    #[test]
    fn a_key_that_has_cooled_is_hot_again_only_at_the_upper_threshold() {
        for rest in 0..6 {
            // If fewer than 5 records remain, the key cools without a read.
            let mut pair = Pair::new(config([1, 8, 5], SECOND, 10));
            pair.record_many(8 - rest, 0, *START);
            pair.record_many(rest, 0, *START + SECOND);
            for _ in 0..9 {
                pair.record(0, *START + 11 * SECOND);
                pair.check_exact(*START + 11 * SECOND);
            }
        }
    }

    #[test]
    fn any_stream_of_few_keys_matches_exact_counts() {
        for (i, stream) in streams(100).enumerate() {
            const MANY: usize = 1 << 32;
            let [hot_at, cool] =
                [[1, 1], [4, 2], [9, 9], [6, 1], [MANY + 1, MANY]][i % 5];
            let (capacity, n) = ([1, 2, 5, 40][i / 2 % 4], [1, 4, 10][i % 3]);
            let width = [SECOND, SECOND / 3, Duration::MAX][i / 3 % 3];
            let config = config([capacity, hot_at, cool], width, n);
            let (mut pair, mut now) = (Pair::new(config), *START);
            for [id, step, _] in stream {
                now += (20 * SECOND).mul_f64(step.powi(8));
                pair.record((id * id * capacity as f64) as u64, now);
                pair.check_exact(now);
            }
        }
    }
}

mod capacity {
    use super::*;

    #[test]
    fn a_million_keys_leave_at_most_the_capacity_stored() {
        for (capacity, keys) in [(1, 2_000), (5_000, 1_000_000)] {
            let mut pair = Pair::new(config([capacity, 1, 1], SECOND, 10));
            for id in 0..keys {
                let now = *START + id * SECOND / 20_000;
                pair.hot.record(&pair.key(id.into()), now);
                if id % 50_000 == 49_999 || id % 10 == 0 && id <= 2_000 {
                    pair.check_capacity(now);
                }
            }
        }
    }

    #[test]
    fn expired_keys_make_room_before_any_count_is_reduced() {
        for capacity in [1, 2, 17, 130] {
            let mut pair = Pair::new(config([capacity, 1, 1], SECOND, 3));
            for round in 0..20 {
                let now = *START + round * SECOND;
                // Each of four buckets has new keys, a quarter of the capacity.
                for i in (round as u64 % 4..capacity as u64).step_by(4) {
                    let id = u64::from(round) * 1_000 + i;
                    pair.record_many(1 + i % 3, id, now);
                }
                pair.check_exact(now);
            }
        }
    }

    #[test]
    fn counts_of_any_stream_are_exact_within_the_error() {
        let streams = streams_of_many_keys();
        for (config, stream) in streams.chain(streams_with_a_popular_half()) {
            let (mut pair, mut now) = (Pair::new(config), *START);
            for (n, id, at) in stream {
                pair.record_many(n, id, at);
                pair.check(at);
                now = now.max(at);
            }
            (0..30).for_each(|s| _ = pair.check(now + s * SECOND));
        }
    }

    #[test]
    fn max_error_is_not_0_when_counts_have_been_reduced() {
        for capacity in [1, 2, 17, 130] {
            let mut pair = Pair::new(config([capacity, 1, 1], SECOND, 10));
            let ids = 0..2 * capacity as u64;
            let exact = 3 * ids.end;
            ids.for_each(|id| (0..3).for_each(|_| _ = pair.add(id, *START)));
            let hot = pair.hot.hot(*START);
            let counts: u64 = hot.iter().map(|(_, count)| count).sum();
            assert!(
                counts >= exact || pair.hot.max_error(*START) > 0,
                "`max_error` is 0, although the counts of {} keys are {counts} \
                 for {exact} records, {}",
                hot.len(),
                pair.text()
            );
        }
    }

    #[test]
    fn max_error_at_an_earlier_time_is_that_at_the_latest_record() {
        for (config, stream) in streams_of_many_keys() {
            let mut pair = Pair::new(config);
            for (n, id, at) in stream {
                (0..n).for_each(|_| _ = pair.add(id, at));
                let expected = pair.hot.max_error(pair.latest);
                for earlier in [*START, at] {
                    let seen = pair.hot.max_error(earlier);
                    assert!(
                        seen == expected,
                        "`max_error` at an earlier `now`, {}: {seen}, at the \
                         latest, {}: {expected}, {}",
                        time(earlier),
                        time(pair.latest),
                        pair.text()
                    );
                }
            }
        }
    }

    #[test]
    fn the_error_of_any_stream_is_within_its_bound() {
        for (config, stream) in streams_of_many_keys() {
            let (mut pair, mut now) = (Pair::new(config), *START);
            for (n, id, at) in stream {
                (0..n).for_each(|_| _ = pair.add(id, at));
                pair.check_bound(at);
                now = now.max(at);
            }
            (0..30).for_each(|s| pair.check_bound(now + s * SECOND));
        }
        for (config, stream) in zipf_streams() {
            let mut pair = Pair::new(config);
            for (i, (id, now)) in stream.enumerate() {
                pair.add(id, now);
                if i % 3_000 == 2_999 {
                    pair.check_bound(now);
                }
            }
        }
    }

    #[test]
    fn the_error_stays_within_its_bound_if_half_of_the_keys_are_popular() {
        for (config, stream) in streams_with_a_popular_half() {
            let mut pair = Pair::new(config);
            for (n, id, at) in stream {
                (0..n).for_each(|_| _ = pair.add(id, at));
                pair.check_bound(at);
            }
        }
    }

    #[test]
    fn zipf_streams_have_no_false_hot_key_and_none_is_missed() {
        for (config, stream) in zipf_streams() {
            let mut pair = Pair::new(config);
            for (i, (id, now)) in stream.enumerate() {
                pair.record(id, now);
                if i % 3_000 == 2_999 {
                    pair.check(now);
                }
            }
        }
    }
}

/// The CPU time of some calls. A call whose time depends on the number in
/// question takes a hundred times as long as the answer's.
struct CpuTime<'a> {
    calls: u32,
    name: &'a str,
    depends_on: &'a str,
    used: Duration,
    latest: Duration,
}

impl<'a> CpuTime<'a> {
    const MAX: Duration = Duration::from_secs(8);

    fn of(name: &'a str, depends_on: &'a str) -> Self {
        let (used, latest) = (Duration::ZERO, Duration::ZERO);
        Self { calls: 0, name, depends_on, used, latest }
    }

    /// Called after each call. Fails before the deadline of the test.
    fn expect_short(&mut self) {
        self.calls += 1;
        let Self { calls, name, depends_on, .. } = self;
        if *calls % 256 == 1 {
            self.latest = Self::now();
        } else if *calls % 256 == 0 {
            self.used += Self::now().saturating_sub(self.latest);
            assert!(
                self.used < Self::MAX,
                "{calls} calls of {name} took {:.1?}: does the time depend on \
                 the {depends_on}?",
                self.used
            );
        }
    }

    /// Returns the CPU time of this thread on Linux, and elsewhere the time.
    fn now() -> Duration {
        let stat = read_to_string("/proc/thread-self/schedstat");
        let nanos = stat.ok().and_then(|s| s.split(' ').next()?.parse().ok());
        nanos.filter(|n| *n > 0).map_or(START.elapsed(), Duration::from_nanos)
    }
}

fn config(of: [usize; 3], bucket: Duration, buckets: usize) -> Config {
    let [capacity, hot_at, cool_below] = of.map(|n| NonZero::new(n).unwrap());
    Config {
        capacity,
        window: window::Config { bucket, buckets: buckets.try_into().unwrap() },
        hot_at: hot_at.try_into().unwrap(),
        cool_below: cool_below.try_into().unwrap(),
    }
}

fn streams(n: usize) -> impl Iterator<Item = Vec<[f64; 3]>> {
    let steps = vec(uniform3(0.0..1.0), 0..200);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Default::default(), rng);
    (0..n).map(move |_| steps.new_tree(&mut runner).unwrap().current())
}

/// A configuration, and how often which key is recorded when.
type Stream = (Config, Vec<(u64, u64, Instant)>);

/// Random streams, most of them with more keys than the capacity.
fn streams_of_many_keys() -> impl Iterator<Item = Stream> {
    streams(150).enumerate().map(|(i, stream)| {
        let [hot_at, cool] = [[1, 1], [8, 3], [30, 20], [9, 1]][i % 4];
        let (capacity, n) = ([1, 2, 3, 8, 25][i % 5], [1, 3, 10][i % 7 % 3]);
        let ids = ([4, 1_000][i / 4 % 2] * capacity) as f64;
        let mut now = *START;
        let records = stream.into_iter().map(|[id, step, burst]| {
            now += (15 * SECOND).mul_f64(step.powi(8));
            // Some callers pass an earlier time.
            let now = if step < 0.3 { *START } else { now };
            let n = (1.0 + 60.0 * burst.powi(6)) as u64;
            (n, (id.powi(3) * ids) as u64, now)
        });
        let records = records.collect();
        (config([capacity, hot_at, cool], SECOND, n), records)
    })
}

/// Streams in which keys that are recorded often fill half of the capacity.
fn streams_with_a_popular_half() -> impl Iterator<Item = Stream> {
    [1, 4, 10, 40].into_iter().map(|half: usize| {
        let config = config([2 * half, 1, 1], SECOND, 10);
        let half = half as u64;
        let popular = (1..half).map(|id| (100, id, *START));
        let others = (1_000..1_000 + 12 * half).map(|id| {
            let is_median = id % (half + 1) == 0;
            (if is_median { 50 } else { 1 }, id, *START)
        });
        (config, popular.chain(others).collect())
    })
}

fn zipf_streams()
-> impl Iterator<Item = (Config, impl Iterator<Item = (u64, Instant)>)> {
    [1_000_f64, 1e6].into_iter().map(|keys| {
        let stream = (0..).zip(streams(300).flatten());
        let stream = stream.map(move |(i, [rand, ..])| {
            // Rank `r` has a share of `1/r`. Later, other keys are popular.
            let shift = u64::from(i > 15_000) * 1_000_000;
            let now = *START + i * SECOND / 1_500;
            (keys.powf(rand) as u64 + shift, now)
        });
        (config([500, 300, 200], SECOND, 10), stream)
    })
}

/// Returns a time as the time since the creation of the sketch.
fn time(now: Instant) -> String {
    match now.checked_duration_since(*START) {
        Some(elapsed) => format!("{elapsed:?}"),
        None => format!("-{:?}", *START - now),
    }
}

/// The clones of the `Arc` are the keys that are stored.
type Key = (u64, Arc<()>);

/// A sketch, and the exact counts.
struct Pair {
    hot: HotKeys<Key>,
    config: Config,
    cool_below: u64,
    stored: Arc<()>,
    latest: Instant,
    keys: HashMap<u64, Exact>,
    /// How often which key was recorded when.
    steps: Vec<(u64, u64, Instant)>,
}

#[derive(Default)]
struct Exact {
    buckets: BTreeMap<u128, u64>,
    /// Whether the key was hot by exact counts after its latest record.
    was_hot: bool,
    /// Whether the key was hot at the latest record or check.
    seen_hot: bool,
}

impl Pair {
    fn new(config: Config) -> Self {
        let hot = HotKeys::new(config, *START);
        let cool_below = config.cool_below.min(config.hot_at).get();
        let (stored, latest, keys) = (Arc::default(), *START, HashMap::new());
        let steps = Vec::new();
        Self { hot, config, cool_below, stored, latest, keys, steps }
    }

    fn key(&self, id: u64) -> Key {
        (id, Arc::clone(&self.stored))
    }

    fn bucket(&self, now: Instant) -> u128 {
        let width = self.config.window.bucket.as_nanos().max(1);
        now.max(self.latest).duration_since(*START).as_nanos() / width
    }

    /// Returns the number of records of a key in the bucket of `now` and in
    /// `back` buckets before it.
    fn exact(&self, id: u64, now: Instant, back: u128) -> u64 {
        let oldest = self.bucket(now).saturating_sub(back);
        let key = self.keys.get(&id).into_iter();
        key.flat_map(|key| key.buckets.range(oldest..)).map(|b| b.1).sum()
    }

    /// Returns the number of buckets of the window.
    fn buckets(&self) -> u128 {
        self.config.window.buckets.get() as u128
    }

    /// Returns the settings and the latest records, for messages.
    fn text(&self) -> String {
        const SHOWN: usize = 40;
        let Config { capacity, window, hot_at, .. } = self.config;
        let (n, width) = (window.buckets, window.bucket);
        let cool = self.config.cool_below;
        let mut text = format!(
            "with capacity {capacity}, {n} buckets of {width:?}, `hot_at` \
             {hot_at}, `cool_below` {cool}\nrecords so far: "
        );
        let earlier = self.steps.len().saturating_sub(SHOWN);
        if earlier > 0 {
            text += &format!("({earlier} earlier steps); ");
        }
        let steps = self.steps[earlier..].iter().map(|(n, id, now)| {
            let times = if *n > 1 { format!("{n} × ") } else { String::new() };
            format!("{times}key {id} at {}", time(*now))
        });
        text + &steps.collect::<Vec<_>>().join("; ")
    }

    fn record_many(&mut self, n: u64, id: u64, now: Instant) {
        (0..n).for_each(|_| self.record(id, now));
    }

    /// Records a key in the sketch and in the exact counts, without a check.
    fn add(&mut self, id: u64, now: Instant) -> bool {
        match self.steps.last_mut() {
            Some((n, last, at)) if (*last, *at) == (id, now) => *n += 1,
            _ => self.steps.push((1, id, now)),
        }
        self.latest = self.latest.max(now);
        let bucket = self.bucket(now);
        let key = self.keys.entry(id).or_default();
        *key.buckets.entry(bucket).or_default() += 1;
        self.hot.record(&self.key(id), now)
    }

    fn record(&mut self, id: u64, now: Instant) {
        let count = self.exact(id, now, self.buckets());
        let lowest = count.saturating_sub(self.hot.max_error(now));
        let key = self.keys.entry(id).or_default();
        let seen_hot = key.seen_hot;
        key.was_hot &= count >= self.cool_below;
        key.was_hot |= count + 1 >= self.config.hot_at.get();
        let recorded = self.add(id, now);
        let key = self.key(id);
        let is_hot = self.hot.is_hot(&key, now);
        assert!(
            recorded == is_hot,
            "`record` of key {id} returned {recorded}, and `is_hot` directly \
             after it {is_hot}, {}",
            self.text()
        );
        // A key becomes hot at `hot_at` only, and cools at `cool_below` only.
        if recorded != seen_hot {
            let hot = self.hot.hot(now).into_iter();
            let seen = hot.filter(|(k, _)| *k == key).map(|(_, n)| n).next();
            let is_right = match seen {
                Some(seen) => seen >= self.config.hot_at.get(),
                None => lowest < self.cool_below,
            };
            let [before, after] =
                [seen_hot, recorded].map(|is| if is { "hot" } else { "cool" });
            assert!(
                is_right,
                "key {id} was {before} and is {after} after its latest \
                 `record`: {seen:?} in `hot`, exact {count} before this \
                 record, and at least {lowest} of them in your count, {}",
                self.text()
            );
        }
        self.keys.entry(id).or_default().seen_hot = recorded;
    }

    fn check_capacity(&self, now: Instant) -> Vec<(Key, u64)> {
        let (hot, capacity) = (self.hot.hot(now), self.config.capacity.get());
        // The list has clones of keys, too.
        let stored = Arc::strong_count(&self.stored) - 1;
        let (len, stored) = (hot.len(), stored.saturating_sub(hot.len()));
        assert!(
            len <= capacity && stored <= 2 * capacity,
            "{len} keys in `hot`, {stored} clones of keys are stored, with a \
             capacity of {capacity}"
        );
        hot
    }

    fn check_bound(&self, now: Instant) {
        let (error, back) = (self.hot.max_error(now), 2 * self.buckets());
        let recent: u64 =
            self.keys.keys().map(|id| self.exact(*id, now, back)).sum();
        let capacity = self.config.capacity.get() as u64;
        let bound = 2 * recent / capacity;
        assert!(
            error <= bound,
            "`max_error` at {} is {error}, expected at most 2 × {recent} / \
             {capacity} = {bound}, {}",
            time(now),
            self.text()
        );
    }

    /// Compares the keys and counts with the exact ones. Returns the number of
    /// keys that are hot by exact counts only, and the error.
    fn check(&mut self, now: Instant) -> (usize, u64) {
        for other in [now + 5 * SECOND, now + CENTURIES, *START] {
            self.hot.is_hot(&self.key(0), other);
            drop((self.hot.hot(other), self.hot.max_error(other)));
        }
        let (hot, error) = (self.check_capacity(now), self.hot.max_error(now));
        let counts: HashMap<_, _> =
            hot.iter().map(|(k, n)| (k.0, *n)).collect();
        let list = || hot.iter().map(|(k, n)| (k.0, *n)).collect::<Vec<_>>();
        let is_sorted = hot.is_sorted_by(|a, b| a.1 >= b.1);
        assert!(
            is_sorted,
            "`hot` is not in descending order of the counts: {:?}, {}",
            list(),
            self.text()
        );
        assert!(
            counts.len() == hot.len(),
            "`hot` has a key twice: {:?}, {}",
            list(),
            self.text()
        );
        let (mut exact_hot, none) = (0, Exact::default());
        for id in self.keys.keys().copied().chain([u64::MAX]) {
            let key = self.keys.get(&id).unwrap_or(&none);
            let seen = counts.get(&id);
            let exact = self.exact(id, now, self.buckets());
            let lowest = exact.saturating_sub(error);
            let may_be_hot = key.was_hot && exact >= self.cool_below;
            let stays = key.seen_hot && lowest >= self.cool_below;
            exact_hot += usize::from(may_be_hot);
            let wrong = match self.hot.is_hot(&self.key(id), now) {
                true if seen.is_none() => "is hot and not in `hot`",
                false if seen.is_some() => "is in `hot` and not hot",
                true if !may_be_hot => "is hot, but not by exact counts",
                false if stays => "has cooled",
                false if lowest >= self.config.hot_at.get() => "is not hot",
                true if counts[&id] < self.cool_below => "has not cooled",
                true if counts[&id] > exact => "has a count too high",
                true if counts[&id] < lowest => "has a count too low",
                _ => continue,
            };
            let fewer = self.exact(id, now, self.buckets() - 1);
            let expires_early = fewer < exact
                && (seen == Some(&fewer)
                    || seen.is_none() && error == 0 && fewer < self.cool_below);
            let hint = if expires_early {
                "\nit counted for one bucket less than the window: `n` buckets, \
                 not `n + 1`"
            } else {
                ""
            };
            panic!(
                "key {id} {wrong} at {}: {seen:?} in `hot`, exact {exact}, \
                 error {error}, {}{hint}",
                time(now),
                self.text()
            );
        }
        if self.bucket(now) == self.bucket(self.latest) {
            for (id, key) in &mut self.keys {
                key.seen_hot = counts.contains_key(id);
            }
        }
        (exact_hot - hot.len(), error)
    }

    /// Compares all results, for a stream that fits in the capacity.
    fn check_exact(&mut self, now: Instant) {
        let (missing, error) = self.check(now);
        let at = time(now);
        assert!(
            error == 0,
            "`max_error` at {at} is {error}, expected 0, {}",
            self.text()
        );
        assert!(
            missing == 0,
            "{missing} keys that are hot by exact counts are not in `hot`, at \
             {at}, {}",
            self.text()
        );
    }
}
