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

/// A group of its own, of tasks that fail with a word.
fn group() -> Group<&'static str> {
    Group::new(&CancellationToken::new())
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Longer than any test, and shorter than for ever.
const TOO_LONG: Duration = seconds(3600);

/// Counts what is dropped, as everything in a task is when it ends.
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
    async fn a_group_without_tasks_has_ended_well() {
        let ended = timeout(TOO_LONG, group().wait()).await;
        assert_eq!(ended, Ok(Ok(())), "Err(Elapsed): it waits for ever");
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
        assert_eq!(ended, Ok(Ok(())), "three tasks that end well");
        assert_eq!(ends.count(), 3, "tasks that had ended by then");
        assert_eq!(start.elapsed(), seconds(5), "the longest takes 5 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_well_stops_nobody() {
        let mut group = group();
        let token = group.token();
        group.spawn(ready(Ok(())));
        group.spawn(async move {
            sleep(seconds(1)).await;
            match token.is_cancelled() {
                true => Err("cancelled by a success"),
                false => Ok(()),
            }
        });
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Ok(())), "the other one ran on for 1 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_has_ended_is_cancelled() {
        let mut group = group();
        let token = group.token();
        group.spawn(ready(Ok(())));
        assert!(!token.is_cancelled(), "before anything has happened");
        let _ = timeout(TOO_LONG, group.wait()).await;
        assert!(token.is_cancelled(), "after the wait");
    }
}

