use std::collections::{HashMap, VecDeque};
use std::fs::read_to_string;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use week08::slab_classes::{self, Classes, PAGE};
use week08::slab_lru::{Cache, ClassStats, Config, SetError};

/// Header, NUL, cas and line end.
const FIXED: usize = 48 + 1 + 8 + 2;

/// Every value is a part of these bytes.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = vec![0; 3 * PAGE];
    fastrand::Rng::with_seed(8).fill(&mut bytes);
    bytes
});

mod placement {
    use super::*;

    #[test]
    fn keys_and_values_of_any_length_may_have_any_bytes() {
        let mut pair = Pair::new(64, classes(1.25, 96, 20));
        let lens = (0..300).chain([1_500, 65_535, 65_536, 1_048_267]);
        lens.zip(0..).for_each(|(len, id)| pair.set(&key(id), len));
        let one = (0..=255).map(|byte| vec![byte; 1]);
        let text = b"a\r\nset b 0 0 1 \0\xff".iter().copied().cycle();
        let long = (2..=250).map(|len| text.clone().take(len).collect());
        let last = (1..=255).map(|byte| [vec![0; 249], vec![byte]].concat());
        for key in one.chain(long).chain(last) {
            pair.set(&key, 300 - key.len());
        }
        pair.check_values();
    }

    #[test]
    fn an_item_takes_a_chunk_of_the_class_of_its_size() {
        let tables =
            [(1.25, 96, 19), (2.0, 1_000, 20), (1.05, 100, 12), (4.0, 400, 9)];
        // Several classes have the same chunk size.
        let equal = [(1.01, 96, 10), (1.01, 506, 9)];
        for (factor, smallest, bits) in tables.into_iter().chain(equal) {
            let classes = classes(factor, smallest, bits);
            let mut pair = Pair::new(250, classes.clone());
            for (n, class) in (0..).zip(classes.classes()) {
                for (key_len, less) in [1, 17, 250].map(|len| (len, 0..3)) {
                    for less in less {
                        let key = [n, less, key_len].repeat(84);
                        let key = &key[..usize::from(key_len)];
                        let size = class.chunk_size + 1 - usize::from(less);
                        if let Some(len) = size.checked_sub(FIXED + key.len()) {
                            pair.set(key, len);
                        }
                    }
                }
            }
            pair.check_values();
        }
    }

    #[test]
    fn invalid_keys_and_items_above_the_largest_chunk_are_refused() {
        for (bits, key_len) in [(9, 1), (12, 17), (19, 250), (20, 100)] {
            let mut pair = Pair::new(4, classes(1.3, 96, bits));
            let largest = (1 << bits) - FIXED - key_len;
            let lens = (largest - 3..largest + 4).chain([PAGE, 2 * PAGE]);
            for (len, n) in lens.zip(0..) {
                pair.set(&vec![n; key_len], 5);
                pair.set(&vec![n; key_len], len);
            }
            for len in [0, 251, 252, 255, 256, 257, 300, 511, 512, 65_537] {
                pair.set(&vec![7; len], 5);
                pair.set(&vec![7; len], 2 * PAGE);
                pair.get(&vec![7; len]);
                pair.delete(&vec![7; len]);
            }
            pair.check_values();
        }
    }

    #[test]
    fn a_free_chunk_is_taken_before_a_page_and_a_page_before_a_victim() {
        for (pages, smallest, bits) in
            [(1, 1 << 19, 19), (5, 1 << 16, 18), (300, 1 << 19, 19)]
        {
            let most = usize::MAX - pages * PAGE;
            for rest in [0, 1, PAGE - 1, 1 << 40, most] {
                let config = classes(2.0, smallest, bits);
                let mut pair = Pair::of(pages * PAGE + rest, config);
                let chunks = pages * (PAGE / smallest);
                for id in 0..3 * chunks as u64 {
                    pair.set(&key(id), 9);
                    // The chunks of deleted items are free.
                    if id % 7 == 6 {
                        pair.delete(&key(id - 1));
                        pair.delete(&key(id));
                    }
                }
            }
        }
    }

