use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use proptest::sample::select;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use proptest::{array::uniform4, collection::vec};
use week05::criticality::Criticality::{Critical, CriticalPlus};
use week05::criticality::{
    Config, CpuMeter, Criticality, Overloaded, Permit, Quality, Shedder, Stats,
};

const SECOND: Duration = Duration::from_secs(1);
const NANO: Duration = Duration::from_nanos(1);
const HOUR: Duration = Duration::from_secs(3_600);

static START: LazyLock<Instant> = LazyLock::new(|| Instant::now() + HOUR);

mod classes {
    use super::*;

    #[test]
    fn a_callee_inherits_the_class_that_the_header_names() {
        for class in Criticality::ALL {
            let seen = Criticality::inherited(Some(class.header()));
            assert_eq!(seen, class, "inherited (left), sent (right)");
        }
    }

    #[test]
    fn a_missing_or_unknown_header_means_critical() {
        let known = Criticality::ALL.map(Criticality::header);
        let check = |header: Option<&str>| {
            if !known.map(Some).contains(&header) {
                let seen = Criticality::inherited(header);
                assert_eq!(seen, Critical, "the class for {header:?}");
            }
        };
        check(None);
        let any = (0..256).filter_map(char::from_u32).map(String::from);
        for new in any.chain([String::new()]) {
            for text in known {
                check(Some(&text.to_lowercase()));
                for (start, end) in (0..=text.len()).map(|i| text.split_at(i)) {
                    // Inserted, or instead of the rest or of one character.
                    for rest in [end, "", end.get(1..).unwrap_or("")] {
                        check(Some(&[start, &new, rest].concat()));
                    }
                }
            }
        }
    }

    #[test]
    fn a_call_never_has_a_higher_class_than_its_request() {
        for class in Criticality::ALL {
            for wanted in Criticality::ALL {
                let seen = class.for_call(wanted);
                let expected = if class < wanted { class } else { wanted };
                let what = "the class of a call: seen (left), expected (right)";
                assert_eq!(seen, expected, "{what}, {class:?} to {wanted:?}");
            }
        }
    }
}

mod cpu {
    use super::*;

    #[test]
    fn utilisation_is_cpu_time_per_elapsed_time_and_core() {
        for n in 0..17 * 19 * 7 * 3 {
            // From one nanosecond to decades. Each value with each other one.
            let times = [n % 17, n % 19].map(|i| 10_u64.pow(i as u32));
            let [length, used] = times.map(Duration::from_nanos);
            let cores = [0.001, 0.05, 0.5, 1.0, 3.75, 64.0, 1e4][n % 7];
            let before = [Duration::ZERO, HOUR, Duration::MAX / 2][n % 3];
            let mut meter = CpuMeter::new(5 * SECOND);
            check_mean(meter.sample(*START, before, 9.0), &[], SECOND);
            let seen = meter.sample(*START + length, before + used, cores);
            let what = format!("{used:?} in {length:?}, {cores} cores");
            assert_close(seen, used.div_duration_f64(length) / cores, &what);
        }
    }

    #[test]
    fn the_average_does_not_depend_on_how_often_it_is_sampled() {
        for constant in [NANO, SECOND, 5 * SECOND, Duration::MAX] {
            for n in [1, 2, 17, 130, 1_500] {
                let mut meter = CpuMeter::new(constant);
                let (mut now, mut used) = (*START, SECOND);
                meter.sample(now, used, 2.0);
                // 25 % of 2 cores are used for 10 s, and then 100 % for 6 s.
                for i in 1..=2 * n {
                    let (s, cores) = if i <= n { (10, 0.5) } else { (6, 2.0) };
                    now += s * SECOND / n;
                    used += (s * SECOND / n).mul_f64(cores);
                    let seen = meter.sample(now, used, 2.0);
                    let busy = 6.0 * f64::from(i) / f64::from(n) - 6.0;
                    let age = busy.max(0.0) / constant.as_secs_f64();
                    let expected = 1.0 - 0.75 * (-age).exp();
                    let what = format!(
                        "{busy} s after utilisation has changed from 0.25 to 1, \
                         time constant {constant:?}, {n} samples in 6 s"
                    );
                    assert_close(seen, expected, &what);
                }
            }
        }
    }