mod errors {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_error_in_time_is_the_groups() {
        for order in [[1, 2, 3], [3, 1, 2], [2, 3, 1]] {
            let mut group = group();
            for n in order {
                group.spawn(async move {
                    sleep(seconds(n)).await;
                    Err(["", "first", "second", "third"][n as usize])
                });
            }
            let ended = timeout(TOO_LONG, group.wait()).await;
            assert_eq!(ended, Ok(Err("first")), "spawned in order {order:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_to_the_others_at_once() {
        let mut group = group();
        let token = group.token();
        group.spawn(async {
            sleep(seconds(1)).await;
            Err("broken")
        });
        group.spawn(pending());
        // Nobody waits for the group yet.
        let start = Instant::now();
        let told = timeout(TOO_LONG, token.cancelled()).await;
        assert!(told.is_ok(), "the token is not cancelled before `wait`");
        assert_eq!(start.elapsed(), seconds(1), "the failure comes after 1 s");
    }

    #[tokio::test(start_paused = true)]
    async fn wait_returns_an_error_when_the_others_have_ended() {
        let (mut group, ends, start) =
            (group(), Ends::default(), Instant::now());
        let (token, end) = (group.token(), ends.one());
        group.spawn(async move {
            let _end = end;
            token.cancelled().await;
            sleep(seconds(4)).await; // to finish what it was doing
            Ok(())
        });
        group.spawn(ready(Err("broken")));
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Err("broken")));
        assert_eq!(ends.count(), 1, "the other one had ended by then");
        assert_eq!(start.elapsed(), seconds(4), "it takes 4 s to end");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_others_fail_with_then_is_not_the_groups() {
        let mut group = group();
        for _ in 0..3 {
            let token = group.token();
            group.spawn(async move {
                token.cancelled().await;
                Err("was told to stop")
            });
        }
        group.spawn(async {
            sleep(seconds(1)).await;
            Err("broken")
        });
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Err("broken")));
    }

    #[test]
    fn an_error_is_kept_before_the_others_are_told() {
        // Two threads: one tells, and is kept in it until the other one, which
        // was told and has failed, has nothing left to do.
        let told_on = Arc::new(OnceLock::new());
        let (leave, gone) = mpsc::channel();
        let leaves = {
            let told_on = Arc::clone(&told_on);
            move || {
                if told_on.get() == Some(&thread::current().id()) {
                    let _ = leave.send(());
                }
            }
        };
        let threads = Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_park(leaves)
            .build()
            .expect("a runtime");
        let _on_them = threads.enter();
        let mut group = group();
        let mut cancelled = Box::pin(group.token().cancelled_owned());
        let (tell, told) = mpsc::channel();
        let telling =
            Waker::from(Arc::new(Telling { tell, gone: gone.into() }));
        let polled =
            cancelled.as_mut().poll(&mut Context::from_waker(&telling));
        assert!(polled.is_pending(), "the token of a new group is cancelled");
        let (begin, begun) = mpsc::channel();
        group.spawn(Told { begin, told, told_on });
        // So that it has a thread before the other one needs one.
        let _ = begun.recv_timeout(PATIENCE);
        group.spawn(async { Err("broken") });
        assert_eq!(threads.block_on(group.wait()), Err("broken"));
    }

    /// Far longer than a thread needs to be heard.
    const PATIENCE: Duration = seconds(3);

    /// Is woken where the token is cancelled, and returns when what the other
    /// task has failed with is wherever it is kept. Or after a while: whoever
    /// tells under a lock lets nothing be kept before.
    struct Telling {
        tell: mpsc::Sender<()>,
        gone: Mutex<mpsc::Receiver<()>>,
    }

    impl Wake for Telling {
        fn wake(self: Arc<Self>) {
            // It fails where that task has ended before.
            let _ = self.tell.send(());
            let _ = self.gone.lock().unwrap().recv_timeout(seconds(1));
        }
    }

    /// Fails as soon as it is told, on a thread of its own.
    struct Told {
        begin: mpsc::Sender<()>,
        told: mpsc::Receiver<()>,
        /// The thread that it fails on.
        told_on: Arc<OnceLock<ThreadId>>,
    }

    impl Future for Told {
        type Output = Result<(), &'static str>;

        fn poll(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Self::Output> {
            let _ = self.begin.send(());
            let told = self.told.recv_timeout(PATIENCE);
            let _ = self.told_on.set(thread::current().id());
            match told {
                Ok(()) => Poll::Ready(Err("was told to stop")),
                Err(_) => Poll::Ready(Err("was not told to stop")),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_started_after_a_failure_runs_all_the_same() {
        let (mut group, ends) = (group(), Ends::default());
        group.spawn(ready(Err("broken")));
        let told = timeout(TOO_LONG, group.token().cancelled()).await;
        assert!(told.is_ok(), "the token is not cancelled before `wait`");
        let end = ends.one();
        group.spawn(async move {
            sleep(seconds(1)).await; // to say goodbye
            drop(end);
            Err("too late")
        });
        let start = Instant::now();
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Err("broken")));
        assert_eq!(ends.count(), 1, "tasks that had ended by then");
        assert_eq!(start.elapsed(), seconds(1), "it takes 1 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_hears_its_parent() {
        for is_late in [false, true] {
            let parent = CancellationToken::new();
            if is_late {
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
            assert_eq!(ended, Ok(Ok(())), "to be told to stop is no failure");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_after_the_parent_is_cancelled_has_failed() {
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
        assert_eq!(ended, Ok(Err("the disk is full")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_parent_hears_nothing_of_its_group() {
        let parent = CancellationToken::new();
        let mut group = Group::new(&parent);
        group.spawn(ready(Err("broken")));
        let ended = timeout(TOO_LONG, group.wait()).await;
        assert_eq!(ended, Ok(Err("broken")));
        assert!(!parent.is_cancelled(), "whoever has it goes on");
    }
}

mod panics {
    use std::panic::panic_any;

    use tokio::task::LocalSet;

    use super::*;

    /// More than a text: it has to come back as it is.
    #[derive(Debug, PartialEq)]
    struct Bug(u32);

    #[derive(Debug, PartialEq)]
    enum Ended {
        Returned(Result<(), &'static str>),
        Raised(Option<Bug>),
        Never,
    }

    /// What becomes of `wait`.
    async fn ended(group: Group<&'static str>) -> Ended {
        let local = LocalSet::new();
        let wait = local.spawn_local(timeout(TOO_LONG, group.wait()));
        match local.run_until(wait).await {
            Ok(Ok(returned)) => Ended::Returned(returned),
            Ok(Err(_elapsed)) => Ended::Never,
            Err(raised) => {
                let payload = raised.into_panic().downcast();
                Ended::Raised(payload.ok().map(|bug| *bug))
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_raised_again_from_wait() {
        let mut group = group();
        group.spawn(async { panic_any(Bug(7)) });
        assert_eq!(ended(group).await, Ended::Raised(Some(Bug(7))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_told_to_the_others_at_once() {
        let (mut group, start) = (group(), Instant::now());
        let token = group.token();
        group.spawn(async {
            sleep(seconds(1)).await;
            panic_any(Bug(1))
        });
        group.spawn(pending());
        // Nobody waits for the group yet.
        let told = timeout(TOO_LONG, token.cancelled()).await;
        assert!(told.is_ok(), "the token is not cancelled before `wait`");
        assert_eq!(start.elapsed(), seconds(1), "the panic comes after 1 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_raised_when_the_others_have_ended() {
        let (mut group, ends, start) =
            (group(), Ends::default(), Instant::now());
        let end = ends.one();
        group.spawn(async move {
            let _end = end;
            sleep(seconds(4)).await; // and looks at no token
            Ok(())
        });
        group.spawn(async { panic_any(Bug(1)) });
        assert_eq!(ended(group).await, Ended::Raised(Some(Bug(1))));
        assert_eq!(ends.count(), 1, "the other one had ended by then");
        assert_eq!(start.elapsed(), seconds(4), "it takes 4 s to end");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_does_not_hide_a_panic() {
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
                ended(group).await,
                Ended::Raised(Some(Bug(2))),
                "an error after 2 s, and a panic after {panics_after} s"
            );
        }
    }
}

mod drops {
    use super::*;

    /// A group with a task that has begun and looks at no token.
    async fn of_one_for_ever(ends: &Ends) -> Group<&'static str> {
        let (mut group, end) = (group(), ends.one());
        group.spawn(async move {
            let _end = end;
            pending().await
        });
        sleep(seconds(1)).await;
        group
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_dropped_leaves_nothing() {
        let ends = Ends::default();
        let group = of_one_for_ever(&ends).await;
        let token = group.token();
        assert_eq!(ends.count(), 0, "it runs for ever");
        drop(group);
        assert!(token.is_cancelled(), "what cannot be aborted is not told");
        sleep(seconds(1)).await;
        assert_eq!(ends.count(), 1, "tasks that have ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_leaves_nothing() {
        let ends = Ends::default();
        let group = of_one_for_ever(&ends).await;
        let token = group.token();
        let ended = timeout(seconds(1), group.wait()).await;
        assert!(ended.is_err(), "there is nothing to return: {ended:?}");
        assert!(token.is_cancelled(), "what cannot be aborted is not told");
        sleep(seconds(1)).await;
        assert_eq!(ends.count(), 1, "tasks that have ended");
    }
}
