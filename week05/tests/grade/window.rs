use std::num::NonZero;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{
    Config as Cases, RngAlgorithm, TestRng, TestRunner,
};
use week05::window::{Config, Summary, Window};

/// Numbers of buckets.
const SIZES: [usize; 6] = [1, 2, 3, 17, 130, 1_500];

const NANO: Duration = Duration::from_nanos(1);
const WIDTH: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

mod values {
    use super::*;

    #[test]
    fn a_new_window_has_no_values() {
        for n in SIZES {
            let window = Pair::new(n, WIDTH);
            for buckets in [0, 1, n as u128, n as u128 + 1, 1 << 30] {
                window.check(window.at(buckets, 0));
            }
        }
    }

    #[test]
    fn the_values_of_one_bucket_are_counted_and_added_up() {
        let lists = [
            vec![0],
            vec![u64::MAX],
            vec![7, 7, 7],
            vec![5, 1, 9, 0, 3],
            vec![0; 3],
            (1..=70_000).collect(),
        ];
        for (values, width) in pairs(&lists, [WIDTH, Duration::MAX]) {
            let mut window = Pair::new(10, width);
            for value in values {
                window.add(window.at(0, 500_000_000), *value);
            }
            window.check(window.at(0, 0) + width.min(CENTURY) - NANO);
        }
    }

    #[test]
    fn the_values_of_several_buckets_are_combined() {
        for n in [10, 17, 130, 1_500, 70_000] {
            for gap in [1, 2, n / 3, 1 << 15] {
                let gap = gap.min((n - 1) / 2) as u128;
                for values in [[5, 9, 7], [9, 5, 7], [7, 9, 5], [0, 0, 0]] {
                    let mut window = Pair::new(n, WIDTH);
                    for (i, value) in (0..).zip(values) {
                        window.add(window.at(i * gap, 0), value);
                        window.check(window.at(i * gap, 0));
                    }
                    window.check(window.at(2 * gap + 1, 0));
                }
            }
        }
    }
}

mod expiry {
    use super::*;

    #[test]
    fn a_call_takes_no_longer_if_the_window_has_many_values() {
        let [few, many] = [20, 200_000].map(|values| {
            let Pair { mut window, start, .. } = Pair::new(100, WIDTH);
            (0..values).for_each(|i| window.add(start + i * NANO, 1));
            let three_calls = |bucket| {
                let (now, begun) = (start + bucket * WIDTH, Instant::now());
                window.add(now, 0);
                window.summary(now);
                window.summary(start + CENTURY);
                begun.elapsed()
            };
            (1..=100).map(three_calls).min().unwrap()
        });
        assert!(
            many <= 50 * few,
            "an add and two summaries took {few:?} with 20 values, and {many:?} \
             with 200,000: expected at most 50 times as long"
        );
    }

    #[test]
    fn a_value_is_counted_for_n_widths_and_less_than_n_plus_1() {
        let widths = [1, 2, 999, 250_000, 1_500_000, 1_000_000_000];
        for (n, width) in pairs(SIZES, widths) {
            for bucket in [0, 1, n as u128 - 1, n as u128, 5_000] {
                for offset in [0, 1, width / 2, width - 1] {
                    let width = Duration::from_nanos(width);
                    let mut window = Pair::new(n, width);
                    let added = window.at(bucket, u128::from(offset));
                    window.add(added, 3);
                    let end = window.at(bucket + n as u128 + 1, 0);
                    window.check(added + n as u32 * width);
                    window.check(end - NANO);
                    window.check(end);
                    window.check(end + width);
                }
            }
        }
    }

    #[test]
    fn a_value_in_every_bucket_replaces_the_one_that_expires() {
        // Bucket numbers. The last one begins at about 2^64 ns.
        let borders = [0, 1 << 16, 1 << 32, 1 << 48, (1 << 64) / 1_000];
        for (n, border) in pairs(SIZES, borders) {
            let mut window = Pair::new(n, Duration::from_micros(1));
            let slots = n as u128 + 1;
            let first = u128::saturating_sub(border, slots);
            for i in 0..3 * slots {
                window.add(window.at(first + i, 0), i.abs_diff(slots) as u64);
                if i % (slots / 8 + 1) < 2 {
                    window.check(window.at(first + i, 999));
                }
            }
        }
    }