    #[test]
    fn a_class_without_a_page_refuses_items_when_memory_is_used_up() {
        for memory in [0, 1, PAGE - 1, PAGE, 3 * PAGE + 5] {
            let mut pair = Pair::of(memory, classes(2.0, 1 << 16, 19));
            (0..100).for_each(|id| pair.set(&key(id), 9));
            for round in 0..3 {
                // These keys have values in the first class, or none.
                for id in 60..140 {
                    pair.set(&key(id), 100_000 + round);
                }
                (0..100).for_each(|id| pair.set(&key(id), 9));
            }
            // A class without items keeps its pages.
            (0..140).for_each(|id| pair.delete(&key(id)));
            (0..20).for_each(|id| pair.set(&key(id), 100_000));
        }
    }

    #[test]
    fn a_replaced_or_deleted_item_frees_its_chunk() {
        let mut pair = Pair::new(3, classes(2.0, 1 << 15, 18));
        for n in 0..1_500 {
            // Three classes, in turn, and each of them twice.
            pair.set(&key(1), [9, 40_000, 200_000][n / 2 % 3]);
        }
        pair.delete(&key(1));
        pair.delete(&key(1));
        for _ in 0..100 {
            (0..4).for_each(|id| pair.set(&key(id), 200_000));
            (0..5).for_each(|id| pair.delete(&key(id)));
        }
    }
}

mod queues {
    use super::*;

    #[test]
    fn an_item_leaves_hot_for_warm_if_it_was_read_twice_and_else_for_cold() {
        for reads in [0, 1, 2, 3, 17, 130, 1_500] {
            let mut pair = Pair::one_class(16);
            for id in 0..30 {
                pair.set(&key(id), 9);
                let reads = if id % 3 == 0 { reads } else { 0 };
                (0..reads).for_each(|_| pair.get(&key(id)));
                pair.check_queues();
            }
        }
    }

