use std::any::Any;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Either;
use tokio::runtime::{Builder, Handle};
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use week03::group::Group;

use crate::common::{Ledger, Random, with_deadline};

/// Creates a group that no other token can cancel.
fn group() -> Group<&'static str> {
    Group::new(&CancellationToken::new())
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A timeout that no correct answer reaches. The clock is paused, so it costs
/// no real time.
const TOO_LONG: Duration = seconds(1000 * 3600);

/// A panic payload that is no string. `wait` must raise this very value.
#[derive(Debug, PartialEq)]
struct Bug(usize);

/// How `wait` ends.
#[derive(Debug, PartialEq)]
enum Outcome {
    Returned(Result<(), &'static str>),
    /// The number of the `Bug`, or `None` for another payload.
    Raised(Option<usize>),
    Never,
}

/// Awaits `wait`, which must have cancelled the token when it finishes.
async fn outcome(group: Group<&'static str>) -> Outcome {
    let token = group.token();
    let wait = timeout(TOO_LONG, group.wait());
    let mut wait = Box::pin(AssertUnwindSafe(wait).catch_unwind());
    // The waker may be another one at each poll.
    let mut context = Context::from_waker(Waker::noop());
    let ended = match wait.as_mut().poll(&mut context) {
        Poll::Ready(ended) => ended,
        Poll::Pending => wait.as_mut().await,
    };
    let outcome = match ended {
        Ok(Ok(returned)) => Outcome::Returned(returned),
        Ok(Err(_elapsed)) => Outcome::Never,
        Err(payload) => {
            Outcome::Raised(payload.downcast().ok().map(|bug: Box<Bug>| bug.0))
        }
    };
    // The future of `wait` still lives: its drop cancels the token, too.
    assert!(
        token.is_cancelled() || outcome == Outcome::Never,
        "the token is not yet cancelled when `wait` has finished: {outcome:?}"
    );
    outcome
}

/// What a task does at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    ReturnsOk,
    Fails,
    Panics,
}
use Ending::*;

/// Ends the task with this number.
fn end_with(ending: Ending, number: usize) -> Result<(), &'static str> {
    match ending {
        ReturnsOk => Ok(()),
        Fails => Err(error(number)),
        Panics => panic_any(Bug(number)),
    }
}

/// Times are milliseconds since the start of the run.
#[derive(Clone, Debug)]
struct Plan {
    number: usize,
    spawned_at: u64,
    /// The task lasts that long, or that long from its cancellation.
    lasts: u64,
    is_cooperative: bool,
    ending: Ending,
}

#[derive(Clone, Debug)]
struct Run {
    tasks: Vec<Plan>,
    /// When the parent is cancelled, or the token by a caller.
    cancelled_at: Option<(u64, bool)>,
    wait_called_at: u64,
}

/// The expected result of a run.
struct Expected {
    /// The number of the task whose error is returned.
    error: Option<usize>,
    panics: Vec<usize>,
    cancelled_at: u64,
    ended_at: u64,
}

/// Returns a run of `size` tasks.
fn generate(random: &mut Random, size: usize, endings: &[Ending]) -> Run {
    // Rarely 10 h: a `wait` that logs every 10 s is correct, too.
    let longest = [100_000, 36_000_000][usize::from(random.below(6) == 0)];
    let longest = longest.max(20 * size * size);
    // Either all tasks are spawned at once, or many of them have ended before
    // the last one is spawned, or few have.
    let spawn_end = [1, longest, longest / 10][random.below(3)];
    let mut below = |end| random.below(end) as u64;
    let mut tasks: Vec<_> = (0..size)
        .map(|number| Plan {
            number,
            spawned_at: below(spawn_end),
            lasts: below(longest),
            is_cooperative: below(2) == 0,
            ending: endings[below(endings.len()) as usize],
        })
        .collect();
    tasks.sort_by_key(|task| task.spawned_at);
    let is_cancelled =
        tasks.iter().any(|task| task.is_cooperative) || below(3) == 0;
    let last_spawn = tasks.last().map_or(0, |task| task.spawned_at);
    Run {
        cancelled_at: is_cancelled.then(|| (below(longest), below(2) == 0)),
        wait_called_at: last_spawn + below(2) * longest as u64,
        tasks,
    }
}

