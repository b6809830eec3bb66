use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use week05::striped::{Config, Counter};

/// Numbers of buckets, and of stripes.
const SIZES: [usize; 6] = [1, 2, 3, 17, 130, 1_500];
const SECOND: i128 = 1_000_000_000;
const CENTURY: i128 = 100 * 365 * 24 * 3_600 * SECOND;
/// The number of turns of the ring in which adds count.
const TURNS: i128 = 1 << 32;
const MAX: u32 = u32::MAX;
/// The size of a block of memory that only one stripe may use.
const BLOCK: usize = align_of::<CachePadded<u8>>();

mod window {
    use super::*;

    #[test]
    fn adds_to_one_bucket_are_summed_over_all_stripes() {
        for (n, stripes) in pairs(SIZES, [1, 2, 3, 17, 130]) {
            let mut counter = Pair::new(n, stripes, SECOND);
            counter.check(0, 0);
            for stripe in (0..2 * stripes + 3).chain([usize::MAX; 2]) {
                counter.add(stripe, 0, 7, stripe as u32 % 5);
            }
            counter.check(0, SECOND - 1);
        }
    }

    #[test]
    fn an_add_is_counted_for_n_widths_and_less_than_n_plus_1() {
        let widths = [1, 2, 999, 250_000, 1_500_000, SECOND];
        for (n, width) in pairs(SIZES, widths) {
            let last = n as i128;
            for bucket in [0, 1, last - 1, last, 5_000] {
                for offset in [0, 1, width / 2, width - 1].map(|i| i % width) {
                    let mut counter = Pair::new(n, 2, width);
                    counter.add(bucket as usize, bucket, offset, 3);
                    counter.check(bucket + last, offset);
                    counter.check(bucket + last, width - 1);
                    counter.check(bucket + last + 1, 0);
                }
            }
        }
    }

    #[test]
    fn a_gap_of_any_length_leaves_no_expired_count() {
        for n in SIZES {
            let slots = n as i128 + 1;
            let near = (1..4 * slots).filter(|k| n < 20 || k % slots < 2);
            let far = [8, 16, 28, 31].map(|bits| (1 << bits) * slots);
            for gap in near.chain(far).chain(far.map(|gap| gap + 1)) {
                let mut counter = Pair::new(n, 2, 1_000);
                for i in 0..slots {
                    counter.add(i as usize % 3, i, 0, 100 + i as u32);
                }
                let now = slots - 1 + gap;
                counter.check(now, 0);
                counter.add(0, now, 0, 1);
                for i in (0..=slots).filter(|i| n < 20 || i % 97 < 2) {
                    counter.check(now + i, 999);
                }
            }
        }
    }

    #[test]
    fn any_sequence_of_calls_matches_a_list_of_all_adds() {
        let count = prop_oneof![0..4_u32, any::<u32>(), Just(MAX)];
        let width = prop::sample::select(vec![
            1,
            3,
            1_000,
            999_999,
            1_500_000,
            SECOND / 4,
        ]);
        let sizes = (prop_oneof![1..6_usize, 1..40_usize], 1..6_usize);
        // Distance in buckets, nanosecond in the bucket, stripe, count.
        let distance =
            prop_oneof![8 => 0..3_i128, 4 => -3..50_i128, 1 => -90..900_i128];
        let stripe = prop_oneof![4 => 0..6_usize, 1 => any::<usize>()];
        let count = proptest::option::of(count);
        let call = (distance, any::<u32>(), stripe, count);
        let inputs = (sizes, width, prop::collection::vec(call, 0..80));
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner =
            TestRunner::new_with_rng(ProptestConfig::default(), rng);
        for _ in 0..300 {
            let inputs = inputs.new_tree(&mut runner).unwrap().current();
            let ((n, stripes), width, calls) = inputs;
            let mut counter = Pair::new(n, stripes, width);
            // The time can go back before the start of the counter.
            let mut bucket = 0;
            for (distance, offset, stripe, count) in calls {
                let (to, nanos) = (bucket + distance, i128::from(offset));
                if let Some(count) = count {
                    counter.add(stripe, to, nanos % width, count);
                }
                // Only some calls move the time on.
                if count.is_some_and(|count| count % 3 > 0) {
                    bucket = to;
                }
                counter.check(to, nanos % width);
                counter.check(bucket + nanos % 4, 0);
                counter.check(to - nanos % 7, nanos % width);
            }
        }
    }
}

mod limits {
    use super::*;