    #[test]
    fn a_cold_item_moves_to_warm_at_its_second_read() {
        for chunks in [2, 16, 128] {
            // Item 0 is read in HOT or not, and then in COLD.
            for (hot, cold) in [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)] {
                let mut pair = Pair::one_class(chunks);
                pair.set(&key(0), 9);
                (0..hot).for_each(|_| pair.get(&key(0)));
                (1..chunks as u64).for_each(|id| pair.set(&key(id), 9));
                for _ in 0..cold {
                    pair.get(&key(0));
                    pair.check_queues();
                }
                for id in 0..3 * chunks as u64 {
                    pair.set(&key(1_000 + id), 9);
                    pair.check_queues();
                }
                pair.get(&key(0));
            }
        }
    }

    #[test]
    fn a_warm_item_stays_only_if_it_was_read_since_it_moved() {
        let mut pair = Pair::one_class(64);
        for id in 0..1_500 {
            pair.set(&key(id), 9);
            // All items become active. Then only some are read again.
            (0..2).for_each(|_| pair.get(&key(id)));
            if id % 2 == 0 {
                (0..8).for_each(|old| pair.get(&key(old * 5)));
            }
            pair.check_queues();
        }
    }

    #[test]
    fn a_set_moves_at_most_two_items_of_hot_and_two_of_warm() {
        for chunks in [32, 128, 512] {
            let mut pair = Pair::without_cold_items(chunks);
            for id in 0..chunks as u64 {
                let before = pair.cache.stats()[0];
                pair.set(&key(10_000 + id), 9);
                let after = pair.cache.stats()[0];
                // The new item enters HOT, and those of HOT may go to WARM.
                assert!(
                    after.hot + 2 > before.hot && after.warm + 2 >= before.warm,
                    "one `set` changed {before:?} into {after:?}"
                );
            }
        }
    }

    #[test]
    fn hot_and_warm_shrink_to_their_limits_after_other_items_are_deleted() {
        for chunks in [32, 128, 512] {
            let mut pair = Pair::without_cold_items(chunks);
            (0..chunks as u64).for_each(|id| pair.set(&key(10_000 + id), 9));
            let seen @ ClassStats { hot, warm, cold, .. } =
                pair.cache.stats()[0];
            let items = hot + warm + cold;
            assert!(
                5 * hot <= items + 10 && 5 * warm <= 2 * items + 10,
                "expected at most 1/5 in HOT and 2/5 in WARM, got {seen:?}"
            );
        }
    }

    #[test]
    fn the_victim_is_the_tail_of_cold_or_else_of_hot_or_else_of_warm() {
        for chunks in [1, 2, 4, 8] {
            for unread in 0..=chunks {
                let mut pair = Pair::one_class(chunks);
                for id in 0..6 * chunks as u64 {
                    pair.set(&key(id), 9);
                    for old in (0..=id).rev().skip(unread) {
                        (0..2).for_each(|_| pair.get(&key(old)));
                    }
                    pair.check_queues();
                }
            }
        }
        for chunks in [17, 512] {
            // All items are in WARM, or active in HOT.
            let mut pair = Pair::one_class(chunks);
            (0..chunks as u64).for_each(|id| pair.set(&key(id), 9));
            for _ in 0..3 {
                (0..chunks as u64).for_each(|id| pair.get(&key(id)));
            }
            for id in 0..2 * chunks as u64 {
                pair.set(&key(10_000 + id), 9);
                pair.check_queues();
            }
        }
    }

    #[test]
    fn any_operations_give_the_values_and_queues_of_the_model() {
        let large = (select(vec![15_u32, 16, 18]), 18..=20_u32, 0..9_usize);
        let large = (large, 4..60_u64, operations(400));
        for ((smallest, bits, pages), keys, operations) in any(120, large) {
            let classes = classes(2.0, 1 << smallest, bits);
            Pair::new(pages, classes).run(keys, operations);
        }
        let small = (1..3_usize, 800..3_000_u64, operations(7_000));
        for (pages, keys, operations) in any(4, small) {
            Pair::new(pages, classes(2.0, 1_024, 11)).run(keys, operations);
        }
    }
}

mod scans {
    use super::*;

    #[test]
    fn a_scan_of_keys_that_are_read_once_evicts_no_item_of_warm() {
        for (n, reads) in [(2_000, 0), (2_000, 1), (9_000, 1)] {
            let mut pair = Pair::one_class(1_024);
            // 300 popular keys, among others.
            for id in (0..300).chain(10_000..12_000) {
                pair.set(&key(id), 9);
                (0..20).for_each(|i| pair.get(&key((id * 20 + i) % 300)));
            }
            for id in 20_000..20_000 + n {
                pair.set(&key(id), 9);
                (0..reads).for_each(|_| pair.get(&key(id)));
            }
            let mut is_left = |id: &u64| pair.cache.get(&key(*id)).is_some();
            let left = (0..300).filter(&mut is_left).count();
            assert_eq!(left, 300, "popular keys (left) after {n} other keys");
        }
    }

