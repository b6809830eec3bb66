use std::cell::Cell;
use std::future::{pending, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use proptest::{array::uniform4, collection::vec};
use tokio::task::consume_budget;
use tokio::time::{Instant as TokioInstant, advance, sleep, timeout_at};
use week05::deadline::*;

const ZERO: Duration = Duration::ZERO;
const NANO: Duration = Duration::from_nanos(1);
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
const TIMES: [Duration; 7] =
    [ZERO, NANO, MILLI, SECOND, HOUR, YEAR, Duration::MAX];
const UNITS: &str = "numSMH";
const NANOS: [u128; 6] =
    [1, 1_000, 1_000_000, 1_000_000_000, 60_000_000_000, 3_600_000_000_000];
/// Compares two values. The text says where they are from.
macro_rules! same {
    ($seen:expr, $expected:expr, $text:expr $(,)?) => {
        assert_eq!($seen, $expected, "{:?}: seen (left), expected", $text)
    };
}

/// In the past, for those that use the clock instead of `now`.
static START: LazyLock<Instant> = LazyLock::new(|| Instant::now() - 2 * HOUR);

mod budget {
    use super::*;

    #[test]
    fn the_earlier_of_two_deadlines_wins() {
        for (a, b) in cross(&deadlines(), &deadlines()) {
            let now = *START - 2 * HOUR;
            let times = [a, b].map(|deadline| deadline.remaining(now));
            let expected = times.into_iter().flatten().min();
            same!(a.min(b).remaining(now), expected, times);
        }
    }

    #[test]
    fn a_call_gets_the_remaining_time_minus_the_reserve() {
        for (deadline, reserve) in cross(&deadlines(), &TIMES) {
            for now in [*START - HOUR, *START, *START + HOUR] {
                let own = |now| deadline.remaining(now);
                let of = |now| Some(own(now)?.saturating_sub(reserve));
                let call = deadline.for_call(now, reserve);
                for then in [now, *START - HOUR, now - NANO, now + NANO] {
                    let (seen, text) =
                        (call.remaining(then), (own(now), reserve));
                    if then == now || of(now) != Some(ZERO) {
                        same!(seen, of(then), text);
                    }
                    assert!(seen <= own(then), "{text:?}: later than its own");
                }
            }
        }
    }
}

mod header {
    use super::*;

    #[test]
    fn only_values_of_the_grammar_are_accepted() {
        let numbers = "|0|00|42|007|99999999|00000001|00000000|100000000|\
            000000001|4294967296|99999999999999999999999|+5|-5|-0|+|-| 5|5 |\
            \t5|5\n|5.0|5.|.5|5,0|5_0|0x5|5e3|٣|５|½|5S|5m|5\0|H|five|1H1";
        for number in numbers.split('|') {
            for unit in "ms|us|ns| S|S |S\n|Ｓ|sec||".split('|') {
                check_parse(&format!("{number}{unit}"));
            }
            for unit in '\0'..='ÿ' {
                check_parse(&format!("{number}{unit}"));
            }
        }
        let mut runner = runner();
        for _ in 0..1_500 {
            check_parse(&next(&mut runner, &"[0-9HMSmun +-]{0,10}|\\PC{0,4}"));
            check_parse(&next(&mut runner, &"[0-9]{1,8}[HMSmun]"));
        }
    }

    #[test]
    fn the_sent_timeout_is_rounded_down_in_the_finest_unit() {
        let edges = [2, 59, 60, 999, 1_000, 99_999_999, 100_000_000];
        let edges = cross(&NANOS, &edges).into_iter().flat_map(|(unit, n)| {
            let edge = Duration::from_nanos_u128(unit * n);
            [edge, edge + NANO, edge - NANO, edge + SECOND]
        });
        let mut runner = runner();
        let any = (0..2_000).map(|_| any_time(&mut runner));
        for time in edges.chain(any).chain([1_000_000 * YEAR]) {
            let long = |unit: &&u128| time.as_nanos() / **unit > 99_999_999;
            let unit = NANOS.iter().filter(long).count().min(5);
            let number = (time.as_nanos() / NANOS[unit]).min(99_999_999);
            let header = Some(format!("{number}{}", &UNITS[unit..=unit]));
            let deadline = Deadline::after(*START, time + HOUR);
            let seen = deadline.to_header(*START + HOUR);
            same!(seen, Ok(header), ("remaining", time));
        }
        same!(Deadline::NEVER.to_header(*START), Ok(None), "no deadline");
    }

    #[test]
    fn a_request_is_not_sent_at_or_after_its_deadline() {
        for (time, late) in cross(&TIMES[..6], &[ZERO, NANO, YEAR]) {
            let now = *START + time + late;
            let seen = Deadline::after(*START, time).to_header(now);
            same!(seen, Err(DeadlineExceeded), ("late by", late));
        }
    }

    #[test]
    fn a_deadline_never_gets_later_from_hop_to_hop() {
        let mut runner = runner();
        for _ in 0..500 {
            let mut left = any_time(&mut runner);
            for hop in next(&mut runner, &vec(uniform4(0.0..1.0_f64), 8)) {
                let share = |x: f64| left.mul_f64((x - 0.4).max(0.0) / 2.0);
                let (now, reserve) = (*START + share(hop[0]), share(hop[1]));
                let call = Deadline::after(*START, left).for_call(now, reserve);
                left -= share(hop[0]) + reserve;
                let Ok(Some(header)) = call.to_header(now) else { break };
                let now = *START + HOUR.mul_f64(hop[2]);
                let received = Deadline::from_header(&header, now).unwrap();
                let received = received.remaining(now).unwrap();
                assert!(received <= left, "of {left:?}, {header} was sent");
                left = received;
            }
        }
    }
}

mod typical {
    use super::*;

    #[test]
    fn work_begins_only_if_enough_time_remains() {
        let longer = TIMES.map(|time| Some(time.saturating_add(NANO)));
        let typical = [longer, TIMES.map(Some), [None; 7]].concat();
        for (deadline, typical) in cross(&deadlines(), &typical) {
            let remaining = deadline.remaining(*START);
            let expected = match (remaining, typical) {
                (Some(ZERO), _) => Err(Rejected::Expired),
                (Some(remaining), Some(typical)) if remaining < typical => {
                    Err(Rejected::NotEnoughTime { remaining, typical })
                }
                _ => Ok(()),
            };
            let seen = deadline.check(*START, typical);
            same!(seen, expected, ("remaining", remaining, "typical", typical));
        }
    }

    #[test]
    fn the_average_of_any_results_follows_the_formula() {
        let mut runner = runner();
        for i in 0..210 {
            let half_life = TIMES[i % TIMES.len()];
            let weight = |latest: Instant, now: Instant| {
                let age = now.saturating_duration_since(latest);
                (-age.div_duration_f64(half_life.max(NANO))).exp2()
            };
            let latency = Latency::new(half_life);
            same!(latency.typical(*START), None, "before the first result");
            let unit = half_life.clamp(NANO, YEAR);
            let (mut now, mut average, mut longest) = (*START, None, 0.0_f64);
            let steps = vec(uniform4(0.0..1.0_f64), 0..[30, 300][i % 2]);
            for step in next(&mut runner, &steps) {
                now += unit.mul_f64(5.0 * (step[0] - 0.2).max(0.0).powi(4));
                let ended = now - unit.mul_f64((step[1] - 0.8).max(0.0));
                let took = match step[2] {
                    0.0..0.05 => ZERO,
                    0.95.. if i % 3 == 0 => Duration::MAX,
                    x => [SECOND, YEAR][i % 3 / 2].mul_f64(x.powi(6)),
                };
                latency.record(ended, took);
                let took = took.as_secs_f64();
                longest = longest.max(took);
                let (old, at) = average.unwrap_or((took, ended));
                let (w, at) = (weight(at, ended), ended.max(at));
                average = Some((w * old + (1.0 - w) * took, at));
                let later = now + unit.mul_f64(5.0 * step[3].powi(3));
                for then in [now, later, *START - HOUR, now + 9 * unit, now] {
                    let seen = latency.typical(then).unwrap().as_secs_f64();
                    let expected = average.unwrap().0 * weight(at, then);
                    let near = (seen - expected).abs() <= longest * 1e-6 + 1e-6;
                    assert!(near, "typical: {seen} s, not {expected} s");
                }
            }
        }
    }

    #[test]
    fn slow_work_is_tried_again_without_new_results() {
        let latency = Latency::new(10 * SECOND);
        for second in 0..600 {
            let now = *START + second * SECOND;
            if second <= 17 {
                latency.record(now, 32 * SECOND);
            }
            let deadline = Deadline::after(now, SECOND + MILLI);
            let seen = deadline.check(now, latency.typical(now)).is_ok();
            same!(seen, second >= 17 + 50, (second, "begins"));
        }
    }

    #[test]
    fn many_results_move_the_average_as_far_as_few() {
        for (count, took) in cross(&[1, 17, 100_000], &[9_000 * NANO, HOUR]) {
            for [old, new] in [[took, ZERO], [ZERO, took]] {
                let latency = Latency::new(SECOND);
                latency.record(*START, old);
                let record = |at| latency.record(*START + at, new);
                (1..=count).for_each(|i| record(SECOND * i / count));
                let seen = latency.typical(*START + SECOND).unwrap();
                let error = took / 1_000_000 + 1_000 * NANO;
                let is_near = seen.abs_diff(took / 2) <= error;
                assert!(is_near, "{count} results: {seen:?}, not {took:?} / 2");
            }
        }
    }

    #[test]
    fn threads_that_share_an_average_lose_no_result() {
        let latency = Latency::new(MILLI);
        latency.record(*START, SECOND);
        let end = Instant::now() + SECOND / 2;
        std::thread::scope(|scope| {
            let too_old = || {
                while Instant::now() < end {
                    (0..99).for_each(|_| latency.record(*START, HOUR));
                }
            };
            (0..2).for_each(|_| drop(scope.spawn(too_old)));
            for i in (1..).take_while(|_| Instant::now() < end) {
                let (now, took) = (*START + i * HOUR, SECOND * (1 + i % 7));
                latency.record(now, took);
                for _ in 0..2 {
                    let seen = latency.typical(now).unwrap();
                    assert!(seen.abs_diff(took) < MILLI, "{seen:?}, {took:?}");
                }
            }
        });
    }

    #[test]
    fn threads_that_share_an_average_see_each_result_as_a_whole() {
        let end = Instant::now() + SECOND / 2;
        while Instant::now() < end {
            // With results of zero, the average halves as without results.
            let latency = Latency::new(HOUR);
            latency.record(*START, HOUR);
            let record = |i| {
                latency.record(*START + i * SECOND, ZERO);
                let seen = latency.typical(*START + HOUR).unwrap();
                let is_half = seen.abs_diff(HOUR / 2) <= 5 * MILLI;
                assert!(is_half, "{seen:?}, not half an hour");
            };
            std::thread::scope(|scope| {
                let records = || (1..3_600).for_each(record);
                (0..3).for_each(|_| drop(scope.spawn(records)));
            });
        }
    }
}

mod run {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_output_at_or_before_the_deadline_is_returned() {
        // Four times, because a `select!` in random order may be lucky.
        let more = [ZERO, ZERO, ZERO, ZERO, MILLI, Duration::MAX];
        for (time, more) in cross(&TIMES[..6], &more) {
            let deadline = in_time(time.max(NANO).saturating_add(more));
            let local = Cell::new(0);
            let seen = deadline.run(async {
                sleep(time).await;
                local.set(7);
                &local
            });
            same!(seen.await.map(Cell::get), Ok(7), (time, more));
        }
        let years = async {
            sleep(31 * YEAR).await;
            sleep(YEAR).await
        };
        same!(Deadline::NEVER.run(years).await, Ok(()), "no deadline");
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_dropped_at_the_deadline_in_a_panic_and_with_run() {
        for (time, sleeps) in cross(&TIMES[1..6], &[0, 99]) {
            let (start, work) = (TokioInstant::now(), Work::default());
            let mut run = Box::pin(in_time(time).run(work.begin(async {
                for _ in 0..sleeps {
                    sleep(MILLI.max(time / 10)).await;
                }
                pending::<()>().await;
            })));
            // First, another task polls.
            _ = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            let limit = start + time + HOUR;
            same!(
                timeout_at(limit, run).await,
                Ok(Err(DeadlineExceeded)),
                time
            );
            let (took, latest) = (start.elapsed(), time + 2 * MILLI);
            assert!((time..=latest).contains(&took), "{took:?}, not {time:?}");
            work.check(true);
        }
        for (limit, panics) in cross(&TIMES[3..], &[true, false]) {
            let work = Work::default();
            let mut run = Box::pin(in_time(limit).run(work.begin(async {
                assert!(!panics, "on purpose");
                pending::<()>().await;
            })));
            let mut context = Context::from_waker(Waker::noop());
            let poll = || run.as_mut().poll(&mut context).is_pending();
            let seen = catch_unwind(AssertUnwindSafe(poll)).ok();
            same!(seen, (!panics).then_some(true), "is pending");
            let _kept = panics.then_some(run);
            work.check(true);
        }
    }

    #[tokio::test]
    async fn work_that_never_waits_is_stopped_at_the_deadline() {
        let (start, work) = (Instant::now(), Work::default());
        let deadline = Deadline::after(start, 20 * MILLI);
        let run = deadline.run(work.begin(async {
            while start.elapsed() < 2 * SECOND {
                consume_budget().await;
            }
        }));
        same!(run.await, Err(DeadlineExceeded), "run");
        assert!(start.elapsed() >= 20 * MILLI, "before the deadline");
        work.check(true);
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_not_polled_if_its_deadline_has_passed() {
        for (time, late) in cross(&TIMES[..5], &[ZERO, NANO, HOUR]) {
            let work = Work::default();
            let run = in_time(time).run(work.begin(ready(())));
            advance(time + late).await;
            same!(run.await, Err(DeadlineExceeded), time);
            work.check(false);
        }
    }
}

/// Keeps a clone of the `Rc` until it is dropped, and sets it when it begins.
#[derive(Default)]
struct Work(Rc<Cell<bool>>);

impl Work {
    fn begin<F: Future>(&self, work: F) -> impl Future<Output = F::Output> {
        let begun = self.0.clone();
        async move {
            begun.set(true);
            work.await
        }
    }

    fn check(&self, begun: bool) {
        let seen = (self.0.get(), Rc::strong_count(&self.0));
        same!(seen, (begun, 1), "(begun, 1 if dropped)");
    }
}

fn in_time(time: Duration) -> Deadline {
    Deadline::after(TokioInstant::now().into_std(), time)
}

/// Returns deadlines before, at and after `START`.
fn deadlines() -> Vec<Deadline> {
    let late = TIMES[..6].iter().map(|t| Deadline::after(*START, *t));
    let early = TIMES[..5].iter().map(|t| Deadline::after(*START - *t, ZERO));
    late.chain(early).chain([Deadline::NEVER]).collect()
}

fn check_parse(value: &str) {
    let timeout = value.char_indices().next_back().and_then(|(at, unit)| {
        let nanos = NANOS[UNITS.find(unit)?];
        let number = value[..at].chars().try_fold(0_u128, |number, c| {
            Some(number * 10 + u128::from(c.to_digit(10)?))
        });
        (1..=8).contains(&at).then_some(number? * nanos)
    });
    let expected = timeout.map(|t| Some(Duration::from_nanos_u128(t)));
    let deadline = Deadline::from_header(value, *START - HOUR);
    let seen = deadline.map(|deadline| deadline.remaining(*START - HOUR));
    same!(seen, expected.ok_or(InvalidTimeout), value);
}

fn cross<A: Copy, B: Copy>(a: &[A], b: &[B]) -> Vec<(A, B)> {
    a.iter().flat_map(|a| b.iter().map(|b| (*a, *b))).collect()
}

fn runner() -> TestRunner {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(Default::default(), rng)
}

fn next<S: Strategy>(runner: &mut TestRunner, strategy: &S) -> S::Value {
    strategy.new_tree(runner).unwrap().current()
}

/// Returns a time of up to a second, a year or 10,000 years.
fn any_time(runner: &mut TestRunner) -> Duration {
    let (scale, part) = next(runner, &(0..3_usize, 0.0..1.0_f64));
    [SECOND, YEAR, 10_000 * YEAR][scale].mul_f64(part.powi(4)) + NANO
}