    #[test]
    fn any_sequence_of_samples_matches_a_weighted_mean() {
        let mut runner = runner();
        let samples = vec((0.0..1.0_f64, 0..4_usize, 0.0..1.0_f64), 1..40);
        for i in 0..400 {
            let unit = [SECOND, 240 * HOUR][i % 2];
            let constant = [0.0, 1.0 / 7.0, 1.0, 100.0][i / 2 % 4];
            let constant = unit.mul_f64(constant);
            let mut meter = CpuMeter::new(constant);
            // The end, the length and the utilisation of each interval.
            let mut intervals = Vec::<(f64, f64, f64)>::new();
            let (mut now, mut used) = (*START, HOUR);
            check_mean(meter.sample(now, used, 1.0), &[], constant);
            let samples = samples.new_tree(&mut runner).unwrap().current();
            for (step, kind, share) in samples {
                let cores = [0.3, 1.0, 2.5, 8.0][kind];
                if step < 0.1 {
                    // Ignored, whatever it says.
                    for earlier in [Duration::ZERO, NANO, SECOND] {
                        let other = used.mul_f64(2.0 * share);
                        let seen = meter.sample(now - earlier, other, cores);
                        check_mean(seen, &intervals, constant);
                    }
                    continue;
                }
                // From 30 ns or 7 ms on.
                let length = unit.mul_f64(30.0 * step.powi(9));
                now += length;
                let (before, length) = (used, length.as_secs_f64());
                used = match kind {
                    0 if share < 0.3 => used.mul_f64(share),
                    1 => used + SECOND.mul_f64(share), // late: far above 1
                    _ => used + SECOND.mul_f64(share * length * cores),
                };
                let delta = used.saturating_sub(before).as_secs_f64();
                let end = (now - *START).as_secs_f64();
                intervals.push((end, length, delta / (length * cores)));
                let seen = meter.sample(now, used, cores);
                check_mean(seen, &intervals, constant);
            }
        }
    }
}

mod shedding {
    use super::*;

    #[test]
    fn the_thresholds_of_a_class_decide_about_its_answer() {
        for (i, percent) in (0..=101).cycle().take(102 * 5).enumerate() {
            let max = [1, 16, 35, 55, 100][i % 5];
            let refuse_at = [percent, 101, 101, 101];
            let config = config(max, [0, percent, 101, 101], refuse_at);
            let mut pair = Pair::new(config);
            let share = f64::from(percent) / 100.0;
            let reached_by = u32::from(percent) * max / 100;
            for more in [reached_by.saturating_sub(1), 1, 1] {
                pair.fill(more, CriticalPlus, 0.0);
                let in_flight = pair.permits.len();
                for cpu in [0.0, share - 1e-12, share, share + 1e-12] {
                    for class in Criticality::ALL {
                        pair.try_acquire(class, cpu);
                        pair.permits.truncate(in_flight);
                    }
                }
            }
        }
    }

    #[test]
    fn at_equal_utilisation_no_class_gets_less_than_a_lower_one() {
        let mut runner = runner();
        for _ in 0..400 {
            let config = any_config(&mut runner, 16);
            for cpu in (0..=16).map(|n| f64::from(n) / 16.0) {
                for class in Criticality::ALL {
                    Pair::new(config).try_acquire(class, cpu);
                }
            }
        }
    }

    #[test]
    fn a_dropped_permit_admits_one_more_request_also_after_a_panic() {
        for max in [1, 2, 17, 130, 1_500, 70_000] {
            let config = config(max, [0, 0, 101, 101], [0, 101, 101, 101]);
            let mut pair = Pair::new(config);
            for class in Criticality::ALL {
                pair.permits.clear();
                pair.fill(max + 1, class, 0.0);
            }
            for round in 0..6 {
                let permit = AssertUnwindSafe(pair.permits.swap_remove(0));
                match round % 3 {
                    0 => drop(permit),
                    1 => thread::spawn(|| drop(permit)).join().unwrap(),
                    _ => drop(catch_unwind(move || -> () {
                        panic!("on purpose, with {permit:?}")
                    })),
                }
                pair.fill(2, Critical, 1.0);
            }
        }
    }

    #[test]
    fn any_sequence_of_requests_matches_the_rules() {
        let mut runner = runner();
        let steps = vec(uniform4(0.0..1.0_f64), 0..150);
        let odd = [f64::NAN, 0.0, 1.001, 7.0, f64::MAX, f64::INFINITY];
        for i in 0..400 {
            let max = [1, 2, 3, 8, 16, 37, u32::MAX][i % 7];
            let mut pair = Pair::new(any_config(&mut runner, max));
            let steps = steps.new_tree(&mut runner).unwrap().current();
            for [class, cpu, kind, drops] in steps {
                let sixteenths = (cpu * 18.0).floor() / 16.0;
                let odd = odd[(cpu * 6.0) as usize].copysign(drops - 0.5);
                let cpus = [0.0, sixteenths, cpu, odd];
                let cpu = cpus[(kind * 4.0) as usize];
                if drops < 0.3 && !pair.permits.is_empty() {
                    let index = pair.permits.len() as f64 * drops / 0.3;
                    drop(pair.permits.swap_remove(index as usize));
                }
                let class = (class * 4.0) as usize;
                pair.try_acquire(Criticality::ALL[class], cpu);
            }
        }
    }
}

