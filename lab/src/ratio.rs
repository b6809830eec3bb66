//! How much slower one thing is than another, on a machine that has more to do.
//!
//! **Question.** Is the answer really slower than its peer, or was the machine
//! busy while it ran?
//!
//! **Idea.** Run both in one process, in short samples and in the order answer,
//! peer, peer, answer. What slows the machine for longer than a round slows
//! both, and a steady drift cancels out. Each round yields one ratio, and the
//! rounds together their median.
//!
//! **Guarantee.** The interval covers the true median in at least 95 of 100
//! measurements, whatever the distribution of the noise, as long as rounds are
//! independent: it lies between two order statistics, which the binomial
//! distribution picks. It needs no variance, which one long pause would ruin.
//!
//! **Cost.** It says nothing of single calls: tails need a histogram.
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

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// At least six: fewer have no interval. Some 50 make it a narrow one.
    pub rounds: usize,
    /// About how long each runs before the other's turn, four times a round.
    pub sample: Duration,
}

/// The answer's time divided by its peer's: 2 is twice as slow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// Of all rounds.
    pub median: f64,
    /// Where the 95 % interval of the median begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
}

/// Times calls of `answer` and of `peer` in turns.
///
/// # Panics
///
/// Where the plan has fewer than six rounds.
pub fn measure(
    plan: Plan,
    mut answer: impl FnMut(),
    mut peer: impl FnMut(),
) -> Ratio {
    let answers = calls_that_take(plan.sample, |n| time(n, &mut answer));
    let peers = calls_that_take(plan.sample, |n| time(n, &mut peer));
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
    /// The median of the ratios of all rounds, with its interval.
    ///
    /// # Panics
    ///
    /// If there are fewer than six.
    pub fn of(rounds: &[f64]) -> Self {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let outside = outside(n);
        assert!(outside > 0, "{n} rounds are too few for an interval of 95 %");

        let median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
        let low = sorted[outside - 1];
        let high = sorted[n - outside];
        Self { median, low, high }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = self;
        write!(f, "{median:.2} ({low:.2} to {high:.2})")
    }
}

/// The largest `k` for which the `k`-th smallest and the `k`-th largest of `n`
/// hold the median between them with 95 %. It lies below the `k`-th smallest
/// when fewer than `k` of `n` coins show heads.
fn outside(n: usize) -> usize {
    // Its logarithm, as 1 / 2ⁿ itself is zero from 1075 coins on.
    let mut probability = -(n as f64) * LN_2;
    let mut below = 0.0;
    for k in 0..n {
        below += probability.exp();
        if below > 0.025 {
            return k;
        }
        probability += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    0
}

/// How often to call for a sample, by a clock that times so many calls.
fn calls_that_take(
    sample: Duration,
    mut time: impl FnMut(u32) -> Duration,
) -> u32 {
    // No other call is like the first, which allocates and fills the caches.
    time(1);
    let mut calls = 1;
    loop {
        // A pause makes one of the two too long, and is no reason to stop.
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
    fn calls_fill_a_sample() {
        let calls = calls_that_take(SAMPLE, |calls| MICROSECOND * calls);
        assert!((300..=301).contains(&calls), "{calls}");
        assert_eq!(calls_that_take(SAMPLE, |calls| SAMPLE * 2 * calls), 1);
    }

    #[test]
    fn a_slow_first_call_and_one_pause_change_nothing() {
        for slow in 0..20 {
            let mut timing = 0;
            let calls = calls_that_take(SAMPLE, |calls| {
                let pause = if timing == 0 || timing == slow {
                    SAMPLE * 100
                } else {
                    Duration::ZERO
                };
                timing += 1;
                pause + MICROSECOND * calls
            });
            assert!((300..=301).contains(&calls), "{calls} after {slow}");
        }
    }
}