    #[test]
    fn a_late_add_counts_in_its_own_bucket_or_not_at_all() {
        for n in SIZES {
            let slots = n as i128 + 1;
            let latest = 5 * slots + slots / 2;
            let near = |i: &i128| n < 20 || i % slots % 487 < 2;
            for late in (0..3 * slots).filter(near) {
                let mut counter = Pair::new(n, 2, SECOND);
                counter.add(0, latest, 0, 10);
                counter.add(0, latest - late, 5, 200);
                counter.add(1, latest - late, 5, 3_000);
                counter.add(0, latest, 9, 40_000);
                for i in (0..5 * slots).filter(near) {
                    counter.check(latest + slots - i, 0);
                }
            }
        }
    }

    #[test]
    fn a_count_stops_at_its_maximum_and_stays_in_its_bucket() {
        let half = 1 << 31;
        let lists = [[MAX, 1, 0], [MAX - 1, 1, 1], [1, MAX, 0], [half; 3]];
        for (n, counts) in pairs([1, 2, 17, 130], lists) {
            let mut counter = Pair::new(n, 2, SECOND);
            let slots = n as i128 + 1;
            for bucket in [0, 1, slots, 3 * slots + 1] {
                for count in counts {
                    counter.add(0, bucket, 0, count);
                    counter.add(1, bucket, 0, count / 2);
                    counter.check(bucket, 0);
                }
                counter.add(0, bucket + 1, 0, 5);
                (0..=2 * slots).for_each(|i| counter.check(bucket + i, 0));
            }
        }
    }

    #[test]
    fn after_the_last_turn_adds_are_dropped_and_counts_still_expire() {
        for n in SIZES {
            let slots = n as i128 + 1;
            let end = TURNS * slots;
            let mut counter = Pair::new(n, 2, 1);
            for bucket in [0, 1, slots, end / 2 - 1, end / 2, end / 2 + slots] {
                counter.add(3, bucket, 0, 1);
                counter.check(bucket, 0);
            }
            for i in (0..slots).filter(|i| i % 97 < 9) {
                counter.add(i as usize, end - slots + i, 0, 3);
                counter.check(end - slots + i, 0);
            }
            for after in [end, end + slots - 1, 2 * end + 1, CENTURY] {
                counter.add(0, after, 0, 1);
                // The turn of this bucket has the same lower 32 bits.
                let mut idle = Pair::new(n, 2, 1);
                idle.add(0, after % end, 0, 20);
                for counter in [&mut counter, &mut idle] {
                    counter.check(after, 0);
                    counter.add(1, after, 0, 1);
                    for now in [after - 1, after, after + slots, after % end] {
                        counter.check(now, 0);
                    }
                }
            }
        }
    }

    #[test]
    fn the_shortest_and_the_longest_width_count_as_any_other() {
        for n in SIZES {
            let zero = Pair::with_width(n, 2, Duration::ZERO, 1);
            let long = Duration::from_secs(600 * 365 * 24 * 3_600);
            let long = Pair::with_width(n, 2, long, 6 * CENTURY);
            let forever = Pair::with_width(n, 2, Duration::MAX, i128::MAX);
            for mut counter in [zero, long, forever] {
                for (i, seconds) in (0..).zip([0, 0, 1, 5, 1_000_000]) {
                    let nanos = seconds * SECOND + i;
                    counter.add(i as usize, 0, nanos, 1);
                    counter.check(0, nanos);
                    counter.check(0, nanos + n as i128);
                    counter.check(0, nanos + n as i128 + 1);
                    counter.check(0, CENTURY);
                }
            }
        }
    }
}

mod stripes {
    use super::*;

    #[test]
    fn two_stripes_never_share_a_cache_line() {
        for (n, stripes) in pairs(LENGTHS, [1, 2, 3, 4, 17, 130]) {
            let counter = Pair::new(n, stripes, SECOND);
            let mut owners = BTreeMap::new();
            for stripe in 0..stripes {
                for block in counter.addresses(stripe).map(|a| a / BLOCK) {
                    let owner = *owners.entry(block).or_insert(stripe);
                    assert_eq!(
                        owner, stripe,
                        "two of {stripes} stripes use one block, {n} buckets"
                    );
                }
                let first = |stripe| counter.addresses(stripe).next();
                let (same, expected) = (stripe + 77 * stripes, first(stripe));
                assert_eq!(first(same), expected, "{same} modulo {stripes}");
            }
        }
    }