    #[test]
    fn the_time_of_a_call_does_not_depend_on_the_number_of_items() {
        let classes = classes(1.25, 96, 19);
        let mut cache = Cache::new(Config { memory: 20 * PAGE, classes });
        let mut calls = Calls { n: 0, start: cpu_time() };
        let items = 218_440; // All chunks of 20 pages.
        let name = |id: u64| key(3 * id + 1);
        for id in 0..items {
            cache.set(&name(id), b"v").expect("a chunk");
            calls.add("set");
        }
        let ClassStats { pages, evictions, .. } = cache.stats()[0];
        assert_eq!((pages, evictions), (20, 0), "pages, evictions: too many?");
        // In another order than that of the queues.
        let ids = (0..items).map(|n| n * 7_919 % items);
        let some = ids.clone().step_by(2);
        for id in some.clone().chain(some) {
            assert!(cache.get(&name(id)).is_some(), "item {id} is stored");
            calls.add("get");
        }
        for id in ids.take(60_000) {
            assert!(cache.delete(&name(id)), "item {id} is stored");
            calls.add("delete");
            cache.set(&name(id + items), b"v").expect("a chunk");
            calls.add("set");
        }
        // No chunk is free any more.
        for n in 0..8_000 {
            cache.set(&name(n + 2 * items), b"v").expect("a chunk");
            calls.add("set");
            assert_eq!(cache.stats()[0].evictions, n + 1, "evictions");
            calls.add("stats");
        }
    }
}

/// A cache, and what it should do.
struct Pair {
    cache: Cache,
    model: Model,
}

struct Model {
    max_pages: usize,
    classes: Classes,
    slabs: Vec<Slab>,
    items: HashMap<Vec<u8>, Item>,
    sets: usize,
}

#[derive(Clone, Default)]
struct Slab {
    pages: usize,
    evictions: u64,
    /// HOT, WARM and COLD. The head is the front.
    queues: [VecDeque<Vec<u8>>; 3],
}

#[derive(Clone, Copy)]
struct Item {
    class: usize,
    value: &'static [u8],
    queue: usize,
    is_fetched: bool,
    is_active: bool,
}

impl Pair {
    fn new(pages: usize, classes: Classes) -> Self {
        Self::of(pages * PAGE, classes)
    }

    fn of(memory: usize, classes: Classes) -> Self {
        let model = Model {
            max_pages: memory / PAGE,
            classes: classes.clone(),
            slabs: vec![Slab::default(); classes.classes().len()],
            items: HashMap::new(),
            sets: 0,
        };
        Self { cache: Cache::new(Config { memory, classes }), model }
    }

    /// A cache in which small items have this number of chunks.
    fn one_class(chunks: usize) -> Self {
        Self::new(1, classes(2.0, PAGE / chunks, 20))
    }

    /// A cache after a job has deleted the items of COLD.
    fn without_cold_items(chunks: usize) -> Self {
        let mut pair = Self::one_class(chunks);
        for id in 0..2 * chunks as u64 {
            pair.set(&key(id), 9);
            (0..3 * (id % 2)).for_each(|_| pair.get(&key(id)));
        }
        let cold = pair.model.slabs[0].queues[2].clone();
        cold.iter().for_each(|key| pair.delete(key));
        pair
    }

    fn set(&mut self, key: &[u8], len: usize) {
        // In half of the cases, the value of the key is the one before.
        let sum = |sum: usize, byte: &u8| sum * 31 % PAGE + usize::from(*byte);
        let start = key.iter().fold(self.model.sets / 2 % 2, sum);
        let value = &BYTES[start..][..len];
        let expected = self.model.set(key, value);
        let seen = self.cache.set(key, value);
        let case = format!("`set` of {} and {len} bytes", text(key));
        assert_eq!(seen, expected, "seen, expected from {case}");
        self.check_chunks(&case);
    }

    fn get(&mut self, key: &[u8]) {
        let (seen, expected) = (self.cache.get(key), self.model.get(key));
        let is_right = seen == expected;
        let lens = (seen.map(<[u8]>::len), expected.map(<[u8]>::len));
        let case = format!("from `get` of {}", text(key));
        assert!(is_right, "lengths of seen, expected value: {lens:?} {case}");
    }

    fn delete(&mut self, key: &[u8]) {
        let expected = self.model.remove(key);
        let seen = self.cache.delete(key);
        let case = format!("`delete` of {}", text(key));
        assert_eq!(seen, expected, "seen, expected from {case}");
        self.check_chunks(&case);
    }

