use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::{Builder, Handle};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use week03::group::Group;

use crate::common::Random;

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

/// Far longer than one thread needs to signal another.
const PATIENCE: Duration = seconds(3);

/// Counts the [`End`]s that have been dropped: a task drops its own when it
/// ends.
#[derive(Clone, Default)]
struct Ends(Arc<AtomicUsize>);

struct End(Ends);

impl Ends {
    fn one(&self) -> End {
        End(self.clone())
    }

    fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Relaxed);
    }
}

/// A panic payload that is no string. `wait` must raise this very value.
struct Bug(usize);

/// How `wait` ends.
#[derive(Debug, PartialEq)]
enum Outcome {
    Returned(Result<(), &'static str>),
    /// The number of the `Bug`, or `None` for another payload.
    Raised(Option<usize>),
    Never,
}

async fn outcome(group: Group<&'static str>) -> Outcome {
    let wait = timeout(TOO_LONG, group.wait());
    let mut wait = Box::pin(AssertUnwindSafe(wait).catch_unwind());
    // The waker may be another one at each poll.
    let mut context = Context::from_waker(Waker::noop());
    let ended = match wait.as_mut().poll(&mut context) {
        Poll::Ready(ended) => ended,
        Poll::Pending => wait.await,
    };
    match ended {
        Ok(Ok(returned)) => Outcome::Returned(returned),
        Ok(Err(_elapsed)) => Outcome::Never,
        Err(payload) => {
            Outcome::Raised(payload.downcast().ok().map(|bug: Box<Bug>| bug.0))
        }
    }
}

/// What a task of a generated run does at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    ReturnsOk,
    Fails,
    Panics,
}
use Ending::*;

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
    // In half of the runs, many tasks end before the last one is spawned.
    let spawn_end = longest / [1, 10][random.below(2)];
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
        let mut times: Vec<_> = ends
            .iter()
            .flat_map(|(end, task)| [*end, task.spawned_at])
            .chain(cancellation)
            .collect();
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
        let (parent, ends) = (CancellationToken::new(), Ends::default());
        let mut group = Group::new(&parent);
        let watched = group.token();
        let watcher = tokio::spawn(async move {
            watched.cancelled().await;
            start.elapsed()
        });
        if let Some((when, by_parent)) = run.cancelled_at {
            let token = if by_parent { parent.clone() } else { group.token() };
            tokio::spawn(sleep_until(at(when)).map(move |()| token.cancel()));
        }
        for task in &run.tasks {
            sleep_until(at(task.spawned_at)).await;
            let (task, token) = (task.clone(), group.token());
            let end = ends.one();
            let work = async move {
                let _end = end;
                if task.is_cooperative {
                    token.cancelled().await;
                    sleep(Duration::from_millis(task.lasts)).await;
                } else {
                    sleep_until(at(task.spawned_at + task.lasts)).await;
                }
                let number = task.number;
                match task.ending {
                    Fails => Err(error(number)),
                    Panics => panic_any(Bug(number)),
                    ReturnsOk => Ok(()),
                }
            };
            group.spawn(work);
        }
        sleep_until(at(run.wait_called_at)).await;
        let token = group.token();
        let outcome = outcome(group).await;
        assert!(
            token.is_cancelled(),
            "the token is not cancelled after `wait` has finished, in the run \
             {shown}"
        );
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
            "ms until `wait` finished, in the run {shown}"
        );
        assert_eq!(
            ends.count(),
            size,
            "tasks that had ended when `wait` finished, in the run {shown}"
        );
        let cancelled = timeout(TOO_LONG, watcher).await.unwrap().unwrap();
        assert_eq!(
            cancelled.as_millis() as u64,
            expected.cancelled_at,
            "ms until the token was cancelled, in the run {shown}"
        );
        // The task that cancels may be later than the end of the group.
        sleep(TOO_LONG).await;
        assert_eq!(
            parent.is_cancelled(),
            matches!(run.cancelled_at, Some((_, true))),
            "the parent is cancelled: seen and expected, in the run {shown}"
        );
        assert_eq!(
            alive_tasks(),
            alive,
            "tasks of the runtime after the group has ended: expected as many \
             as before the group, in the run {shown}"
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
    async fn wait_on_an_empty_group_returns_ok_at_once() {
        let ended = timeout(TOO_LONG, group().wait()).await;
        assert_eq!(
            ended,
            Ok(Ok(())),
            "expected `wait` to return at once without tasks"
        );
    }

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
            match self.ending {
                Fails => Poll::Ready(Err("broken")),
                Panics => panic!("on purpose"),
                ReturnsOk => Poll::Ready(Ok(())),
            }
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

    #[tokio::test]
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
            let ended = timeout(PATIENCE, ended).await;
            assert!(
                ended.is_ok(),
                "`wait` has not finished in {PATIENCE:?} after the task had \
                 ended; the task: {ending:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_future_of_wait_is_send() {
        let wait = group().wait();
        #[allow(clippy::needless_borrow, reason = "chooses the trait")]
        let is_send = (&IsSend(&wait)).is_send();
        assert!(
            is_send,
            "expected the future of `wait` to be `Send`: a task of another \
             group may await it"
        );
    }

    /// Decides at run time, so that a future that is not `Send` fails this
    /// test, and not the compilation of all tests.
    #[allow(dead_code, reason = "only its type is used")]
    struct IsSend<'a, T>(&'a T);

    trait Sendable {
        fn is_send(&self) -> bool {
            true
        }
    }

    #[allow(dead_code, reason = "used if the future is not `Send`")]
    trait NotSendable {
        fn is_send(&self) -> bool {
            false
        }
    }

    impl<T: Send> Sendable for IsSend<'_, T> {}

    impl<T> NotSendable for &IsSend<'_, T> {}
}

