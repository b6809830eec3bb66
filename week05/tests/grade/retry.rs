use std::cell::{Cell, RefCell};
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use lab::cancel::after_polls;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{
    Config as Cases, RngAlgorithm, TestRng, TestRunner,
};
use proptest::{array::uniform4, collection::vec};
use tokio::time::{sleep, timeout};
use week05::retry::{
    Backoff, Budget, Failure, GiveUp, Limits, Policy, Request, Retry,
};
use week05::window;

const ZERO: Duration = Duration::ZERO;
const NANO: Duration = Duration::from_nanos(1);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const SIZES: [u64; 7] = [0, 1, 2, 17, 100, 130, 1_500];
/// The largest number below 1.
const LUCKY: f64 = 1.0 - f64::EPSILON / 2.0;
const FAILURES: [Failure; 6] = [
    Failure::Overloaded { retry_after: ZERO },
    Failure::Overloaded { retry_after: Duration::from_millis(30) },
    Failure::Overloaded { retry_after: Duration::from_secs(25) },
    Failure::NoAnswer,
    Failure::Permanent,
    Failure::DoNotRetry,
];
const REQUEST: Request = Request { idempotent: true, deadline: None };
static START: LazyLock<Instant> = LazyLock::new(|| Instant::now() + HOUR);

mod backoff {
    use super::*;

    #[test]
    fn a_delay_is_a_random_part_of_the_doubled_base_up_to_the_cap() {
        let length = |x: f64| NANO.mul_f64(2_f64.powf(x * 70.0));
        let random = numbers(60).into_iter().flatten();
        let random = random.map(|[b, c, rand, _]| (length(b), length(c), rand));
        let lengths = [ZERO, NANO, 7 * MS, 3 * HOUR, Duration::MAX];
        let pairs = lengths.iter().flat_map(|b| lengths.map(|cap| (*b, cap)));
        let extremes = pairs.flat_map(|(b, c)| [(b, c, 0.0), (b, c, LUCKY)]);
        for (base, cap, rand) in extremes.chain(random) {
            let far = [127, 128, 1_023, 1_024, 2_000, 1 << 31, u32::MAX];
            for retry in (0..70).chain(far) {
                let backoff = Backoff { base, cap };
                check_delay(backoff.delay(retry, rand), backoff, retry, rand);
            }
        }
    }
}

mod budget {
    use super::*;

    #[test]
    fn retries_are_a_percentage_of_the_requests_or_the_minimum() {
        for percent in [0, 1, 7, 29, 100, 250, 1 << 31, u32::MAX] {
            for min_retries in [0, 3, 130, u64::MAX] {
                let mut pair = Pair::new(*START, percent, min_retries);
                for (i, count) in SIZES.into_iter().enumerate() {
                    let now = *START + i as u32 * 20 * SECOND;
                    (0..count).for_each(|_| pair.deposit(now));
                    pair.check(now);
                }
            }
        }
    }

    #[test]
    fn waiting_retries_count_however_long_they_wait() {
        let (mut pair, mut waiting) = (Pair::new(*START, 10, 0), Vec::new());
        for second in 0..60 {
            let now = *START + second * SECOND;
            (0..1_000).for_each(|_| pair.deposit(now));
            waiting.extend(pair.withdraw_all(now));
        }
        let now = *START + HOUR;
        (0..1_000).for_each(|_| pair.deposit(now));
        assert!(pair.withdraw(now).is_none(), "expected: no retry");
        waiting.into_iter().for_each(|retry| pair.send(retry, now));
        (0..15_000).for_each(|_| pair.deposit(now));
        pair.check(now);
    }

    #[test]
    fn a_retry_dropped_before_it_was_sent_gives_its_share_back() {
        for min_retries in SIZES {
            let mut pair = Pair::new(*START, 0, min_retries);
            for now in [*START, *START, *START + HOUR, *START] {
                let retries = pair.withdraw_all(now);
                if now > *START {
                    let panics =
                        || panic!("on purpose, with {:?}", { retries });
                    thread::spawn(panics).join().unwrap_err();
                } else {
                    drop(retries);
                }
                pair.waiting = 0;
                pair.check(now);
            }
        }
    }

