use std::cell::{Cell, RefCell};
use std::iter::from_fn;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use lab::cancel::after_polls;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use proptest::{array::uniform4, collection::vec};
use tokio::time::{advance, sleep, timeout};
use week05::retry::{
    Backoff, Budget, Failure, GiveUp, Limits, Policy, Request,
};
use week05::window::{Config, Window};

const ZERO: Duration = Duration::ZERO;
const NANO: Duration = Duration::from_nanos(1);
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const TEN_SECONDS: (Duration, usize) = (SECOND, 10);
/// The largest number below 1.
const LUCKY: f64 = 1.0 - f64::EPSILON / 2.0;
const FAILURES: [Failure; 7] = [
    Failure::Overloaded { retry_after: ZERO },
    Failure::Overloaded { retry_after: Duration::from_millis(30) },
    Failure::Overloaded { retry_after: Duration::from_secs(25) },
    Failure::Overloaded { retry_after: Duration::MAX },
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
            for retry in (0..100).chain(far) {
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
            for min in [0, 3, 130, 1 << 32, u64::MAX] {
                let mut pair = Pair::new(*START, percent, min, TEN_SECONDS);
                for (i, n) in (0..).zip([0, 1, 2, 17, 100, 130, 1_500]) {
                    let now = *START + i * 20 * SECOND;
                    (0..n).for_each(|_| pair.deposit(now));
                    pair.check(now);
                }
            }
        }
    }

    #[test]
    fn any_sequence_of_calls_matches_the_counts() {
        for (i, calls) in numbers(70).into_iter().enumerate() {
            let window = [TEN_SECONDS, (SECOND / 4, 40), (9 * SECOND, 1)];
            let (percent, min) = ([10, 29, 50, 100, 150][i % 5], [0, 1, 5, 0]);
            let mut pair =
                Pair::new(*START, percent, min[i % 4], window[i % 3]);
            let (mut latest, mut waiting) = (*START, Vec::new());
            for [step, call, index, back] in calls {
                let nanos = (step.powi(4) * 4e9) as u64;
                let nanos = nanos - nanos % [1, 250_000_000][i / 2 % 2];
                let long = if step > 0.99 { HOUR } else { ZERO };
                latest += Duration::from_nanos(nanos) + long;
                let now = latest - (40 * SECOND).mul_f64(back.powi(9));
                let chosen = (index * waiting.len() as f64) as usize;
                if call < 0.5 {
                    let n = (index.powi(9) * 80.0) as u32;
                    (0..=n).for_each(|_| pair.deposit(now));
                } else if call < 0.7 || waiting.is_empty() {
                    let retry = pair.policy.budget.withdraw(now);
                    let expected = pair.left(now) > 0;
                    assert_eq!(retry.is_some(), expected, "seen, expected");
                    pair.waiting += retry.iter().len() as u64;
                    waiting.extend(retry);
                } else if call < 0.85 {
                    pair.waiting -= 1;
                    pair.window.add(now, 1);
                    waiting.swap_remove(chosen).send(now);
                } else {
                    let retry = waiting.swap_remove(chosen);
                    pair.waiting -= 1;
                    let drop_retry = move || {
                        let _retry = retry;
                        if call < 0.9 {
                            resume_unwind(Box::new("on purpose"));
                        }
                    };
                    catch_unwind(AssertUnwindSafe(drop_retry)).ok();
                }
                pair.check(now);
                pair.check(latest);
            }
        }
    }

    #[test]
    fn threads_are_granted_the_retries_that_are_free_and_no_more() {
        for limit in [1, 2] {
            let requests = Pair::new(*START, 1, 0, TEN_SECONDS).policy.budget;
            let policy = &Pair::new(*START, 0, limit, TEN_SECONDS).policy;
            let [used, most, refused] = [(); 3].map(|()| AtomicU64::new(0));
            let retry = |_| {
                requests.deposit(*START);
                if let Some(retry) = policy.budget.withdraw(*START) {
                    most.fetch_max(used.fetch_add(1, SeqCst) + 1, SeqCst);
                    (0..30).for_each(|_| std::hint::spin_loop());
                    used.fetch_sub(1, SeqCst);
                    drop(retry);
                } else {
                    refused.fetch_add(1, SeqCst);
                }
            };
            let give_up = |_| {
                requests.deposit(*START);
                policy.budget.deposit(*START);
                let late = Request { deadline: Some(*START), ..REQUEST };
                let next = policy.next(late, 1, FAILURES[0], *START, 0.5);
                let reason = next.err();
                assert_eq!(reason, Some(GiveUp::Deadline), "seen, expected");
            };
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| (0..40_000).for_each(retry));
                    scope.spawn(|| (0..40_000).for_each(give_up));
                }
            });
            let (most, refused) = (most.into_inner(), refused.into_inner());
            assert!(most <= limit, "retries at once: {most}, limit: {limit}");
            assert!(limit < 2 || refused == 0, "refused: one of 2 retries");
            assert_eq!(left(&policy.budget, *START), limit, "seen, expected");
            assert_eq!(left(&requests, *START), 1_600, "1 % of the requests");
        }
    }

    #[test]
    fn no_retry_is_granted_while_other_threads_send() {
        let budget = Pair::new(*START, 99, 0, TEN_SECONDS).policy.budget;
        (0..300_001).for_each(|_| budget.deposit(*START));
        let retries = from_fn(|| budget.withdraw(*START).map(Some));
        let mut retries: Vec<_> = retries.take(300_000).collect();
        assert_eq!(retries.len(), 297_000, "99 % of 300,001: seen, expected");
        thread::scope(|scope| {
            let senders = retries.chunks_mut(150_000).map(|half| {
                let retries = half.iter_mut().filter_map(Option::take);
                scope.spawn(|| retries.for_each(|retry| retry.send(*START)))
            });
            let senders: Vec<_> = senders.collect();
            while senders.iter().any(|sender| !sender.is_finished()) {
                let retry = budget.withdraw(*START);
                assert!(retry.is_none(), "expected: none, as all are used");
            }
        });
    }
}