mod errors {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_returns_the_earliest_error_after_all_tasks_have_ended() {
        compare_with_model(&[ReturnsOk, Fails], &[1, 2, 3, 4, 17], 40).await;
        compare_with_model(&[Fails], &[130, 1500], 1).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_caused_by_the_first_failure_is_not_returned() {
        let mut group = group();
        for _ in 0..3 {
            let token = group.token();
            group.spawn(async move {
                token.cancelled().await;
                Err("failed because the token was cancelled")
            });
        }
        group.spawn(async {
            sleep(seconds(1)).await;
            Err("broken")
        });
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Err("broken")), "expected the first error");
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
            let ended = timeout(TOO_LONG, group.wait()).await;
            assert_eq!(
                ended,
                Ok(Err("failed after the cancellation")),
                "expected a task that is spawned after the cancellation to run"
            );
        }
    }
}

mod panics {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_raises_a_panic_again_with_the_same_payload() {
        let mut group = group();
        group.spawn(async { panic_any(Bug(7)) });
        assert_eq!(outcome(group).await, Outcome::Raised(Some(7)));
        let mut group = self::group();
        group.spawn(async { panic!("on purpose") });
        let ended = AssertUnwindSafe(group.wait()).catch_unwind().await;
        let payload = ended.expect_err("`wait` must raise the panic again");
        assert_eq!(
            payload.downcast_ref(),
            Some(&"on purpose"),
            "the payload: `None` is another type than `&str`"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_cancels_the_token_even_if_wait_is_not_yet_called() {
        let (mut group, start) = (group(), Instant::now());
        let token = group.token();
        group.spawn(async {
            sleep(seconds(1)).await;
            panic_any(Bug(1))
        });
        group.spawn(pending());
        // `wait` is not called.
        let cancelled = timeout(TOO_LONG, token.cancelled()).await;
        assert!(
            cancelled.is_ok(),
            "expected a failure to cancel the token before `wait` is called"
        );
        assert_eq!(
            start.elapsed(),
            seconds(1),
            "time until the token was cancelled: the task panics after 1 s"
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
        // The group is dropped, before and after its tasks have started. Then
        // the future of `wait`, before its first poll and after a longer and
        // longer time: in each second, one more task has ended. Then the same
        // with a token that is already cancelled.
        for case in 0..12 {
            let (alive, ends) = (alive_tasks(), Ends::default());
            let mut group = group();
            let token = group.token();
            for n in [1, 2, 3600] {
                let end = ends.one();
                group.spawn(async move {
                    let _end = end;
                    sleep(seconds(n)).await;
                    Ok(())
                });
            }
            if case >= 6 {
                token.cancel();
            }
            match case % 6 {
                0 => drop(group),
                1 => {
                    sleep(Duration::from_millis(500)).await;
                    drop(group);
                }
                2 => drop(group.wait()),
                case => {
                    let time = seconds(case - 2) - Duration::from_millis(500);
                    let ended = timeout(time, group.wait()).await;
                    assert!(
                        ended.is_err(),
                        "expected `wait` to be pending: {ended:?}"
                    );
                }
            }
            assert!(
                token.is_cancelled(),
                "the token is not cancelled after the drop"
            );
            sleep(Duration::from_millis(1)).await;
            assert_eq!(
                (ends.count(), alive_tasks()),
                (3, alive),
                "tasks of the group that had ended 1 ms after the drop, and \
                 tasks of the runtime: expected as many as before the group"
            );
        }
    }

    #[test]
    fn a_group_may_be_dropped_outside_of_its_runtime() {
        let runtime = Builder::new_current_thread().enable_all().build();
        let (runtime, ends) = (runtime.unwrap(), Ends::default());
        let end = ends.one();
        drop(runtime.block_on(async {
            let mut group = group();
            group.spawn(async move {
                let _end = end;
                pending().await
            });
            yield_now().await;
            group
        }));
        runtime.block_on(async { sleep(Duration::from_millis(1)).await });
        assert_eq!(
            ends.count(),
            1,
            "tasks that had ended 1 ms after the group was dropped outside of \
             its runtime"
        );
    }
}
