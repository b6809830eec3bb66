use std::future::{pending, ready};
use std::num::NonZero;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Barrier, oneshot};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use week03::limit::{Group, Refused, Spawner};

/// The longest wait for an event that must happen. The clock is paused: when no
/// task can run, the deadline passes at once.
const DEADLINE: Duration = Duration::from_secs(5);

fn group(limit: usize) -> Group<&'static str> {
    let limit = NonZero::new(limit).expect("a limit is not 0");
    Group::new(&CancellationToken::new(), limit)
}

/// Runs all tasks until none can make progress.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

/// Returns the output of `future`, or panics after the deadline.
async fn with_deadline<T>(
    operation: &str,
    future: impl Future<Output = T>,
) -> T {
    match timeout(DEADLINE, future).await {
        Ok(result) => result,
        Err(_) => panic!("{operation} has not completed in {DEADLINE:?}"),
    }
}

/// Counts the tasks that run now, and the most that ran at a time.
#[derive(Clone, Default)]
struct Work {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Work {
    fn begin(&self) -> Running {
        let running = self.running.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(running, Relaxed);
        Running(Arc::clone(&self.running))
    }

    /// Returns a task that runs until the sender is used or dropped.
    fn task(
        &self,
    ) -> (
        oneshot::Sender<()>,
        impl Future<Output = Result<(), &'static str>> + use<>,
    ) {
        let (finish, finished) = oneshot::channel();
        let work = self.clone();
        let task = async move {
            let _running = work.begin();
            let _ = finished.await;
            Ok(())
        };
        (finish, task)
    }