fn runner() -> TestRunner {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(Default::default(), rng)
}

/// Returns thresholds in any order: percentages that are exact in binary, and
/// their neighbours.
fn any_config(runner: &mut TestRunner, max: u32) -> Config {
    let percents = [0, 1, 24, 25, 26, 50, 51, 75, 99, 100, 101, 255];
    let percents = uniform4(select(percents.to_vec()));
    let [degrade_at, refuse_at] =
        [(); 2].map(|()| percents.new_tree(runner).unwrap().current());
    config(max, degrade_at, refuse_at)
}

fn config(max: u32, degrade_at: [u8; 4], refuse_at: [u8; 4]) -> Config {
    Config { max_in_flight: max.try_into().unwrap(), degrade_at, refuse_at }
}

fn rounded(utilisation: f64) -> f64 {
    (utilisation * 1e9).round() / 1e9
}

fn assert_close(seen: f64, expected: f64, what: &str) {
    let is_close = (seen - expected).abs() < 1e-6 * (1.0 + expected.abs());
    assert!(is_close, "{what}: seen {seen}, expected {expected}");
}

/// Compares an average with the weighted mean of all intervals.
fn check_mean(seen: f64, intervals: &[(f64, f64, f64)], constant: Duration) {
    let Some(&(now, ..)) = intervals.last() else {
        return assert!(seen.is_nan(), "after one sample: {seen}, not NaN");
    };
    // The share of a weight that is left after some seconds.
    let constant = constant.as_secs_f64().max(1e-300);
    let left = |seconds: f64| (-seconds / constant).exp();
    let weighted = intervals.iter().enumerate().map(|(i, interval)| {
        let &(end, length, utilisation) = interval;
        let weight = if i == 0 { 1.0 } else { 1.0 - left(length) };
        weight * left(now - end) * utilisation
    });
    let what = format!(
        "average over {constant} s, (end, length, utilisation): {intervals:?}"
    );
    assert_close(seen, weighted.sum(), &what);
}

/// A shedder, and what is expected of it.
struct Pair {
    shedder: Shedder,
    config: Config,
    permits: Vec<Permit>,
    stats: [Stats; 4],
}

impl Pair {
    fn new(config: Config) -> Self {
        let shedder = Shedder::new(config);
        Self { shedder, config, permits: Vec::new(), stats: Default::default() }
    }

    fn expected(&self, class: usize, cpu: f64) -> Result<Quality, f64> {
        let Config { max_in_flight, degrade_at, refuse_at } = self.config;
        let share = self.permits.len() as f64 / f64::from(max_in_flight.get());
        let utilisation = if cpu > share { cpu.min(1.0) } else { share };
        // At or above the thresholds of this class and of all lower ones.
        let reaches = |percent: u8| utilisation >= f64::from(percent) / 100.0;
        let mut lower = degrade_at.into_iter().zip(refuse_at).take(class + 1);
        if share == 1.0 || lower.clone().all(|(_, r)| reaches(r)) {
            return Err(rounded(utilisation));
        }
        let degraded = lower.all(|(d, r)| reaches(d) || reaches(r));
        Ok(if degraded { Quality::Degraded } else { Quality::Full })
    }

    fn fill(&mut self, requests: u32, class: Criticality, cpu: f64) {
        (0..requests).for_each(|_| self.try_acquire(class, cpu));
    }

    /// Compares a result and all statistics with the expected ones.
    fn try_acquire(&mut self, class: Criticality, cpu: f64) {
        let expected = self.expected(class as usize, cpu);
        let stats = &mut self.stats[class as usize];
        match expected {
            Ok(Quality::Full) => stats.full += 1,
            Ok(Quality::Degraded) => stats.degraded += 1,
            Err(_) => stats.refused += 1,
        }
        // Clones are one shedder.
        let result = self.shedder.clone().try_acquire(class, cpu);
        let seen = match &result {
            Ok(permit) => Ok(permit.quality),
            Err(Overloaded { utilisation }) => Err(rounded(*utilisation)),
        };
        let stats = Criticality::ALL.map(|class| self.shedder.stats(class));
        assert_eq!(
            (seen, stats),
            (expected, self.stats),
            "seen (left), expected (right): the answer or the utilisation, and \
             the statistics, for a {class:?} request with the CPU at {cpu} and \
             {} in flight, with {:?}",
            self.permits.len(),
            self.config
        );
        self.permits.extend(result);
    }
}