impl Run {
    /// The model of a group. Returns `None` if two events coincide.
    fn expected(&self) -> Option<Expected> {
        let (cooperative, others): (Vec<_>, Vec<_>) =
            self.tasks.iter().partition(|task| task.is_cooperative);
        let mut ends: Vec<_> = others
            .into_iter()
            .map(|task| (task.spawned_at + task.lasts, task))
            .collect();
        let failures = ends.iter().filter(|(_, task)| task.ending != ReturnsOk);
        let cancellation = self.cancelled_at.map(|(at, _)| at);
        let cancelled_at =
            failures.map(|(end, _)| *end).chain(cancellation).min();
        for task in cooperative {
            let at = cancelled_at.expect("else no cooperative task ends");
            ends.push((at.max(task.spawned_at) + task.lasts, task));
        }
        ends.sort_by_key(|(end, _)| *end);
        let mut times: Vec<_> =
            ends.iter().map(|(end, _)| *end).chain(cancellation).collect();
        times.sort_unstable();
        if times.windows(2).any(|pair| pair[0] == pair[1]) {
            return None;
        }
        let last = ends.last().map_or(0, |(end, _)| *end);
        let ended_at = last.max(self.wait_called_at);
        let numbers = ends.iter().map(|(_, task)| (task.ending, task.number));
        Some(Expected {
            error: numbers.clone().find(|(e, _)| *e == Fails).map(|(_, n)| n),
            panics: numbers
                .filter(|(e, _)| *e == Panics)
                .map(|(_, n)| n)
                .collect(),
            cancelled_at: cancelled_at.unwrap_or(ended_at).min(ended_at),
            ended_at,
        })
    }
}

/// Runs `runs` generated runs for each number of tasks, and compares each one
/// with the model.
async fn compare_with_model(endings: &[Ending], sizes: &[usize], runs: usize) {
    let mut random = Random(2026);
    for (&size, _) in sizes.iter().flat_map(|n| (0..runs).map(move |i| (n, i)))
    {
        let (run, expected) = loop {
            let run = generate(&mut random, size, endings);
            if let Some(expected) = run.expected() {
                break (run, expected);
            }
        };
        let shown = format!("{:.2000}", format!("{run:?}"));
        let (alive, start) = (alive_tasks(), Instant::now());
        let at = move |ms| start + Duration::from_millis(ms);
        let (parent, ends) = (CancellationToken::new(), Ledger::default());
        let mut group = Group::new(&parent);
        let watched = group.token();
        let watcher = tokio::spawn(async move {
            watched.cancelled().await;
            start.elapsed()
        });
        let canceller = run.cancelled_at.map(|(when, by_parent)| {
            let token = if by_parent { parent.clone() } else { group.token() };
            tokio::spawn(sleep_until(at(when)).map(move |()| token.cancel()))
        });
        for task in &run.tasks {
            // `sleep_until` may yield even if the time is in the past.
            if Instant::now() < at(task.spawned_at) {
                sleep_until(at(task.spawned_at)).await;
            }
            let (task, token) = (task.clone(), group.token());
            let end = ends.value();
            let work = async move {
                let _end = end;
                if task.is_cooperative {
                    token.cancelled().await;
                    sleep(Duration::from_millis(task.lasts)).await;
                } else {
                    sleep_until(at(task.spawned_at + task.lasts)).await;
                }
                end_with(task.ending, task.number)
            };
            group.spawn(work);
        }
        sleep_until(at(run.wait_called_at)).await;
        let outcome = outcome(group).await;
        let elapsed = start.elapsed().as_millis() as u64;
        match (expected.error, &outcome) {
            (_, Outcome::Raised(Some(number)))
                if expected.panics.contains(number) => {}
            (Some(number), Outcome::Returned(Err(seen)))
                if expected.panics.is_empty() && *seen == error(number) => {}
            (None, Outcome::Returned(Ok(()))) if expected.panics.is_empty() => {
            }
            (number, seen) => panic!(
                "expected one of the panics {:?}, or else the error {:?}, saw \
                 {seen:?}, in the run {shown}",
                expected.panics,
                number.map(error),
            ),
        }
        assert_eq!(
            elapsed, expected.ended_at,
            "ms until `wait` finished: seen (left), expected (right), in the \
             run {shown}"
        );
        assert_eq!(
            ends.left(),
            0,
            "tasks that had not ended when `wait` finished: seen (left), \
             expected (right), in the run {shown}"
        );
        assert_eq!(
            watcher.await.unwrap().as_millis() as u64,
            expected.cancelled_at,
            "ms until the token was cancelled: seen (left), expected (right), \
             in the run {shown}"
        );
        // The cancellation may be due after the end of the group.
        if let Some(canceller) = canceller {
            canceller.abort();
            let _ = canceller.await;
        }
        sleep(Duration::from_millis(1)).await;
        assert_eq!(
            alive_tasks(),
            alive,
            "tasks of the runtime 1 ms after `wait` finished: expected as \
             many as before the group, in the run {shown}"
        );
        let (when, by_parent) = run.cancelled_at.unwrap_or_default();
        assert_eq!(
            parent.is_cancelled(),
            by_parent && when < expected.ended_at,
            "the parent is cancelled: seen and expected, in the run {shown}"
        );
    }
}