    #[test]
    fn a_gap_of_any_length_leaves_no_expired_value() {
        let far = [1 << 8, 1 << 16, 1 << 31, 1 << 32, 1 << 48];
        for n in SIZES {
            let slots = n as u128 + 1;
            let near = (1..4 * slots).filter(|k| n < 20 || k % slots < 2);
            let far = far.iter().flat_map(|gap| [*gap, gap * slots]);
            for gap in near.chain(far) {
                let mut window = Pair::new(n, NANO);
                for i in 0..=n as u128 {
                    window.add(window.at(i, 0), 100 + i as u64);
                }
                let last = n as u128 + gap;
                window.check(window.at(last, 0));
                window.add(window.at(last, 0), 1);
                for i in (0..=slots).filter(|i| n < 20 || i % 97 < 2) {
                    window.check(window.at(last + i, 0));
                }
            }
        }
    }

    #[test]
    fn buckets_stay_aligned_whatever_the_rhythm_of_the_values() {
        for (n, percent) in pairs([1, 3, 17], [1, 30, 70, 99, 101, 130, 290]) {
            let mut window = Pair::new(n, WIDTH);
            for i in 0..300 {
                let now = window.start + i * percent * WIDTH / 100;
                window.add(now, i.into());
                window.check(now);
            }
        }
    }

    #[test]
    fn a_sum_above_the_maximum_saturates_and_is_exact_after_expiry() {
        for n in SIZES {
            let mut window = Pair::new(n, WIDTH);
            window.add(window.at(0, 0), u64::MAX - 1);
            window.add(window.at(0, 1), 1);
            window.add(window.at(0, 2), 1);
            window.add(window.at(1, 0), u64::MAX);
            window.add(window.at(1, 0), u64::MAX);
            window.add(window.at(2, 0), 40);
            for i in 2..n as u128 + 4 {
                window.check(window.at(i, 0));
            }
        }
    }
}

mod clock {
    use super::*;

    #[test]
    fn an_earlier_time_counts_as_the_latest() {
        for n in SIZES {
            let slots = n as u128 + 1;
            for back in [0, 1, n as u128, slots, 2 * slots, 4_000] {
                let mut window = Pair::new(n, WIDTH);
                let latest = 5_000;
                window.add(window.at(latest - 1, 0), 10);
                window.add(window.at(latest, 5), 20);
                let earlier = window.at(latest - back, 0);
                window.add(earlier, 30);
                window.check(earlier);
                window.add(window.start - WIDTH, 0);
                window.check(window.start - WIDTH);
                for i in 0..=slots {
                    window.check(window.at(latest + i, 0));
                }
            }
        }
    }

    #[test]
    fn a_jump_of_a_century_expires_all_values_at_once() {
        for (n, width) in pairs(SIZES, [1, 1_000_000_000]) {
            let mut window = Pair::new(n, Duration::from_nanos(width));
            for i in 0..=n as u128 {
                window.add(window.at(i, 0), 1);
            }
            window.check(window.start + CENTURY);
            window.check(window.at(n as u128, 0));
            window.add(window.start + CENTURY, 2);
            window.check(window.start + CENTURY);
            window.add(window.start + WIDTH, 3);
            window.check(window.start);
        }
    }

    #[test]
    fn a_summary_changes_nothing() {
        for n in SIZES {
            let mut window = Pair::new(n, WIDTH);
            let slots = n as u128 + 1;
            window.add(window.at(3, 0), 8);
            for far in [1, slots, 2 * slots, 3 * slots + 1, 1 << 30] {
                window.check(window.at(3 + far, 0));
                window.check(window.at(3, 0));
                window.add(window.at(3, 1), 9);
                window.check(window.at(3, 0));
            }
        }
    }