    #[test]
    fn the_words_of_a_stripe_fill_its_cache_lines() {
        for n in LENGTHS {
            let counter = Pair::new(n, 2, SECOND);
            let words: BTreeSet<_> = counter.addresses(1).collect();
            assert_eq!(words.len(), n + 1, "different words: seen, expected");
            let blocks: BTreeSet<_> = words.iter().map(|a| a / BLOCK).collect();
            let (seen, expected) = (blocks.len(), (n + 1).div_ceil(BLOCK / 8));
            assert_eq!(seen, expected, "blocks of {BLOCK} bytes: {n} buckets");
        }
    }

    #[test]
    fn threads_that_share_a_stripe_lose_no_count() {
        let counter = &Pair::new(2, 1, SECOND);
        let add = |i| counter.counter.add(i, counter.start, 1);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..150_000).for_each(add));
            }
        });
        let seen = counter.counter.sum(counter.start);
        assert_eq!(seen, 600_000, "sum: seen, added by 4 threads");
    }

    /// Numbers of buckets around the number of words in a cache line.
    const LENGTHS: [usize; 11] = [1, 2, 6, 7, 8, 14, 15, 16, 31, 40, 130];
}

/// A counter, and a list of all adds, which gives the expected sums.
struct Pair {
    counter: Counter,
    start: Instant,
    buckets: i128,
    stripes: usize,
    width: i128,
    /// What was added, by stripe and bucket.
    adds: BTreeMap<(usize, i128), u64>,
}

impl Pair {
    fn new(buckets: usize, stripes: usize, width: i128) -> Self {
        let bucket = Duration::from_nanos(width.try_into().unwrap());
        Self::with_width(buckets, stripes, bucket, width)
    }

    fn with_width(n: usize, k: usize, bucket: Duration, width: i128) -> Self {
        // Not near zero: a time before the start has to exist.
        let start = Instant::now() + Duration::from_secs(3_600);
        let buckets = NonZero::new(n).unwrap();
        let stripes = NonZero::new(k).unwrap();
        let counter = Counter::new(Config { bucket, buckets, stripes }, start);
        let adds = BTreeMap::new();
        Self { counter, start, buckets: n as i128, stripes: k, width, adds }
    }

    /// Returns a time `nanos` after the beginning of `bucket`.
    fn at(&self, bucket: i128, nanos: i128) -> Instant {
        let nanos = bucket * self.width + nanos;
        let far =
            Duration::from_nanos(nanos.unsigned_abs().try_into().unwrap());
        if nanos < 0 { self.start - far } else { self.start + far }
    }

    fn add(&mut self, stripe: usize, bucket: i128, nanos: i128, count: u32) {
        let now = self.at(bucket, nanos);
        self.counter.add(stripe, now, count);
        let bucket = (bucket + nanos / self.width).max(0);
        if bucket < TURNS * (self.buckets + 1) {
            let place = (stripe % self.stripes, bucket);
            *self.adds.entry(place).or_default() += u64::from(count);
        }
    }

    /// Compares the sum at a time in `bucket` with the list.
    fn check(&self, bucket: i128, nanos: i128) {
        let seen = self.counter.sum(self.at(bucket, nanos));
        let current = (bucket + nanos / self.width).max(0);
        let (mut least, mut most) = (0, 0);
        for stripe in 0..self.stripes {
            let of_stripe = self.adds.range((stripe, 0)..(stripe + 1, 0));
            let latest = of_stripe.last().map_or(0, |add| add.0.1);
            let oldest = (stripe, (current - self.buckets).max(0));
            for (add, &n) in self.adds.range(oldest..=(stripe, current)) {
                let n = n.min(MAX.into());
                most += n;
                // Otherwise a later add may have replaced the bucket.
                if latest - add.1 <= self.buckets {
                    least += n;
                }
            }
        }
        let latest = self.adds.iter().rev().take(6).collect::<Vec<_>>();
        assert!(
            (least..=most).contains(&seen),
            "sum in bucket {current}: seen {seen}, expected {least} to {most}, \
             n = {}, {} stripes. Some adds, as ((stripe, bucket), count): \
             {latest:?}",
            self.buckets,
            self.stripes,
        );
    }

    /// Returns the addresses of the words of all buckets in a window.
    fn addresses(&self, stripe: usize) -> impl Iterator<Item = usize> {
        let address = move |i| self.counter.address(stripe, self.at(i, 1));
        (0..=self.buckets).map(address)
    }
}

fn pairs<A: Copy, B: Copy>(
    a: impl IntoIterator<Item = A>,
    b: impl IntoIterator<Item = B> + Clone,
) -> impl Iterator<Item = (A, B)> {
    a.into_iter().flat_map(move |a| b.clone().into_iter().map(move |b| (a, b)))
}