    /// Compares pages, chunks and evictions, but not the queues.
    fn check_chunks(&self, case: &str) {
        let hide = |s: &ClassStats| {
            let items = s.hot + s.warm + s.cold;
            (s.class, s.pages, s.free_chunks, items, s.evictions)
        };
        let (seen, expected) = (self.cache.stats(), self.model.stats());
        let seen: Vec<_> = seen.iter().map(hide).collect();
        let expected: Vec<_> = expected.iter().map(hide).collect();
        let different = seen.iter().zip(&expected).find(|(s, e)| s != e);
        assert!(
            seen == expected,
            "class, pages, free chunks, items, evictions: (seen, expected) \
             after {case}: {different:?}"
        );
    }

    fn check_queues(&self) {
        let (seen, expected) = (self.cache.stats(), self.model.stats());
        let different = seen.iter().zip(&expected).find(|(s, e)| s != e);
        assert!(seen == expected, "(seen, expected): {different:?}");
    }

    fn check_values(&mut self) {
        let keys: Vec<_> = self.model.items.keys().cloned().collect();
        keys.iter().for_each(|key| self.get(key));
    }

    /// Runs operations: kind, key and size.
    fn run(mut self, keys: u64, operations: Vec<(u32, f64, f64)>) {
        let all = self.model.classes.classes().to_vec();
        for (kind, which, size) in operations {
            let key = &key((which * which * keys as f64) as u64);
            match kind {
                0..5 => {
                    // A third of the sizes are those of the first class.
                    let class = (size * 1.5 * all.len() as f64) as usize;
                    let size = all[class % all.len()].chunk_size;
                    let less = if kind == 0 { 0 } else { which as usize * 5 };
                    let len = size + usize::from(kind == 1);
                    self.set(key, len.saturating_sub(FIXED + key.len() + less));
                }
                5..11 => self.get(key),
                11..14 => (0..2).for_each(|_| self.get(key)),
                14 => self.set(&[7; 251][..[0, 251][key.len() % 2]], 9),
                _ => self.delete(key),
            }
            self.check_queues();
        }
        self.check_values();
        self.check_queues();
    }
}

impl Model {
    fn set(
        &mut self,
        key: &[u8],
        value: &'static [u8],
    ) -> Result<(), SetError> {
        self.sets += 1;
        self.remove(key);
        if !(1..=250).contains(&key.len()) {
            return Err(SetError::InvalidKey { len: key.len() });
        }
        let size = FIXED + key.len() + value.len();
        let all = self.classes.classes();
        let Some(class) = all.iter().position(|c| c.chunk_size >= size) else {
            let max = all.last().expect("a class").chunk_size;
            return Err(SetError::TooLarge { size, max });
        };
        for (queue, fifths) in [(0, 1), (1, 2), (0, 1), (1, 2)] {
            let queues = &self.slabs[class].queues;
            let items: usize = queues.iter().map(VecDeque::len).sum();
            if 5 * queues[queue].len() > fifths * items {
                let tail = queues[queue].back().expect("a tail").clone();
                let queue = if self.items[&tail].is_active { 1 } else { 2 };
                self.move_to(queue, &tail);
            }
        }
        let pages: usize = self.slabs.iter().map(|slab| slab.pages).sum();
        let has_free_chunk = self.stats()[class].free_chunks > 0;
        let slab = &mut self.slabs[class];
        if !has_free_chunk && pages < self.max_pages {
            slab.pages += 1;
        } else if !has_free_chunk {
            let [hot, warm, cold] = &slab.queues;
            let victim = [cold, hot, warm].into_iter().find_map(VecDeque::back);
            let no_page = SetError::NoPage { class: class as u8 + 1 };
            let victim = victim.ok_or(no_page)?.clone();
            slab.evictions += 1;
            self.remove(&victim);
        }
        let (is_fetched, is_active) = (false, false);
        let item = Item { class, value, queue: 0, is_fetched, is_active };
        self.items.insert(key.to_vec(), item);
        self.slabs[class].queues[0].push_front(key.to_vec());
        Ok(())
    }

