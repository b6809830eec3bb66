//! Measures how much slower one function is than another, on a busy machine.
//!
//! **Question.** Is the answer really slower than its peer, or was the machine
//! busy while the answer ran?
//!
//! **Idea.** Run both in one process, in short samples, in the order answer,
//! peer, peer, answer. A load that lasts longer than a round slows both, and a
//! steady drift cancels out. Each round yields one ratio. The result is the
//! median of these ratios.
//!
//! **Guarantee.** The interval contains the true median in at least 95 of 100
//! measurements, for every distribution of the noise, as long as rounds are
//! independent. Its ends are two order statistics, which are chosen with the
//! binomial distribution. It does not use the variance, which one long pause
//! would distort.
//!
//! **Cost.** It does not measure single calls: tail latency needs a histogram.
//!
//! ```
//! use lab::ratio::Ratio;
//!
//! let ratio = Ratio::of(&[1.1, 1.3, 1.2, 9.0, 1.2, 1.1, 1.2, 1.3, 1.2]);
//! assert_eq!(ratio.to_string(), "1.20 (1.10 to 1.30)");
//! ```

use std::f64::consts::LN_2;
use std::fmt;
use std::time::{Duration, Instant};

/// The number and the length of the samples.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The number of rounds, at least six: fewer have no interval. About 50
    /// rounds make the interval narrow.
    pub rounds: usize,
    /// The approximate length of a sample. A round has four samples, two for
    /// each function.
    pub sample: Duration,
}

/// The time of the answer divided by the time of its peer. With 2, the answer is
/// twice as slow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The median of all rounds.
    pub median: f64,
    /// The lower end of the 95 % interval of the median.
    pub low: f64,
    /// The upper end of that interval.
    pub high: f64,
}

/// Measures calls of `answer` and of `peer` alternately.
///
/// # Panics
///
/// When `plan` has fewer than six rounds.
pub fn measure(
    plan: Plan,
    mut answer: impl FnMut(),
    mut peer: impl FnMut(),
) -> Ratio {
    let answers = calls_per_sample(plan.sample, |n| time(n, &mut answer));
    let peers = calls_per_sample(plan.sample, |n| time(n, &mut peer));
    let rounds: Vec<f64> = (0..plan.rounds)
        .map(|_| {
            let first = time(answers, &mut answer);
            let second = time(peers, &mut peer);
            let third = time(peers, &mut peer);
            let fourth = time(answers, &mut answer);
            let answer = (first + fourth).as_secs_f64() / f64::from(answers);
            let peer = (second + third).as_secs_f64() / f64::from(peers);
            answer / peer
        })
        .collect();
    Ratio::of(&rounds)
}

impl Ratio {
    /// Returns the median of the ratios of all rounds, with its interval.
    ///
    /// # Panics
    ///
    /// When there are fewer than six rounds.
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let rank = interval_rank(n);
        assert!(
            rank > 0,
            "{n} rounds are too few for an interval of 95 %: expected at least 6"
        );

        let median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
        let low = sorted[rank - 1];
        let high = sorted[n - rank];
        Self { median, low, high }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = self;
        write!(f, "{median:.2} ({low:.2} to {high:.2})")
    }
}

/// Returns the largest `k` for which the true median lies between the `k`-th
/// smallest and the `k`-th largest of `n` values, with a probability of at least
/// 95 %. Returns 0 if no `k` has this property.
///
/// The median lies below the `k`-th smallest value when fewer than `k` of `n`
/// fair coins show heads.
fn interval_rank(n: usize) -> usize {
    // A logarithm: as an `f64`, 1 / 2ⁿ is zero from 1075 coins on.
    let mut log_probability = -(n as f64) * LN_2;
    let mut below = 0.0;
    for k in 0..n {
        below += log_probability.exp();
        if below > 0.025 {
            return k;
        }
        log_probability += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    0
}

/// Returns the number of calls that take about as long as `sample`. `time(n)`
/// returns the time of `n` calls.
fn calls_per_sample(
    sample: Duration,
    mut time: impl FnMut(u32) -> Duration,
) -> u32 {
    // The first call is slower than others: it allocates and fills the caches.
    time(1);
    let mut calls = 1;
    loop {
        // Measure twice and take the shorter time: a pause lengthens only one.
        let took = time(calls).min(time(calls));
        if took >= sample / 2 || calls > u32::MAX / 2 {
            let per_call = took.as_secs_f64() / f64::from(calls);
            return (sample.as_secs_f64() / per_call).ceil().max(1.0) as u32;
        }
        calls *= 2;
    }
}

fn time(calls: u32, run: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        run();
    }
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);
    const SAMPLE: Duration = Duration::from_micros(300);

    #[test]
    fn the_number_of_calls_fills_one_sample() {
        let calls = calls_per_sample(SAMPLE, |calls| MICROSECOND * calls);
        assert!(
            (300..=301).contains(&calls),
            "expected 300 or 301 calls, got {calls}"
        );
        assert_eq!(calls_per_sample(SAMPLE, |calls| SAMPLE * 2 * calls), 1);
    }

    #[test]
    fn a_slow_first_call_and_one_pause_do_not_change_the_number_of_calls() {
        for slow in 0..20 {
            let mut timing = 0;
            let calls = calls_per_sample(SAMPLE, |calls| {
                let pause = if timing == 0 || timing == slow {
                    SAMPLE * 100
                } else {
                    Duration::ZERO
                };
                timing += 1;
                pause + MICROSECOND * calls
            });
            assert!(
                (300..=301).contains(&calls),
                "expected 300 or 301 calls, got {calls} \
                 with a pause in timing {slow}"
            );
        }
    }
}