/// Returns one of many different texts.
fn error(number: usize) -> &'static str {
    const TEXT: &str = "broken broken broken broken broken broken broken";
    &TEXT[number % 7..7 + number % 41]
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

mod joins {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_returns_when_the_last_of_any_number_of_tasks_has_ended() {
        let sizes = [0, 1, 2, 3, 17, 130, 1500];
        compare_with_model(&[ReturnsOk], &sizes, 4).await;
    }

    type Wait = Pin<Box<dyn Future<Output = Result<(), &'static str>>>>;

    thread_local! {
        /// The future of `wait` that the destructor of a task polls.
        static WAIT: RefCell<Option<Wait>> = const { RefCell::new(None) };
    }

    /// A task whose destructor polls the future of `wait`.
    struct PollsWaitOnDrop {
        ending: Ending,
        is_too_early: Arc<AtomicBool>,
    }

    impl Future for PollsWaitOnDrop {
        type Output = Result<(), &'static str>;

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Self::Output> {
            Poll::Ready(end_with(self.ending, 0))
        }
    }

    impl Drop for PollsWaitOnDrop {
        fn drop(&mut self) {
            let Some(mut wait) = WAIT.take() else { return };
            let mut context = Context::from_waker(Waker::noop());
            let poll = || wait.as_mut().poll(&mut context).is_pending();
            match catch_unwind(AssertUnwindSafe(poll)) {
                Ok(true) => WAIT.set(Some(wait)),
                // `wait` returned, or raised a panic.
                _ => self.is_too_early.store(true, Relaxed),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn wait_is_pending_while_the_destructor_of_a_task_runs() {
        for ending in [ReturnsOk, Fails, Panics] {
            let (mut group, is_too_early) = (group(), Arc::default());
            let task = PollsWaitOnDrop {
                ending,
                is_too_early: Arc::clone(&is_too_early),
            };
            group.spawn(task);
            WAIT.set(Some(Box::pin(group.wait())));
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(
                !is_too_early.load(Relaxed),
                "`wait` finished before the destructor of a task had \
                 returned; the task: {ending:?}"
            );
            let wait = WAIT.take().expect("`wait` is pending");
            let ended = AssertUnwindSafe(wait).catch_unwind();
            let ended = timeout(TOO_LONG, ended).await;
            assert!(
                ended.is_ok(),
                "`wait` does not finish after the task has ended; the task: \
                 {ending:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_future_of_wait_is_send() {
        assert!(
            IsSend(&group().wait()).is_send(),
            "expected the future of `wait` to be `Send`: a task of another \
             group may await it"
        );
    }

    /// Decides at run time, so that a future that is not `Send` fails this
    /// test, and not the compilation of all tests.
    struct IsSend<'a, T>(#[allow(dead_code, reason = "for its type")] &'a T);

    impl<T: Send> IsSend<'_, T> {
        fn is_send(&self) -> bool {
            true
        }
    }

    #[allow(dead_code, reason = "used if the future is not `Send`")]
    trait NotSend {
        fn is_send(&self) -> bool {
            false
        }
    }

    impl<T> NotSend for IsSend<'_, T> {}
}

mod errors {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_returns_the_earliest_error_after_all_tasks_have_ended() {
        compare_with_model(&[ReturnsOk, Fails], &[1, 2, 3, 4, 17], 40).await;
        compare_with_model(&[Fails], &[130, 1500], 1).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_error_is_not_returned() {
        // tokio's types yield if the task has used up its budget, 128 units.
        for used in 100..200 {
            let (mut group, failed) = (group(), Arc::default());
            for number in 0..3 {
                let failed: Arc<AtomicBool> = Arc::clone(&failed);
                group.spawn(async move {
                    if number == 1 {
                        for _ in 0..used {
                            consume_budget().await;
                        }
                        failed.store(true, Relaxed);
                        return Err("first");
                    }
                    let mut polls = 0..100;
                    while !failed.load(Relaxed) && polls.next().is_some() {
                        yield_now().await;
                    }
                    Err("later")
                });
            }
            assert_eq!(
                outcome(group).await,
                Outcome::Returned(Err("first")),
                "expected the first error: the group must record an error \
                 before it awaits anything else; used units of the task's \
                 budget: {used}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_token_is_cancelled_as_soon_as_its_parent_is() {
        for already_cancelled in [false, true] {
            let parent = CancellationToken::new();
            if already_cancelled {
                parent.cancel();
            }
            let mut group = Group::<&str>::new(&parent);
            let tokens = [group.token(), group.token()];
            parent.cancel();
            assert!(
                tokens.iter().all(CancellationToken::is_cancelled),
                "a token of the group is not cancelled, but its parent is; \
                 before the group was created: {already_cancelled}"
            );
            group.spawn(async {
                sleep(seconds(1)).await;
                Err("failed after the cancellation")
            });
            assert_eq!(
                outcome(group).await,
                Outcome::Returned(Err("failed after the cancellation")),
                "expected a task that is spawned after the cancellation to run"
            );
        }
    }
}

mod panics {
    use super::*;

    /// Returns the panic that `wait` raises if the first task calls `panics`.
    async fn raised(panics: fn(usize)) -> Box<dyn Any + Send> {
        let mut group = group();
        group.spawn(async move {
            panics(7);
            Ok(())
        });
        // The panic must outlive any number of tasks that end later.
        for _ in 0..1500 {
            yield_now().await;
            group.spawn(async { Ok(()) });
        }
        let ended = AssertUnwindSafe(group.wait()).catch_unwind().await;
        ended.expect_err("`wait` must raise the panic of its first task again")
    }

    #[tokio::test(start_paused = true)]
    async fn wait_raises_a_panic_again_with_the_same_payload() {
        assert_eq!(
            raised(|_| panic!("on purpose")).await.downcast_ref(),
            Some(&"on purpose"),
            "the payload: `None` is another type than `&str`"
        );
        assert_eq!(
            raised(|n| panic!("on purpose {n}")).await.downcast_ref(),
            Some(&"on purpose 7".to_owned()),
            "the payload: `None` is another type than `String`"
        );
        assert_eq!(
            raised(|n| panic_any(Bug(n))).await.downcast_ref(),
            Some(&Bug(7)),
            "the payload: `None` is another type than `Bug`"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_cancels_the_token_even_if_wait_is_not_yet_called() {
        let mut group = group();
        group.spawn(async { panic_any(Bug(1)) });
        sleep(Duration::from_millis(1)).await;
        assert!(
            group.token().is_cancelled(),
            "expected the token to be cancelled 1 ms after a task panicked, \
             before `wait` is called"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn wait_raises_one_of_the_panics_even_if_other_tasks_failed() {
        let endings = [ReturnsOk, Fails, Panics];
        compare_with_model(&endings, &[1, 2, 3, 4, 17], 40).await;
    }
}

mod drops {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn dropping_the_group_or_the_future_of_wait_ends_its_tasks() {
        // How the short task ends. `None`: the token is cancelled, too.
        let events = [Some(ReturnsOk), Some(Fails), Some(Panics), None];
        // The group, or the future of `wait`, is dropped before its tasks have
        // started, and after 0, 1 and 2 of the long tasks have ended.
        for (event, case) in
            events.into_iter().flat_map(|event| (0..8).map(move |n| (event, n)))
        {
            let (alive, ends) = (alive_tasks(), Ledger::default());
            let mut group = group();
            let token = group.token();
            for n in [0, 1, 2, 3600] {
                let end = ends.value();
                group.spawn(async move {
                    let _end = end;
                    if n == 0 {
                        return end_with(event.unwrap_or(ReturnsOk), 0);
                    }
                    sleep(seconds(n)).await;
                    Ok(())
                });
            }
            if event.is_none() {
                token.cancel();
            }
            let owner = async move {
                // In an even case, `wait` is not called.
                if case % 2 == 0 {
                    pending::<()>().await;
                }
                group.wait().await
            };
            let ended = match case / 2 {
                0 => owner.now_or_never(),
                n => timeout(seconds(n) - seconds(1) / 2, owner).await.ok(),
            };
            assert_eq!(ended, None, "expected `wait` to be pending");
            assert!(
                token.is_cancelled(),
                "the token is not cancelled after the drop"
            );
            sleep(Duration::from_millis(1)).await;
            assert_eq!(
                (ends.left(), alive_tasks()),
                (0, alive),
                "tasks of the group that had not ended 1 ms after the drop, \
                 and tasks of the runtime: expected as many as before the \
                 group; the short task: {event:?}"
            );
        }
    }

    #[test]
    fn the_group_and_wait_may_be_dropped_outside_of_the_runtime() {
        // The group, and the future of `wait` before and after its first poll.
        for case in 0..3 {
            let left = with_deadline("the drop of a busy task", move || {
                let runtime =
                    Builder::new_current_thread().enable_all().build().unwrap();
                let ends = Ledger::default();
                let end = ends.value();
                let owner = runtime.block_on(async {
                    let mut group = group();
                    group.spawn(async move {
                        let _end = end;
                        // It yields only because it uses up tokio's budget.
                        loop {
                            consume_budget().await;
                        }
                    });
                    yield_now().await;
                    if case == 0 {
                        return Either::Left(group);
                    }
                    let mut wait = Box::pin(group.wait());
                    if case == 2 {
                        assert_eq!((&mut wait).now_or_never(), None);
                    }
                    Either::Right(wait)
                });
                drop(owner);
                runtime.block_on(async {
                    for _ in 0..100 {
                        yield_now().await;
                    }
                });
                ends.left()
            });
            assert_eq!(
                left, 0,
                "tasks that had not ended after the group or the future of \
                 `wait` was dropped outside of the runtime"
            );
        }
    }
}
