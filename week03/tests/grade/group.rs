use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use week03::group::Group;

/// Creates a group that no other token can cancel.
fn group() -> Group<&'static str> {
    Group::new(&CancellationToken::new())
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A timeout that no correct answer reaches. The clock is paused, so it costs
/// no real time.
const TOO_LONG: Duration = seconds(3600);

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

mod joins {
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
    async fn wait_returns_when_the_last_task_has_ended() {
        let (mut group, ends, start) =
            (group(), Ends::default(), Instant::now());
        for n in [2, 5, 1] {
            let end = ends.one();
            group.spawn(async move {
                let _end = end;
                sleep(seconds(n)).await;
                Ok(())
            });
        }
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(
            ended,
            Ok(Ok(())),
            "expected `Ok`: three tasks returned `Ok`"
        );
        assert_eq!(
            ends.count(),
            3,
            "tasks that had ended when `wait` returned"
        );
        assert_eq!(
            start.elapsed(),
            seconds(5),
            "time until `wait` returned: the longest task takes 5 s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_returns_ok_does_not_cancel_the_others() {
        let mut group = group();
        let token = group.token();
        group.spawn(ready(Ok(())));
        group.spawn(async move {
            sleep(seconds(1)).await;
            match token.is_cancelled() {
                true => Err(
                    "the token is cancelled after another task returned `Ok`",
                ),
                false => Ok(()),
            }
        });
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Ok(())), "expected both tasks to return `Ok`");
    }

    #[tokio::test(start_paused = true)]
    async fn the_group_token_is_already_cancelled_when_wait_returns() {
        let mut group = group();
        let token = group.token();
        group.spawn(ready(Ok(())));
        assert!(
            !token.is_cancelled(),
            "the token is cancelled before any task has ended"
        );
        let _ = timeout(TOO_LONG, group.wait()).await;
        assert!(
            token.is_cancelled(),
            "the token is not cancelled after `wait` has returned"
        );
    }
}