mod decisions {
    use super::*;

    #[test]
    fn a_delay_is_what_the_service_asks_for_plus_the_backoff() {
        let mut policy = Pair::new(*START, 0, 1, TEN_SECONDS).policy;
        policy.max_attempts = 9;
        for retry_after in [ZERO, NANO, 50 * MS, HOUR] {
            let failure = Failure::Overloaded { retry_after };
            for (n, rand) in (1..9).flat_map(|n| [(n, 0.3), (n, LUCKY)]) {
                let next = policy.next(REQUEST, n, failure, *START, rand);
                let delay = next.expect("a retry is granted").0;
                let jitter = delay.checked_sub(retry_after);
                let jitter = jitter.expect("as long as the service asks for");
                check_delay(jitter, policy.backoff, n - 1, rand);
            }
        }
    }

    #[test]
    fn a_retry_that_would_not_begin_before_the_deadline_is_not_granted() {
        check_next(true);
    }

    #[test]
    fn the_first_reason_that_applies_is_given_and_takes_no_share() {
        check_next(false);
    }

    fn check_next(with_deadline: bool) {
        for case in 0..2 * 5 * 8 * 7 * 2 * 7 * 3_usize {
            let rest = Cell::new(case);
            let pick = |n| rest.replace(rest.get() / n) % n;
            let shares = [0, 2][pick(2)];
            let mut pair = Pair::new(*START, 0, shares, TEN_SECONDS);
            pair.policy.max_attempts = [0, 1, 3, 300, u32::MAX][pick(5)];
            let n = [1, 2, 3, 4, 299, 300, u32::MAX - 1, u32::MAX][pick(8)];
            let (failure, idempotent) = (FAILURES[pick(7)], pick(2) == 0);
            let rand = [0.0, 0.25, LUCKY][pick(3)];
            let end = START.checked_add(pair.delay(n, failure, rand));
            let end = end.unwrap_or(*START + HOUR);
            let times = [*START - HOUR, *START, end - NANO, end, end + NANO];
            let deadline = times.into_iter().chain([end + HOUR]).nth(pick(7));
            if deadline.is_some() != with_deadline {
                continue;
            }
            let request = Request { idempotent, deadline };
            let next = pair.policy.next(request, n, failure, *START, rand);
            let seen = next.as_ref().map(|(delay, _)| *delay);
            let expected = pair.next(request, n, failure, *START, rand);
            assert_eq!(
                seen.map_err(|reason| *reason),
                expected,
                "seen (left), expected, after attempt {n}, {failure:?}, of \
                 {request:?}, with {shares} shares and {:?}",
                pair.policy
            );
            pair.waiting += u64::from(next.is_ok());
            pair.check(*START);
        }
    }
}

