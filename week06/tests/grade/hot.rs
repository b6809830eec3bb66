use std::collections::{BTreeMap, HashMap};
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
        assert_eq!(hot.hot(*START), [(Collides(5), 110)], "seen, expected");
    }

    #[test]
    fn the_time_of_a_call_depends_neither_on_records_nor_on_capacity() {
        let one_key = config([2, 70_000, 70_000], SECOND, 10);
        let mut hot = HotKeys::new(one_key, *START);
        for i in 1..=100_000 {
            let seen = hot.record(&1, *START);
            assert_eq!(seen, i >= 70_000, "hot (left) at record {i}");
        }
        for s in 0..20 {
            let now = *START + s * SECOND;
            let reads = (0..4_000).filter(|_| hot.is_hot(&1, now)).count();
            assert_eq!(reads > 0, s <= 10, "hot {reads} times, in second {s}");
        }
        let many_keys = config([50_000, 1, 1], SECOND, 3);
        let mut hot = HotKeys::new(many_keys, *START);
        // When a round begins, all keys of the one before have expired.
        for round in 0..3 {
            let now = *START + 4 * round * SECOND;
            let ids = (round * 50_000..).take(50_000);
            ids.clone().for_each(|id| _ = hot.record(&id, now));
            let seen = ids.filter(|id| hot.is_hot(id, now)).count();
            assert_eq!(seen, 50_000, "keys that are hot, in round {round}");
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
        for (i, stream) in streams(150).enumerate() {
            let [hot_at, cool] = [[1, 1], [8, 3], [30, 20], [9, 1]][i % 4];
            let (capacity, n) =
                ([1, 2, 3, 8, 25][i % 5], [1, 3, 10][i % 7 % 3]);
            let config = config([capacity, hot_at, cool], SECOND, n);
            let (mut pair, mut now) = (Pair::new(config), *START);
            let ids = ([4, 1_000][i / 4 % 2] * capacity) as f64;
            for [id, step, burst] in stream {
                now += (15 * SECOND).mul_f64(step.powi(8));
                // Some callers pass an earlier time.
                let now = if step < 0.3 { *START } else { now };
                let n = (1.0 + 60.0 * burst.powi(6)) as u64;
                pair.record_many(n, (id.powi(3) * ids) as u64, now);
                let earlier = pair.hot.max_error(*START);
                assert_eq!(earlier, pair.check(now).1, "errors: earlier, now");
            }
            (0..30).for_each(|s| _ = pair.check(now + s * SECOND));
        }
    }

    #[test]
    fn the_error_stays_within_its_bound_if_half_of_the_keys_are_popular() {
        for half in [1, 4, 10, 40] {
            let mut pair = Pair::new(config([2 * half, 1, 1], SECOND, 10));
            let half = half as u64;
            (1..half).for_each(|id| pair.record_many(100, id, *START));
            for id in 1_000..1_000 + 12 * half {
                let is_median = id % (half + 1) == 0;
                pair.record_many(if is_median { 50 } else { 1 }, id, *START);
                pair.check(*START);
            }
        }
    }

    #[test]
    fn zipf_streams_have_no_false_hot_key_and_none_is_missed() {
        for keys in [1_000_f64, 1e6] {
            let mut pair = Pair::new(config([500, 300, 200], SECOND, 10));
            for (i, [rand, ..]) in (0..).zip(streams(300).flatten()) {
                let now = *START + i * SECOND / 1_500;
                // Rank `r` has a share of `1/r`. Later, other keys are popular.
                let shift = u64::from(i > 15_000) * 1_000_000;
                pair.record(keys.powf(rand) as u64 + shift, now);
                if i % 3_000 == 2_999 {
                    pair.check(now);
                }
            }
        }
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
        Self { hot, config, cool_below, stored, latest, keys }
    }

    fn key(&self, id: u64) -> Key {
        (id, Arc::clone(&self.stored))
    }

    fn bucket(&self, now: Instant) -> u128 {
        let width = self.config.window.bucket.as_nanos().max(1);
        now.max(self.latest).duration_since(*START).as_nanos() / width
    }

    /// Returns the number of records of a key in the last windows.
    fn exact(&self, id: u64, now: Instant, windows: u128) -> u64 {
        let back = self.config.window.buckets.get() as u128 * windows;
        let oldest = self.bucket(now).saturating_sub(back);
        let key = self.keys.get(&id).into_iter();
        key.flat_map(|key| key.buckets.range(oldest..)).map(|b| b.1).sum()
    }

    fn record_many(&mut self, n: u64, id: u64, now: Instant) {
        (0..n).for_each(|_| self.record(id, now));
    }

    fn record(&mut self, id: u64, now: Instant) {
        let (count, error) = (self.exact(id, now, 1), self.hot.max_error(now));
        self.latest = self.latest.max(now);
        let bucket = self.bucket(now);
        let key = self.keys.entry(id).or_default();
        let (seen_hot, lowest) = (key.seen_hot, count.saturating_sub(error));
        key.was_hot &= count >= self.cool_below;
        key.was_hot |= count + 1 >= self.config.hot_at.get();
        *key.buckets.entry(bucket).or_default() += 1;
        let key = self.key(id);
        let seen = [self.hot.record(&key, now), self.hot.is_hot(&key, now)];
        assert_eq!(seen[0], seen[1], "`record`, `is_hot` of key {id}");
        // A key becomes hot at `hot_at` only, and cools at `cool_below` only.
        if seen[0] != seen_hot {
            let hot = self.hot.hot(now).into_iter();
            let count = hot.filter(|(k, _)| *k == key).map(|(_, n)| n).next();
            let is_right = match count {
                Some(count) => count >= self.config.hot_at.get(),
                None => lowest < self.cool_below,
            };
            let text = format!("hot: {seen_hot}, after `record` {}", seen[0]);
            let text = format!("{text}, {count:?} in `hot`, at least {lowest}");
            assert!(is_right, "key {id} {text} before, {:?}", self.config);
        }
        self.keys.entry(id).or_default().seen_hot = seen[0];
    }

    fn check_capacity(&self, now: Instant) -> Vec<(Key, u64)> {
        let (hot, capacity) = (self.hot.hot(now), self.config.capacity.get());
        let (len, stored) = (hot.len(), Arc::strong_count(&self.stored) - 1);
        let text = format!("{len} keys, {stored} clones, capacity {capacity}");
        assert!(len <= capacity && stored <= 2 * capacity + len, "{text}");
        hot
    }

    /// Compares all results with the exact counts. Returns the number of keys
    /// that are hot by exact counts only, and the error.
    fn check(&mut self, now: Instant) -> (usize, u64) {
        for other in [now + 5 * SECOND, now + CENTURIES, *START] {
            self.hot.is_hot(&self.key(0), other);
            drop((self.hot.hot(other), self.hot.max_error(other)));
        }
        let (hot, error) = (self.check_capacity(now), self.hot.max_error(now));
        let counts: HashMap<_, _> =
            hot.iter().map(|(k, n)| (k.0, *n)).collect();
        let is_sorted = hot.is_sorted_by(|a, b| a.1 >= b.1);
        assert!(is_sorted && counts.len() == hot.len(), "`hot`: {hot:?}");
        let (mut recent, mut exact_hot, none) = (0, 0, Exact::default());
        for id in self.keys.keys().copied().chain([u64::MAX]) {
            let key = self.keys.get(&id).unwrap_or(&none);
            let (seen, exact) = (counts.get(&id), self.exact(id, now, 1));
            recent += self.exact(id, now, 2);
            let lowest = exact.saturating_sub(error);
            let may_be_hot = key.was_hot && exact >= self.cool_below;
            let stays = key.seen_hot && lowest >= self.cool_below;
            exact_hot += usize::from(may_be_hot);
            let wrong = match self.hot.is_hot(&self.key(id), now) {
                is_hot if seen.is_some() != is_hot => "is not as in `hot`",
                true if !may_be_hot => "is hot by its error",
                false if stays => "has cooled",
                false if lowest >= self.config.hot_at.get() => "is not hot",
                true if counts[&id] < self.cool_below => "has not cooled",
                true if counts[&id] > exact => "has a count too high",
                true if counts[&id] < lowest => "has a count too low",
                _ => continue,
            };
            let text =
                format!("{seen:?} in `hot`, exact {exact}, error {error}");
            panic!("key {id} {wrong}: {text}, {:?}", self.config);
        }
        let bound = 2 * recent / self.config.capacity.get() as u64;
        assert!(error <= bound, "maximum error {error}, expected: <= {bound}");
        if self.bucket(now) == self.bucket(self.latest) {
            for (id, key) in &mut self.keys {
                key.seen_hot = counts.contains_key(id);
            }
        }
        (exact_hot - hot.len(), error)
    }

    /// Compares all results, for a stream that fits in the capacity.
    fn check_exact(&mut self, now: Instant) {
        let seen = self.check(now);
        assert_eq!(seen, (0, 0), "missing keys, error, {:?}", self.config);
    }
}