    #[test]
    fn any_sequence_of_calls_matches_a_list_of_all_values() {
        let value = prop_oneof![0..4_u64, any::<u64>(), Just(u64::MAX)];
        let widths = [0, 1, 3, 1_000, 999_999, 1_500_000, 1 << 28, 1 << 65];
        let width = select(widths.map(Duration::from_nanos_u128).to_vec());
        let buckets = prop_oneof![1..6_usize, 1..40_usize];
        // Distance in buckets, nanosecond in the bucket, value to be added.
        let distance =
            prop_oneof![8 => 0..3_i64, 4 => -3..50_i64, 1 => -90..900_i64];
        let call = (distance, any::<u64>(), proptest::option::of(value));
        let inputs = (buckets, width, vec(call, 0..80));
        for (buckets, width, calls) in samples(inputs) {
            let mut window = Pair::new(buckets, width);
            // The time can go back before the start of the window.
            let mut bucket = 0_i64;
            for (distance, offset, value) in calls {
                let to = bucket + distance;
                let offset = u128::from(offset) % window.width;
                let mut now = window.at(to.unsigned_abs().into(), offset);
                if to < 0 {
                    now = window.start - (now - window.start).min(HOUR);
                }
                match value {
                    Some(value) => window.add(now, value),
                    None => window.check(now),
                }
                // Only some calls move the time on.
                if value.is_some_and(|value| value % 3 > 0) {
                    bucket = to.max(0);
                }
                window.check(now);
            }
        }
    }
}

/// A window, and a list of all its values, which gives the expected statistics.
struct Pair {
    window: Window,
    start: Instant,
    buckets: usize,
    width: u128,
    latest: u128,
    /// The values with their buckets.
    values: Vec<(u128, u64)>,
}

impl Pair {
    fn new(buckets: usize, bucket: Duration) -> Self {
        // Not near zero, so that a time before the start exists everywhere.
        let start = Instant::now() + HOUR;
        let config = Config { bucket, buckets: NonZero::new(buckets).unwrap() };
        let window = Window::new(config, start);
        let width = bucket.as_nanos().max(1);
        Self { window, start, buckets, width, latest: 0, values: Vec::new() }
    }

    /// Returns a time `nanos` after the beginning of `bucket`.
    fn at(&self, bucket: u128, nanos: u128) -> Instant {
        self.start + Duration::from_nanos_u128(bucket * self.width + nanos)
    }

    fn bucket(&self, now: Instant) -> u128 {
        let elapsed = now.saturating_duration_since(self.start);
        (elapsed.as_nanos() / self.width).max(self.latest)
    }

    fn add(&mut self, now: Instant, value: u64) {
        self.latest = self.bucket(now);
        self.values.push((self.latest, value));
        self.window.add(now, value);
    }

    /// Compares the summary at `now` with the list.
    fn check(&self, now: Instant) {
        let current = self.bucket(now);
        let counted = self
            .values
            .iter()
            .filter(|(bucket, _)| current - bucket <= self.buckets as u128);
        let counted: Vec<_> = counted.map(|(_, value)| *value).collect();
        let sum: u128 = counted.iter().map(|value| u128::from(*value)).sum();
        let expected = Summary {
            count: counted.len() as u64,
            sum: sum.try_into().unwrap_or(u64::MAX),
            min: counted.iter().min().copied(),
            max: counted.iter().max().copied(),
        };
        let seen = self.window.summary(now);
        let recent = self.values.iter().rev().take(6).collect::<Vec<_>>();
        assert_eq!(
            seen, expected,
            "summary: seen (left), expected (right), in bucket {current}, with \
             {} buckets of {} ns. The latest values, each as (bucket, value), \
             newest first: {recent:?}",
            self.buckets, self.width,
        );
    }
}

fn pairs<A: Copy, B: Copy>(
    a: impl IntoIterator<Item = A>,
    b: impl IntoIterator<Item = B> + Clone,
) -> impl Iterator<Item = (A, B)> {
    a.into_iter().flat_map(move |a| b.clone().into_iter().map(move |b| (a, b)))
}

/// Returns generated inputs, the same in each run.
fn samples<S: Strategy>(inputs: S) -> impl Iterator<Item = S::Value> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Cases::default(), rng);
    (0..300).map(move |_| inputs.new_tree(&mut runner).unwrap().current())
}