mod run {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn any_sequence_of_answers_leads_to_the_expected_attempts() {
        for (i, numbers) in numbers(400).into_iter().enumerate() {
            let (percent, min) = ([0, 100, 300][i % 3], i as u64 % 2);
            let mut pair = Pair::new(now(), percent, min, TEN_SECONDS);
            pair.policy.max_attempts = [0, 1, 2, 3, 7][i % 5];
            sleep(i as u32 % 8 * SECOND).await;
            let start = now();
            let times = [HOUR, ZERO, 100 * MS, 26 * SECOND];
            let deadline = (i % 7 > 0).then_some(start + times[i / 3 % 4]);
            let late = if deadline.is_some() { MS } else { 9 * SECOND };
            let request = Request { idempotent: i / 2 % 2 == 0, deadline };
            let answer = |n: u32| {
                let x = *numbers.get(n as usize).unwrap_or(&[0.9; 4]);
                let time = [ZERO, 7 * MS, 1_500 * MS][(x[1] * 3.0) as usize];
                (FAILURES.get((x[0] * 8.0) as usize).copied(), time)
            };
            let (policy, failed) = (pair.policy.clone(), Cell::new(0));
            let rands = || rand(failed.replace(failed.get() + 1) + 1);
            // The attempts so far, the time of the next, the result.
            let state = &RefCell::new((pair, 0, Some(start), None));
            let run = policy.run(request, rands, |number| {
                let (pair, n, due, _) = &mut *state.borrow_mut();
                *n += 1;
                assert_eq!(number, *n, "number: seen, expected");
                let times = due.take().map(|due| due..=due + late + MS);
                assert!(
                    times.as_ref().is_some_and(|due| due.contains(&now())),
                    "attempt {n} at {:?}, expected: {times:?}",
                    now()
                );
                pair.window.add(now(), u64::from(*n > 1));
                pair.check(now());
                let (failure, time) = answer(*n);
                async move {
                    sleep(time).await;
                    let (pair, n, due, result) = &mut *state.borrow_mut();
                    let next = |f| pair.next(request, *n, f, now(), rand(*n));
                    match failure.map(|failure| (failure, next(failure))) {
                        None => *result = Some(Ok(number)),
                        Some((_, Ok(delay))) => *due = now().checked_add(delay),
                        Some((f, Err(_))) => *result = Some(Err(passed_on(f))),
                    }
                    failure.map_or(Ok(number), Err)
                }
            });
            let pass_time = async {
                if deadline.is_some() {
                    sleep(2 * HOUR).await;
                }
                // The run is late for all timers between.
                for _ in 0..800 {
                    advance(late).await;
                }
            };
            let seen = tokio::select! {
                biased;
                result = run => Some(result),
                () = pass_time => None,
            };
            let (pair, _, due, result) = &*state.borrow();
            assert_eq!(*due, None, "expected: one more attempt");
            assert_eq!(seen, *result, "result: seen (left), expected");
            pair.check(now() + 8 * SECOND);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_layers_over_a_failing_backend_send_3_calls_and_not_27() {
        for (i, failure) in FAILURES.into_iter().enumerate() {
            let expected = [3, 3, 3, 1, 3, 1, 1][i];
            let policy = Pair::new(now(), 0, 9, (HOUR, 1)).policy;
            let (rand, calls) = (|| 0.5, Cell::new(0));
            let backend = |_| {
                calls.set(calls.get() + 1);
                async move { Err::<(), _>(failure) }
            };
            let low = |_| policy.run(REQUEST, rand, backend);
            let middle = |_| policy.run(REQUEST, rand, low);
            let run = policy.run(REQUEST, rand, middle);
            let result = timeout(HOUR, run).await.ok();
            let waits = i == 3;
            assert_eq!(
                (calls.get(), result),
                (expected, (!waits).then_some(Err(passed_on(failure)))),
                "calls and result: seen (left), expected, with {failure:?}"
            );
            let shares = 9 - left(&policy.budget, now());
            assert_eq!(shares + 1, expected, "retries counted, calls sent");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_run_keeps_the_shares_of_sent_attempts_only() {
        for polls in 1.. {
            let policy = Pair::new(now(), 0, 9, TEN_SECONDS).policy;
            let sent = Cell::new(0);
            let call = |number| {
                sent.set(number - 1);
                async move {
                    tokio::task::yield_now().await;
                    sleep(MS).await;
                    let failure = FAILURES[3 - number as usize];
                    if number < 3 { Err(failure) } else { Ok(()) }
                }
            };
            let run = after_polls(polls, policy.run(REQUEST, || 0.5, call));
            let run = timeout(HOUR, run).await.expect("run ends");
            let kept = 9 - left(&policy.budget, now()) as u32;
            assert_eq!(kept, sent.get(), "kept and sent: {polls} polls");
            if run.is_some() {
                assert!(polls > 8, "complete after {polls} polls");
                break;
            }
        }
        for last in [2, 3] {
            let policy = Pair::new(now(), 0, 9, TEN_SECONDS).policy;
            let budget = policy.budget.clone();
            let call = move |number| {
                assert!(number < 3, "on purpose, in a call");
                async move {
                    assert!(number < last, "on purpose, in an attempt");
                    Err::<(), _>(Failure::NoAnswer)
                }
            };
            let rand = Cell::new(0.5);
            let run = async move {
                policy.run(REQUEST, move || rand.get(), call).await
            };
            let result = tokio::spawn(run).await;
            assert!(result.is_err(), "a panic ends the run: {result:?}");
            let kept = 9 - left(&budget, now());
            assert_eq!(kept, u64::from(last - 1), "shares kept, retries sent");
        }
    }
}

/// Returns sequences of numbers in `0.0..1.0`, always the same.
fn numbers(count: usize) -> Vec<Vec<[f64; 4]>> {
    let mut runner = TestRunner::deterministic();
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

/// A policy, and the counts that are expected of its budget.
struct Pair {
    policy: Policy,
    limits: Limits,
    /// A 0 for each request, and a 1 for each sent retry.
    window: Window,
    waiting: u64,
}

impl Pair {
    fn new(
        start: Instant,
        percent: u32,
        min_retries: u64,
        (bucket, buckets): (Duration, usize),
    ) -> Self {
        let buckets = NonZero::new(buckets).unwrap();
        let config = Config { bucket, buckets };
        let limits = Limits { percent, min_retries, window: config };
        let budget = Arc::new(Budget::new(limits, start));
        let backoff = Backoff { base: 64 * MS, cap: 384 * MS };
        let policy = Policy { max_attempts: 3, backoff, budget };
        let window = Window::new(config, start);
        Self { policy, limits, window, waiting: 0 }
    }

    /// Returns the expected result of [`left`].
    fn left(&self, now: Instant) -> u64 {
        let counted = self.window.summary(now);
        let requests = counted.count - counted.sum;
        let share = requests * u64::from(self.limits.percent) / 100;
        let allowed = share.max(self.limits.min_retries);
        allowed.saturating_sub(self.waiting + counted.sum).min(2_000)
    }

    fn check(&self, now: Instant) {
        let (seen, expected) = (left(&self.policy.budget, now), self.left(now));
        assert!(
            seen == expected,
            "retries granted at {now:?}: seen {seen}, expected {expected}, \
             with {} waiting, {:?}, {:?}",
            self.waiting,
            self.limits,
            self.window
        );
    }

    fn deposit(&mut self, now: Instant) {
        self.window.add(now, 0);
        self.policy.budget.deposit(now);
    }

    fn delay(&self, attempts: u32, failure: Failure, rand: f64) -> Duration {
        let jitter = self.policy.backoff.delay(attempts - 1, rand);
        match failure {
            Failure::Overloaded { retry_after } => {
                retry_after.saturating_add(jitter)
            }
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
        rand: f64,
    ) -> Result<Duration, GiveUp> {
        use Failure::{DoNotRetry, NoAnswer, Permanent};
        let delay = self.delay(attempts, failure, rand);
        let end = now.checked_add(delay);
        let late = |time| end.is_none_or(|end| end >= time);
        match failure {
            Permanent | DoNotRetry => Err(GiveUp::NotRetryable),
            NoAnswer if !request.idempotent => Err(GiveUp::NotIdempotent),
            _ if attempts >= self.policy.max_attempts => Err(GiveUp::Attempts),
            _ if request.deadline.is_some_and(late) => Err(GiveUp::Deadline),
            _ if self.left(now) == 0 => Err(GiveUp::Budget),
            _ => Ok(delay),
        }
    }
}