    fn get(&mut self, key: &[u8]) -> Option<&'static [u8]> {
        let item = self.items.get_mut(key)?;
        let value = item.value;
        if item.is_fetched && item.queue == 2 {
            self.move_to(1, key);
        } else {
            item.is_active = item.is_fetched;
            item.is_fetched = true;
        }
        Some(value)
    }

    fn move_to(&mut self, queue: usize, key: &[u8]) {
        let item = self.items.get_mut(key).expect("an item");
        let queues = &mut self.slabs[item.class].queues;
        queues[item.queue].retain(|other| other != key);
        queues[queue].push_front(key.to_vec());
        (item.queue, item.is_active) = (queue, false);
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let Some(item) = self.items.remove(key) else { return false };
        let queues = &mut self.slabs[item.class].queues;
        queues[item.queue].retain(|other| other != key);
        true
    }

    fn stats(&self) -> Vec<ClassStats> {
        let slabs = self.classes.classes().iter().zip(&self.slabs);
        let stats = slabs.map(|(class, slab)| {
            let &Slab { pages, evictions, ref queues } = slab;
            let [hot, warm, cold] = queues.each_ref().map(VecDeque::len);
            let chunks = pages * class.chunks_per_page;
            let free_chunks = chunks - hot - warm - cold;
            let class = *class;
            ClassStats { class, pages, free_chunks, hot, warm, cold, evictions }
        });
        stats.collect()
    }
}

/// The number of calls, and the CPU time when they began.
struct Calls {
    n: u32,
    start: Duration,
}

impl Calls {
    /// Fails before the deadline of the test.
    fn add(&mut self, name: &str) {
        self.n += 1;
        if self.n.is_multiple_of(256) {
            let used = cpu_time().saturating_sub(self.start);
            assert!(
                used < Duration::from_secs(8),
                "{} calls took {used:.1?}, the latest was `{name}`: does the \
                 time depend on the number of items?",
                self.n
            );
        }
    }
}

/// Returns the CPU time of this thread on Linux, and elsewhere the time.
fn cpu_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let stat = read_to_string("/proc/thread-self/schedstat");
    let nanos = stat.ok().and_then(|s| s.split(' ').next()?.parse().ok());
    nanos.filter(|n| *n > 0).map_or(START.elapsed(), Duration::from_nanos)
}

fn text(key: &[u8]) -> String {
    let start = &key[..key.len().min(8)];
    format!("a key of {} bytes ({start:?} …)", key.len())
}

/// Returns a key of 1 to 8 or of 250 bytes.
fn key(id: u64) -> Vec<u8> {
    let len = (8 - id.leading_zeros() as usize / 8).max(1);
    let mut key = id.to_le_bytes()[..len].to_vec();
    if id.is_multiple_of(3) {
        key.resize(250, 0xff);
    }
    key
}

/// Returns the classes from `smallest` to `1 << bits` bytes.
fn classes(growth_factor: f64, smallest: usize, bits: u32) -> Classes {
    let (min_space, chunk_max) = (smallest - 48, 1 << bits);
    let max_item = 4 * chunk_max;
    let config =
        slab_classes::Config { growth_factor, min_space, max_item, chunk_max };
    Classes::new(config).expect("good settings")
}

fn operations(n: usize) -> impl Strategy<Value = Vec<(u32, f64, f64)>> {
    vec((0..16_u32, 0.0..1.0, 0.0..1.0), n)
}

/// Returns generated values, always the same.
fn any<S: Strategy>(n: usize, values: S) -> impl Iterator<Item = S::Value> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Default::default(), rng);
    let mut any = move || values.new_tree(&mut runner).expect("a value");
    std::iter::repeat_with(move || any().current()).take(n)
}