    fn running(&self) -> usize {
        self.running.load(Relaxed)
    }
}

/// Calls `spawn` on a task of its own, whose handle returns the result.
fn spawn_in_background<F>(
    spawner: &Spawner<&'static str>,
    task: F,
) -> JoinHandle<Result<(), Refused<F>>>
where
    F: Future<Output = Result<(), &'static str>> + Send + 'static,
{
    let spawner = spawner.clone();
    tokio::spawn(async move { spawner.spawn(task).await })
}

/// Spawns `task`, and fails if the group refuses it.
async fn spawn_accepted<F>(spawner: &Spawner<&'static str>, task: F)
where
    F: Future<Output = Result<(), &'static str>> + Send + 'static,
{
    let spawned =
        with_deadline("`spawn` with a free slot", spawner.spawn(task)).await;
    assert!(spawned.is_ok(), "expected `Ok` with a free slot, saw {spawned:?}");
}

mod bounds {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wait_returns_only_after_all_tasks_have_ended() {
        let (group, work) = (group(3), Work::default());
        let spawner = group.spawner();
        let tasks = [work.task(), work.task()];
        let tasks = tasks.map(|(finish, task)| {
            (finish, spawn_in_background(&spawner, task))
        });
        settle().await;
        assert_eq!(
            work.running(),
            2,
            "running tasks, of the two that were spawned"
        );
        let mut wait = tokio::spawn(group.wait());
        settle().await;
        assert!(!wait.is_finished(), "`wait` has returned while two tasks run");
        for (finish, spawned) in tasks {
            let spawned = spawned.await.unwrap();
            assert!(
                spawned.is_ok(),
                "expected `Ok` with a free slot, saw {spawned:?}"
            );
            finish.send(()).unwrap();
        }
        assert_eq!(with_deadline("`wait`", &mut wait).await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_running_tasks_never_exceeds_the_limit() {
        let (group, work) = (group(3), Work::default());
        let spawner = group.spawner();
        for _ in 0..20 {
            let work = work.clone();
            let task = async move {
                let _running = work.begin();
                settle().await;
                Ok(())
            };
            let spawned = with_deadline("`spawn`", spawner.spawn(task)).await;
            assert!(
                spawned.is_ok(),
                "expected `Ok` with a slot, saw {spawned:?}"
            );
        }
        assert_eq!(with_deadline("`wait`", group.wait()).await, Ok(()));
        let most = work.most.load(Relaxed);
        assert_eq!(most, 3, "the most tasks at a time, with a limit of 3");
    }

    #[tokio::test(start_paused = true)]
    async fn spawn_at_the_limit_waits_for_a_free_slot() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (finish, task) = work.task();
        spawn_accepted(&spawner, task).await;
        let (_finish, second) = work.task();
        let waiting = spawn_in_background(&spawner, second);
        settle().await;
        assert!(
            !waiting.is_finished(),
            "`spawn` has returned with no free slot"
        );
        assert_eq!(work.running(), 1, "running tasks, with a limit of 1");
        finish.send(()).unwrap();
        let spawned =
            with_deadline("`spawn` with a free slot", waiting).await.unwrap();
        assert!(
            spawned.is_ok(),
            "expected `Ok` with a free slot, saw {spawned:?}"
        );
        settle().await;
        assert_eq!(work.running(), 1, "running tasks, with a limit of 1");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_spawns_get_a_slot_in_order_of_arrival() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (finish, task) = work.task();
        spawn_accepted(&spawner, task).await;
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        for number in 0..5 {
            let order = Arc::clone(&order);
            spawn_in_background(&spawner, async move {
                order.lock().unwrap().push(number);
                Ok(())
            });
            settle().await;
        }
        finish.send(()).unwrap();
        settle().await;
        assert_eq!(
            *order.lock().unwrap(),
            [0, 1, 2, 3, 4],
            "order of the starts"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn try_spawn_at_the_limit_fails_as_full_and_gives_the_task_back() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (_finish, task) = work.task();
        let spawned = spawner.try_spawn(task);
        assert!(
            spawned.is_ok(),
            "expected `Ok` with a free slot, saw {spawned:?}"
        );
        match spawner.try_spawn(async { Err("ran") }) {
            Err(Refused::Full(task)) => {
                assert_eq!(
                    task.await,
                    Err("ran"),
                    "output of the refused task"
                );
            }
            other => panic!("expected `Full` with no free slot, saw {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_error_cancels_the_group_and_is_returned_by_wait() {
        let parent = CancellationToken::new();
        let two = NonZero::new(2).unwrap();
        let group = Group::<&str>::new(&parent, two);
        let (spawner, token) = (group.spawner(), group.token());
        spawn_accepted(&spawner, {
            let token = group.token();
            async move {
                token.cancelled().await;
                Err("cancelled")
            }
        })
        .await;
        assert!(!token.is_cancelled(), "cancelled before a task has failed");
        spawn_accepted(&spawner, ready(Err("first"))).await;
        with_deadline("the cancellation after an error", token.cancelled())
            .await;
        assert_eq!(with_deadline("`wait`", group.wait()).await, Err("first"));
        assert!(
            !parent.is_cancelled(),
            "a failed task has cancelled the parent"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn wait_also_waits_for_tasks_that_members_spawn() {
        let (group, work) = (group(2), Work::default());
        let spawner = group.spawner();
        let (finish, task) = work.task();
        let (start, started) = oneshot::channel::<()>();
        spawn_accepted(&group.spawner(), async move {
            started.await.unwrap();
            let spawned = spawner.spawn(task).await;
            assert!(
                spawned.is_ok(),
                "expected `Ok` with a free slot, saw {spawned:?}"
            );
            Ok(())
        })
        .await;
        let mut wait = tokio::spawn(group.wait());
        settle().await;
        start.send(()).unwrap();
        settle().await;
        assert_eq!(work.running(), 1, "running tasks that the member spawned");
        assert!(!wait.is_finished(), "`wait` has returned while a task runs");
        finish.send(()).unwrap();
        assert_eq!(with_deadline("`wait`", &mut wait).await.unwrap(), Ok(()));
    }
}

mod releases {
    use super::*;

    /// Runs `task` in the only slot of `group`. Then checks that `try_spawn`
    /// gets the slot three times, even if `task` has cancelled the group.
    async fn assert_releases_its_slot<F>(group: &Group<&'static str>, task: F)
    where
        F: Future<Output = Result<(), &'static str>> + Send + 'static,
    {
        let spawner = group.spawner();
        spawn_accepted(&spawner, task).await;
        settle().await;
        for _ in 0..3 {
            let spawned = spawner.try_spawn(ready(Ok(())));
            assert!(
                spawned.is_ok(),
                "expected `Ok` with a free slot, saw {spawned:?}"
            );
            settle().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_returns_ok_releases_its_slot() {
        let group = group(1);
        assert_releases_its_slot(&group, ready(Ok(()))).await;
        assert_eq!(with_deadline("`wait`", group.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_releases_its_slot() {
        let group = group(1);
        assert_releases_its_slot(&group, ready(Err("failed"))).await;
        assert_eq!(with_deadline("`wait`", group.wait()).await, Err("failed"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_cancels_the_group_and_releases_its_slot() {
        let group = group(1);
        assert_releases_its_slot(&group, async { panic!("on purpose") }).await;
        let token = group.token();
        assert!(
            token.is_cancelled(),
            "the token is not cancelled after a panic"
        );
        let wait = AssertUnwindSafe(group.wait()).catch_unwind();
        let raised = with_deadline("`wait`", wait)
            .await
            .expect_err("expected `wait` to panic");
        assert_eq!(
            raised.downcast_ref(),
            Some(&"on purpose"),
            "payload of the panic"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn wait_raises_the_panic_of_a_task_even_if_other_tasks_failed() {
        let group = group(2);
        let spawner = group.spawner();
        spawn_accepted(&spawner, ready(Err("failed"))).await;
        settle().await;
        let spawned = spawner.try_spawn(async { panic!("on purpose") });
        assert!(
            spawned.is_ok(),
            "expected `Ok` with a free slot, saw {spawned:?}"
        );
        let wait = AssertUnwindSafe(group.wait()).catch_unwind();
        let raised = with_deadline("`wait`", wait)
            .await
            .expect_err("expected `wait` to panic");
        assert_eq!(
            raised.downcast_ref(),
            Some(&"on purpose"),
            "payload of the panic"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_spawn_dropped_while_it_waits_leaks_no_slot() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (finish, task) = work.task();
        spawn_accepted(&spawner, task).await;
        let dropped = spawn_in_background(&spawner, pending());
        let waiting = spawn_in_background(&spawner, ready(Ok(())));
        settle().await;
        dropped.abort();
        settle().await;
        finish.send(()).unwrap();
        let spawned =
            with_deadline("the next waiting `spawn`", waiting).await.unwrap();
        assert!(
            spawned.is_ok(),
            "expected `Ok` with a free slot, saw {spawned:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_spawn_dropped_after_a_slot_was_assigned_leaks_no_slot() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (finish, task) = work.task();
        spawn_accepted(&spawner, task).await;
        {
            let mut waiting = Box::pin(spawner.spawn(pending()));
            let mut context = std::task::Context::from_waker(Waker::noop());
            let polled = waiting.as_mut().poll(&mut context);
            assert!(
                matches!(polled, Poll::Pending),
                "`spawn` has returned with no free slot"
            );
            finish.send(()).unwrap();
            settle().await;
            // The slot is assigned to `waiting`, which is dropped before it is
            // polled again.
        }
        spawn_accepted(&spawner, ready(Ok(()))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_group_drops_its_tasks() {
        let (group, work) = (group(2), Work::default());
        let (spawner, token) = (group.spawner(), group.token());
        let (_finish, task) = work.task();
        spawn_accepted(&spawner, task).await;
        settle().await;
        assert_eq!(work.running(), 1, "running tasks before the drop");
        drop(group);
        settle().await;
        assert_eq!(
            work.running(),
            0,
            "running tasks after the drop of the group"
        );
        assert!(
            token.is_cancelled(),
            "the token is not cancelled after the drop"
        );
    }
}

mod refuses {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_nested_spawn_at_the_limit_fails_as_full_and_gives_the_task_back()
    {
        let group = group(1);
        let (spawner, (report, reported)) =
            (group.spawner(), oneshot::channel());
        spawn_accepted(&group.spawner(), async move {
            let refused =
                spawner.spawn(async { Err("run by the caller") }).await;
            let is_full = match refused {
                Err(Refused::Full(task)) => {
                    assert_eq!(
                        task.await,
                        Err("run by the caller"),
                        "output of the refused task"
                    );
                    true
                }
                _ => false,
            };
            report.send(is_full).unwrap();
            Ok(())
        })
        .await;
        let is_full =
            with_deadline("`spawn` by a member", reported).await.unwrap();
        assert!(
            is_full,
            "expected `Full` for a member that holds the only slot"
        );
        assert_eq!(with_deadline("`wait`", group.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_nested_spawn_at_the_limit_fails_as_full_also_after_an_await() {
        let group = group(2);
        let barrier = Arc::new(Barrier::new(2));
        for _ in 0..2 {
            let (spawner, barrier) = (group.spawner(), Arc::clone(&barrier));
            spawn_accepted(&group.spawner(), async move {
                barrier.wait().await;
                let spawned = spawner.spawn(ready(Ok(()))).await;
                barrier.wait().await;
                match spawned {
                    Err(Refused::Full(_)) => Ok(()),
                    _ => Err("expected `Full`"),
                }
            })
            .await;
        }
        assert_eq!(with_deadline("`wait`", group.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn spawn_called_in_a_task_of_another_group_waits_for_a_slot() {
        let (outer, inner) = (group(1), group(1));
        let work = Work::default();
        let (finish, task) = work.task();
        spawn_accepted(&inner.spawner(), task).await;
        let spawner = inner.spawner();
        spawn_accepted(&outer.spawner(), async move {
            match spawner.spawn(ready(Ok(()))).await {
                Ok(()) => Ok(()),
                Err(_) => Err("expected `Ok` after a wait"),
            }
        })
        .await;
        settle().await;
        finish.send(()).unwrap();
        assert_eq!(with_deadline("`wait`", outer.wait()).await, Ok(()));
        assert_eq!(with_deadline("`wait`", inner.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_and_later_spawns_are_refused_after_a_cancellation() {
        let parent = CancellationToken::new();
        let one = NonZero::new(1).unwrap();
        let group = Group::<&str>::new(&parent, one);
        let spawner = group.spawner();
        spawn_accepted(&spawner, pending()).await;
        let waiting =
            spawn_in_background(&spawner, async { Err("run by the caller") });
        settle().await;
        parent.cancel();
        match with_deadline("a waiting `spawn` after the cancellation", waiting)
            .await
            .unwrap()
        {
            Err(Refused::Cancelled(task)) => {
                assert_eq!(
                    task.await,
                    Err("run by the caller"),
                    "output of the refused task"
                );
            }
            other => panic!("expected `Cancelled`, saw {other:?}"),
        }
        let late =
            with_deadline("a later `spawn`", spawner.spawn(ready(Ok(()))))
                .await;
        assert!(
            matches!(late, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {late:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_spawns_are_refused_when_a_task_fails() {
        let group = group(2);
        let spawner = group.spawner();
        let (fail, failed) = oneshot::channel::<()>();
        spawn_accepted(&spawner, pending()).await;
        spawn_accepted(&spawner, async move {
            let _ = failed.await;
            // The group is cancelled while this task still holds its slot.
            Err("failed")
        })
        .await;
        let waiting =
            [(); 3].map(|()| spawn_in_background(&spawner, pending()));
        settle().await;
        fail.send(()).unwrap();
        for waiting in waiting {
            // The first one, too, although a slot is free for it.
            let answer =
                with_deadline("a waiting `spawn`", waiting).await.unwrap();
            assert!(
                matches!(answer, Err(Refused::Cancelled(_))),
                "expected `Cancelled`, saw {answer:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_cancellation_spawn_is_refused_and_try_spawn_is_not() {
        let group = group(1);
        let spawner = group.spawner();
        group.token().cancel();
        let refused =
            with_deadline("`spawn`", spawner.spawn(ready(Ok(())))).await;
        assert!(
            matches!(refused, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {refused:?}"
        );
        let cleanup = spawner.try_spawn(ready(Err("the cleanup ran")));
        assert!(
            cleanup.is_ok(),
            "expected `Ok` with a free slot, saw {cleanup:?}"
        );
        assert_eq!(
            with_deadline("`wait`", group.wait()).await,
            Err("the cleanup ran")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn spawn_by_a_member_of_a_cancelled_group_is_refused() {
        let group = group(2);
        let (spawner, token) = (group.spawner(), group.token());
        spawn_accepted(&group.spawner(), async move {
            token.cancel();
            match spawner.spawn(ready(Ok(()))).await {
                Err(Refused::Cancelled(_)) => Ok(()),
                _ => Err("expected `Cancelled`"),
            }
        })
        .await;
        assert_eq!(with_deadline("`wait`", group.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn spawn_and_try_spawn_are_refused_after_wait_has_returned() {
        let group = group(1);
        let spawner = group.spawner();
        assert_eq!(with_deadline("`wait`", group.wait()).await, Ok(()));
        let late = with_deadline("`spawn`", spawner.spawn(ready(Ok(())))).await;
        assert!(
            matches!(late, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {late:?}"
        );
        let late = spawner.try_spawn(ready(Ok(())));
        assert!(
            matches!(late, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {late:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_group_refuses_waiting_and_later_spawns() {
        let group = group(1);
        let spawner = group.spawner();
        spawn_accepted(&spawner, pending()).await;
        let waiting = spawn_in_background(&spawner, ready(Ok(())));
        settle().await;
        drop(group);
        // The task has not been dropped yet, and still holds the slot.
        let late = spawner.try_spawn(ready(Ok(())));
        assert!(
            matches!(late, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {late:?}"
        );
        let refused =
            with_deadline("the waiting `spawn`", waiting).await.unwrap();
        assert!(
            matches!(refused, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {refused:?}"
        );
        let late = spawner.try_spawn(ready(Ok(())));
        assert!(
            matches!(late, Err(Refused::Cancelled(_))),
            "expected `Cancelled`, saw {late:?}"
        );
    }
}