mod errors {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_returns_the_earliest_error_whatever_the_spawn_order() {
        for order in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
            let mut group = group();
            for n in order {
                group.spawn(async move {
                    sleep(seconds(n)).await;
                    Err(["", "first", "second", "third"][n as usize])
                });
            }
            let ended = timeout(TOO_LONG, group.wait()).await;
            assert_eq!(
                ended,
                Ok(Err("first")),
                "tasks that fail after {order:?} seconds, in spawn order"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_cancels_the_token_even_if_wait_is_not_yet_called() {
        let mut group = group();
        let token = group.token();
        group.spawn(async {
            sleep(seconds(1)).await;
            Err("broken")
        });
        group.spawn(pending());
        // `wait` is not called.
        let start = Instant::now();
        let cancelled = timeout(TOO_LONG, token.cancelled()).await;
        assert!(
            cancelled.is_ok(),
            "expected a failure to cancel the token before `wait` is called"
        );
        assert_eq!(
            start.elapsed(),
            seconds(1),
            "time until the token was cancelled: the task fails after 1 s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn wait_returns_an_error_only_after_all_tasks_have_ended() {
        let (mut group, ends, start) =
            (group(), Ends::default(), Instant::now());
        let (token, end) = (group.token(), ends.one());
        group.spawn(async move {
            let _end = end;
            token.cancelled().await;
            sleep(seconds(4)).await; // to finish its work
            Ok(())
        });
        group.spawn(ready(Err("broken")));
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Err("broken")), "expected the first error");
        assert_eq!(
            ends.count(),
            1,
            "other tasks that had ended when `wait` finished"
        );
        assert_eq!(
            start.elapsed(),
            seconds(4),
            "time until `wait` finished: the other task takes 4 s to end"
        );
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

    #[test]
    fn an_error_is_recorded_before_the_token_is_cancelled() {
        // Two threads. The first cancels the token, and a waker holds it there.
        // Meanwhile the second thread's task sees the cancellation, fails, and
        // records its error. When the second thread parks, it releases the
        // first.
        let follower = Arc::new(OnceLock::new());
        let (release, released) = mpsc::channel();
        let on_park = {
            let follower = Arc::clone(&follower);
            move || {
                if follower.get() == Some(&thread::current().id()) {
                    let _ = release.send(());
                }
            }
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_park(on_park)
            .build()
            .expect("a runtime");
        let _entered = runtime.enter();
        let mut group = group();
        let mut cancellation = Box::pin(group.token().cancelled_owned());
        let (cancel, cancelled) = mpsc::channel();
        let waker = Waker::from(Arc::new(HoldCanceller {
            cancel,
            released: released.into(),
        }));
        let polled =
            cancellation.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(
            polled.is_pending(),
            "the token of a new group is already cancelled"
        );
        let (begin, begun) = mpsc::channel();
        group.spawn(FailWhenCancelled { begin, cancelled, follower });
        // The first task occupies its thread before the second one starts.
        let _ = begun.recv_timeout(PATIENCE);
        group.spawn(async { Err("broken") });
        assert_eq!(
            runtime.block_on(group.wait()),
            Err("broken"),
            "expected the error that cancelled the token"
        );
    }

    /// Far longer than one thread needs to signal another.
    const PATIENCE: Duration = seconds(3);

    /// A waker that runs inside the call that cancels the token. It returns
    /// when the other task's error has been recorded, or after 1 s: an answer
    /// that cancels under a lock lets no other error be recorded meanwhile.
    struct HoldCanceller {
        cancel: mpsc::Sender<()>,
        released: Mutex<mpsc::Receiver<()>>,
    }

    impl Wake for HoldCanceller {
        fn wake(self: Arc<Self>) {
            // This fails if the other task has already ended.
            let _ = self.cancel.send(());
            let _ = self.released.lock().unwrap().recv_timeout(seconds(1));
        }
    }

    /// A task that blocks its thread and fails as soon as the token is
    /// cancelled.
    struct FailWhenCancelled {
        begin: mpsc::Sender<()>,
        cancelled: mpsc::Receiver<()>,
        /// The thread on which this task fails.
        follower: Arc<OnceLock<ThreadId>>,
    }

    impl Future for FailWhenCancelled {
        type Output = Result<(), &'static str>;

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Self::Output> {
            let _ = self.begin.send(());
            let cancelled = self.cancelled.recv_timeout(PATIENCE);
            let _ = self.follower.set(thread::current().id());
            match cancelled {
                Ok(()) => {
                    Poll::Ready(Err("failed because the token was cancelled"))
                }
                Err(_) => {
                    Poll::Ready(Err("the token was not cancelled in 3 s"))
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_spawned_after_a_failure_runs_and_is_waited_for() {
        let (mut group, ends) = (group(), Ends::default());
        group.spawn(ready(Err("broken")));
        let cancelled = timeout(TOO_LONG, group.token().cancelled()).await;
        assert!(
            cancelled.is_ok(),
            "expected a failure to cancel the token before `wait` is called"
        );
        let end = ends.one();
        group.spawn(async move {
            sleep(seconds(1)).await; // to clean up
            drop(end);
            Err("too late")
        });
        let start = Instant::now();
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Err("broken")), "expected the first error");
        assert_eq!(
            ends.count(),
            1,
            "tasks that had ended when `wait` returned"
        );
        assert_eq!(
            start.elapsed(),
            seconds(1),
            "time until `wait` returned: the late task takes 1 s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_parent_cancels_the_group_without_an_error() {
        for already_cancelled in [false, true] {
            let parent = CancellationToken::new();
            if already_cancelled {
                parent.cancel();
            }
            let mut group = Group::<&str>::new(&parent);
            let token = group.token();
            group.spawn(async move {
                token.cancelled().await;
                Ok(())
            });
            parent.cancel();
            let ended = timeout(TOO_LONG, group.wait()).await;
            assert_eq!(
                ended,
                Ok(Ok(())),
                "expected `Ok`: the parent was cancelled, and no task failed"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn wait_returns_an_error_that_occurs_after_the_parent_was_cancelled()
    {
        let parent = CancellationToken::new();
        let mut group = Group::new(&parent);
        let token = group.token();
        group.spawn(async move {
            token.cancelled().await;
            sleep(seconds(1)).await; // to flush
            Err("the disk is full")
        });
        parent.cancel();
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(
            ended,
            Ok(Err("the disk is full")),
            "expected the error that the task returned after the cancellation"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_group_does_not_cancel_its_parent() {
        let parent = CancellationToken::new();
        let mut group = Group::new(&parent);
        group.spawn(ready(Err("broken")));
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Err("broken")), "expected the first error");
        assert!(
            !parent.is_cancelled(),
            "the parent is cancelled after a task of its group failed"
        );
    }
}

mod panics {
    use std::panic::panic_any;

    use tokio::task::LocalSet;

    use super::*;

    /// A payload that is not a string: `wait` must raise this very value.
    #[derive(Debug, PartialEq)]
    struct Bug(u32);

    #[derive(Debug, PartialEq)]
    enum Outcome {
        Returned(Result<(), &'static str>),
        Raised(Option<Bug>),
        Never,
    }

    /// Returns how `wait` ends.
    async fn outcome(group: Group<&'static str>) -> Outcome {
        let local = LocalSet::new();
        let wait = local.spawn_local(timeout(TOO_LONG, group.wait()));
        match local.run_until(wait).await {
            Ok(Ok(returned)) => Outcome::Returned(returned),
            Ok(Err(_elapsed)) => Outcome::Never,
            Err(raised) => {
                let payload = raised.into_panic().downcast();
                Outcome::Raised(payload.ok().map(|bug| *bug))
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn wait_raises_a_panic_again_with_the_same_payload() {
        let mut group = group();
        group.spawn(async { panic_any(Bug(7)) });
        assert_eq!(outcome(group).await, Outcome::Raised(Some(Bug(7))));
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
    async fn wait_raises_a_panic_only_after_all_tasks_have_ended() {
        let (mut group, ends, start) =
            (group(), Ends::default(), Instant::now());
        let end = ends.one();
        group.spawn(async move {
            let _end = end;
            sleep(seconds(4)).await; // ignores the token
            Ok(())
        });
        group.spawn(async { panic_any(Bug(1)) });
        assert_eq!(outcome(group).await, Outcome::Raised(Some(Bug(1))));
        assert_eq!(
            ends.count(),
            1,
            "other tasks that had ended when `wait` finished"
        );
        assert_eq!(
            start.elapsed(),
            seconds(4),
            "time until `wait` finished: the other task takes 4 s to end"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn wait_raises_the_panic_of_a_task_even_if_other_tasks_failed() {
        for panics_after in [1, 3] {
            let mut group = group();
            group.spawn(async {
                sleep(seconds(2)).await;
                Err("broken")
            });
            group.spawn(async move {
                sleep(seconds(panics_after)).await;
                panic_any(Bug(2))
            });
            assert_eq!(
                outcome(group).await,
                Outcome::Raised(Some(Bug(2))),
                "an error after 2 s, and a panic after {panics_after} s"
            );
        }
    }
}

mod drops {
    use super::*;

    /// Returns a group with one task, which has started and never ends by
    /// itself.
    async fn with_an_endless_task(ends: &Ends) -> Group<&'static str> {
        let (mut group, end) = (group(), ends.one());
        group.spawn(async move {
            let _end = end;
            pending().await
        });
        sleep(seconds(1)).await;
        group
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_group_cancels_the_token_and_ends_its_tasks() {
        let ends = Ends::default();
        let group = with_an_endless_task(&ends).await;
        let token = group.token();
        assert_eq!(ends.count(), 0, "tasks that had ended before the drop");
        drop(group);
        assert!(
            token.is_cancelled(),
            "the token is not cancelled after the drop"
        );
        sleep(seconds(1)).await;
        assert_eq!(ends.count(), 1, "tasks that had ended 1 s after the drop");
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_wait_future_cancels_the_token_and_ends_tasks() {
        let ends = Ends::default();
        let group = with_an_endless_task(&ends).await;
        let token = group.token();
        let ended = timeout(seconds(1), group.wait()).await;
        assert!(ended.is_err(), "expected `wait` to be pending: {ended:?}");
        assert!(
            token.is_cancelled(),
            "the token is not cancelled after the drop"
        );
        sleep(seconds(1)).await;
        assert_eq!(ends.count(), 1, "tasks that had ended 1 s after the drop");
    }
}