    #[test]
    fn any_sequence_of_calls_matches_the_counts() {
        for (i, calls) in numbers(60).into_iter().enumerate() {
            let percent = [10, 29, 50, 100, 150][i % 5];
            let (bucket, n) =
                [(SECOND, 10), (SECOND / 4, 40), (9 * SECOND, 1)][i % 3];
            let min = [0, 1, 5, 0][i % 4];
            let mut pair = Pair::with_window(*START, percent, min, bucket, n);
            let (mut now, mut waiting) = (*START, Vec::new());
            for [step, call, index, back] in calls {
                now += (4 * SECOND).mul_f64(step.powi(4));
                if back > 0.97 {
                    pair.deposit(now); // no call had a later time
                    now -= (40 * SECOND).mul_f64(step);
                }
                let index = (index * waiting.len() as f64) as usize;
                if call < 0.5 {
                    pair.deposit(now);
                } else if call < 0.7 || waiting.is_empty() {
                    waiting.extend(pair.withdraw(now));
                } else if call < 0.85 {
                    pair.send(waiting.swap_remove(index), now);
                } else {
                    pair.waiting -= 1;
                    drop(waiting.swap_remove(index));
                }
                pair.check(now);
            }
        }
    }

    #[test]
    fn threads_together_get_no_more_retries_than_the_budget_has() {
        for limit in [1, 2] {
            let pair = Pair::new(*START, 0, limit);
            let [used, most] = [(); 2].map(|()| AtomicU64::new(0));
            let withdraw = |_| {
                pair.budget().deposit(*START);
                if let Some(retry) = pair.budget().withdraw(*START) {
                    most.fetch_max(used.fetch_add(1, SeqCst) + 1, SeqCst);
                    (0..30).for_each(|_| std::hint::spin_loop());
                    used.fetch_sub(1, SeqCst);
                    drop(retry);
                }
            };
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..40_000).for_each(withdraw));
                }
            });
            let most = most.into_inner();
            assert!(most <= limit, "retries at once: {most}, limit: {limit}");
            pair.check(*START);
        }
        let mut pair = Pair::new(*START, 0, 300_000);
        let mut retries = pair.withdraw_all(*START);
        let halves = [retries.split_off(150_000), retries];
        let send_all = |half: Vec<Retry>| {
            half.into_iter().for_each(|retry| retry.send(*START));
        };
        thread::scope(|scope| {
            let senders = halves.map(|h| scope.spawn(move || send_all(h)));
            while senders.iter().any(|sender| !sender.is_finished()) {
                let retry = pair.budget().withdraw(*START);
                assert!(
                    retry.is_none(),
                    "expected: none while others are sent"
                );
            }
        });
    }
}

mod decisions {
    use super::*;

    #[test]
    fn a_request_that_may_have_been_executed_is_retried_if_idempotent() {
        for idempotent in [true, false] {
            for failure in FAILURES {
                let request = Request { idempotent, deadline: None };
                Pair::new(*START, 0, 1).check_next(request, 1, failure);
            }
        }
    }

    #[test]
    fn a_retry_that_would_not_begin_before_the_deadline_is_not_granted() {
        let pair = Pair::new(*START, 0, 1);
        for failure in FAILURES {
            for attempts in [1, 2] {
                let delay = pair.delay(attempts, failure);
                let times = [*START - HOUR, *START, *START + delay - NANO];
                for after in [ZERO, NANO, 2 * NANO, HOUR] {
                    for deadline in times.map(|time| Some(time + after)) {
                        let request = Request { deadline, ..REQUEST };
                        pair.check_next(request, attempts, failure);
                    }
                }
            }
        }
    }

    #[test]
    fn a_delay_is_what_the_service_asks_for_plus_the_backoff() {
        let mut pair = Pair::new(*START, 0, 1);
        pair.policy.max_attempts = 9;
        let next = |retry_after, attempts, rand| {
            let failure = Failure::Overloaded { retry_after };
            let policy = &pair.policy;
            let next = policy.next(REQUEST, attempts, failure, *START, rand);
            next.expect("a retry is granted").0
        };
        for asked in [ZERO, NANO, 50 * MS, HOUR] {
            for (retry, rand) in (0..8).flat_map(|r| [(r, 0.3), (r, LUCKY)]) {
                let delay = next(asked, retry + 1, rand);
                assert!(delay >= asked, "delay: {delay:?}, asked: {asked:?}");
                check_delay(delay - asked, pair.policy.backoff, retry, rand);
            }
        }
        let longest = next(Duration::MAX, 1, 0.5);
        assert_eq!(longest, Duration::MAX, "seen, expected");
    }

    #[test]
    fn the_first_reason_that_applies_is_given_and_takes_no_share() {
        let limits = [1, 3, 300, u32::MAX];
        for (max, shares) in limits.iter().flat_map(|m| [(m, 0), (m, 2)]) {
            let mut pair = Pair::new(*START, 0, shares);
            pair.policy.max_attempts = *max;
            for attempts in [1, 2, 3, 4, 299, 300, u32::MAX - 1, u32::MAX] {
                for failure in FAILURES {
                    for deadline in [None, Some(*START)] {
                        for idempotent in [true, false] {
                            let request = Request { idempotent, deadline };
                            pair.check_next(request, attempts, failure);
                        }
                    }
                }
            }
        }
    }
}

mod run {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn any_sequence_of_answers_leads_to_the_expected_attempts() {
        for (i, numbers) in numbers(400).into_iter().enumerate() {
            let start = now();
            let mut pair = Pair::new(start, [0, 100, 300][i % 3], i as u64 % 2);
            pair.policy.max_attempts = [1, 2, 3, 7][i % 4];
            let times = [HOUR, ZERO, 100 * MS, 26 * SECOND];
            let deadline = (i % 7 > 0).then_some(start + times[i / 3 % 4]);
            let request = Request { idempotent: i / 2 % 2 == 0, deadline };
            let answer = |attempt: u32| {
                let numbers = numbers.get(attempt as usize);
                let [failure, time, ..] = numbers.unwrap_or(&[0.9; 4]);
                let failure = FAILURES.get((failure * 7.0) as usize).copied();
                (failure, [ZERO, 7 * MS, 1_500 * MS][(time * 3.0) as usize])
            };
            let (failed, attempts) = (Cell::new(0), RefCell::new(Vec::new()));
            let next_rand = || rand(failed.replace(failed.get() + 1) + 1);
            let run = pair.policy.run(request, next_rand, |number| {
                let mut attempts = attempts.borrow_mut();
                assert!(attempts.len() < 9, "expected: at most 7 attempts");
                attempts.push((number, now(), left(pair.budget(), now())));
                let (failure, time) = answer(attempts.len() as u32);
                async move {
                    sleep(time).await;
                    failure.map_or(Ok(number), Err)
                }
            });
            let result = timeout(100 * HOUR, run).await.expect("run ends");
            let (mut due, mut expected) = (Some(start), Ok(0));
            for (n, (number, began, shares)) in (1..).zip(attempts.take()) {
                let on_time = |due| (due..=due + MS).contains(&began);
                assert!(
                    number == n && due.is_some_and(on_time),
                    "attempt {n}: began at {began:?} with number {number}, \
                     expected at {due:?}"
                );
                pair.count(began, n > 1);
                assert_eq!(shares, pair.left(began), "shares: seen, expected");
                let (failure, time) = answer(n);
                let end = began + time;
                due = failure.and_then(|failure| {
                    let delay = pair.next(request, n, failure, end).ok()?;
                    Some(end + delay)
                });
                expected = failure.map_or(Ok(n), |f| Err(passed_on(f)));
            }
            assert_eq!(result, expected, "result: seen (left), expected");
            assert_eq!(due, None, "expected: one more attempt");
            pair.check(now() + 8 * SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_layers_over_a_failing_backend_send_3_calls_and_not_27() {
        let expected = [3, 3, 3, 3, 1, 1];
        for (failure, expected) in FAILURES.into_iter().zip(expected) {
            let [top, middle, low] = [(); 3].map(|()| Pair::new(now(), 0, 9));
            let (rand, calls) = (|| 0.5, Cell::new(0));
            let backend = |_| {
                calls.set(calls.get() + 1);
                async move { Err::<(), _>(failure) }
            };
            let low_run = |_| low.policy.run(REQUEST, rand, backend);
            let middle_run = |_| middle.policy.run(REQUEST, rand, low_run);
            let run = top.policy.run(REQUEST, rand, middle_run);
            let result = timeout(100 * HOUR, run).await.expect("run ends");
            assert_eq!(
                (calls.get(), result),
                (expected, Err(passed_on(failure))),
                "calls and result: seen (left), expected, with {failure:?}"
            );
            let shares = [top, middle].map(|layer| left(layer.budget(), now()));
            assert_eq!(shares, [9, 9], "shares above: seen (left), expected");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_run_keeps_the_shares_of_sent_attempts_only() {
        for polls in 1.. {
            let (pair, sent) = (Pair::new(now(), 0, 9), Cell::new(0));
            let run = pair.policy.run(
                REQUEST,
                || 0.5,
                |number| {
                    sent.set(number - 1);
                    async move {
                        tokio::task::yield_now().await;
                        sleep(MS).await;
                        let failure = FAILURES[3 - number as usize];
                        if number < 3 { Err(failure) } else { Ok(()) }
                    }
                },
            );
            let run = timeout(100 * HOUR, after_polls(polls, run)).await;
            let kept = 9 - left(pair.budget(), now());
            let (kept, sent) = (kept as u32, sent.get());
            assert_eq!(
                kept, sent,
                "shares kept and retries sent: {polls} polls"
            );
            if run.expect("run ends").is_some() {
                assert!(polls > 8, "complete after {polls} polls");
                break;
            }
        }
        for last in [2, 3] {
            let policy = Pair::new(now(), 0, 9).policy;
            let budget = policy.budget.clone();
            let call = move |number| {
                assert!(number < 3, "on purpose, in a call");
                async move {
                    assert!(number < last, "on purpose, in an attempt");
                    Err::<(), _>(Failure::NoAnswer)
                }
            };
            let run = async move { policy.run(REQUEST, || 0.5, call).await };
            let result = tokio::spawn(run).await;
            assert!(result.is_err(), "a panic ends the run: {result:?}");
            let kept = 9 - left(&budget, now());
            assert_eq!(kept, u64::from(last - 1), "shares kept, retries sent");
        }
    }
}

/// Returns sequences of numbers in `0.0..1.0`, always the same.
fn numbers(count: usize) -> Vec<Vec<[f64; 4]>> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Cases::default(), rng);
    let numbers = vec(uniform4(0.0..1.0_f64), 0..150);
    let mut next = || numbers.new_tree(&mut runner).unwrap().current();
    (0..count).map(|_| next()).collect()
}

/// With the backoff of [`Pair::new`], all delays have whole milliseconds.
fn rand(attempts: u32) -> f64 {
    f64::from(attempts.wrapping_mul(29) % 64) / 64.0
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn check_delay(seen: Duration, backoff: Backoff, retry: u32, rand: f64) {
    let factor = 1_u128.checked_shl(retry).unwrap_or(u128::MAX);
    let limit = backoff.base.as_nanos().saturating_mul(factor);
    let expected = limit.min(backoff.cap.as_nanos()) as f64 * rand;
    assert!(
        (seen.as_nanos() as f64 - expected).abs() <= 1.0 + expected * 1e-9,
        "delay: seen {seen:?}, expected {expected} ns: {backoff:?}, retry \
         {retry}, rand {rand}"
    );
}

fn passed_on(failure: Failure) -> Failure {
    let permanent = failure == Failure::Permanent;
    if permanent { failure } else { Failure::DoNotRetry }
}

/// Returns the number of retries that the budget would grant, up to 2,000.
fn left(budget: &Arc<Budget>, now: Instant) -> u64 {
    let retries = (0..2_000).map_while(|_| budget.withdraw(now));
    retries.collect::<Vec<_>>().len() as u64
}

/// A policy and its budget, and the counts that are expected of it.
struct Pair {
    policy: Policy,
    limits: Limits,
    start: Instant,
    /// The bucket of each request and sent retry, and whether it is a retry.
    counted: Vec<(u128, bool)>,
    latest: u128,
    waiting: u64,
}

impl Pair {
    fn new(start: Instant, percent: u32, min_retries: u64) -> Self {
        Self::with_window(start, percent, min_retries, SECOND, 10)
    }

    fn with_window(
        start: Instant,
        percent: u32,
        min_retries: u64,
        bucket: Duration,
        buckets: usize,
    ) -> Self {
        let buckets = NonZero::new(buckets).unwrap();
        let window = window::Config { bucket, buckets };
        let limits = Limits { percent, min_retries, window };
        let budget = Arc::new(Budget::new(limits, start));
        let backoff = Backoff { base: 64 * MS, cap: 384 * MS };
        let policy = Policy { max_attempts: 3, backoff, budget };
        let (counted, latest, waiting) = (Vec::new(), 0, 0);
        Self { policy, limits, start, counted, latest, waiting }
    }

    fn budget(&self) -> &Arc<Budget> {
        &self.policy.budget
    }

    fn bucket(&self, now: Instant) -> u128 {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        (elapsed / self.limits.window.bucket.as_nanos()).max(self.latest)
    }

    /// Returns the expected result of [`left`].
    fn left(&self, now: Instant) -> u64 {
        let buckets = self.limits.window.buckets.get() as u128;
        let oldest = self.bucket(now).saturating_sub(buckets);
        let counted = self.counted.iter().filter(|(time, _)| *time >= oldest);
        let sent = counted.clone().filter(|(_, retry)| *retry).count() as u64;
        let requests = counted.count() as u64 - sent;
        let share = requests * u64::from(self.limits.percent) / 100;
        let allowed = share.max(self.limits.min_retries);
        allowed.saturating_sub(self.waiting + sent).min(2_000)
    }

    fn check(&self, now: Instant) {
        assert_eq!(
            left(self.budget(), now),
            self.left(now),
            "retries granted: seen (left), expected (right), {:?} after the \
             start, with {} requests and sent retries, {} waiting, {:?}",
            now.saturating_duration_since(self.start),
            self.counted.len(),
            self.waiting,
            self.limits
        );
    }

    fn count(&mut self, now: Instant, retry: bool) {
        self.latest = self.bucket(now);
        self.counted.push((self.latest, retry));
    }

    fn deposit(&mut self, now: Instant) {
        self.count(now, false);
        self.budget().deposit(now);
    }

    fn withdraw(&mut self, now: Instant) -> Option<Retry> {
        let retry = self.budget().withdraw(now);
        let expected = self.left(now) > 0;
        assert_eq!(retry.is_some(), expected, "granted: seen (left), expected");
        self.waiting += u64::from(expected);
        retry
    }

    fn withdraw_all(&mut self, now: Instant) -> Vec<Retry> {
        std::iter::from_fn(|| self.withdraw(now)).collect()
    }

    fn send(&mut self, retry: Retry, now: Instant) {
        self.waiting -= 1;
        self.count(now, true);
        retry.send(now);
    }

    fn delay(&self, attempts: u32, failure: Failure) -> Duration {
        let jitter = self.policy.backoff.delay(attempts - 1, rand(attempts));
        match failure {
            Failure::Overloaded { retry_after } => retry_after + jitter,
            _ => jitter,
        }
    }

    /// Returns the expected result of [`Policy::next`].
    fn next(
        &self,
        request: Request,
        attempts: u32,
        failure: Failure,
        now: Instant,
    ) -> Result<Duration, GiveUp> {
        use Failure::{DoNotRetry, NoAnswer, Permanent};
        let delay = self.delay(attempts, failure);
        match failure {
            Permanent | DoNotRetry => Err(GiveUp::NotRetryable),
            NoAnswer if !request.idempotent => Err(GiveUp::NotIdempotent),
            _ if attempts >= self.policy.max_attempts => Err(GiveUp::Attempts),
            _ if request.deadline.is_some_and(|time| now + delay >= time) => {
                Err(GiveUp::Deadline)
            }
            _ if self.left(now) == 0 => Err(GiveUp::Budget),
            _ => Ok(delay),
        }
    }

    /// Calls [`Policy::next`], and compares the result with the expected one.
    fn check_next(&self, request: Request, attempts: u32, failure: Failure) {
        let (policy, rand) = (&self.policy, rand(attempts));
        let seen = policy.next(request, attempts, failure, *START, rand);
        let expected = self.next(request, attempts, failure, *START);
        let case =
            format!("after attempt {attempts}, {failure:?}, {request:?}");
        let delay = seen.as_ref().map(|(delay, _)| *delay);
        let delay = delay.map_err(|reason| *reason);
        assert_eq!(delay, expected, "seen (left), expected, {case}");
        let expected = self.left(*START) - u64::from(seen.is_ok());
        let left = left(self.budget(), *START);
        assert_eq!(left, expected, "shares: seen (left), expected, {case}");
    }
}
