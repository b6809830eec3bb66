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

/// Nobody waits longer for what has to happen. The clock is paused: it passes
/// at once, when nothing else can happen.
const DEADLINE: Duration = Duration::from_secs(5);

fn group(limit: usize) -> Group<&'static str> {
    let limit = NonZero::new(limit).expect("a limit is not 0");
    Group::new(&CancellationToken::new(), limit)
}

/// Lets all tasks run that can.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(result) => result,
        Err(_) => panic!("{what} takes for ever"),
    }
}

/// What tasks do, and how many of them do it.
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

    /// Works until it is let go.
    fn task(
        &self,
    ) -> (
        oneshot::Sender<()>,
        impl Future<Output = Result<(), &'static str>> + use<>,
    ) {
        let (let_go, go) = oneshot::channel();
        let work = self.clone();
        let task = async move {
            let _running = work.begin();
            let _ = go.await;
            Ok(())
        };
        (let_go, task)
    }

    fn running(&self) -> usize {
        self.running.load(Relaxed)
    }
}

/// A spawn, on a task of its own, that says whether it was accepted.
fn spawning<F>(
    spawner: &Spawner<&'static str>,
    task: F,
) -> JoinHandle<Result<(), Refused<F>>>
where
    F: Future<Output = Result<(), &'static str>> + Send + 'static,
{
    let spawner = spawner.clone();
    tokio::spawn(async move { spawner.spawn(task).await })
}

async fn accepted<F>(spawner: &Spawner<&'static str>, task: F)
where
    F: Future<Output = Result<(), &'static str>> + Send + 'static,
{
    let spawned = soon("a spawn with a free slot", spawner.spawn(task)).await;
    assert!(spawned.is_ok(), "{spawned:?}, and a slot is free");
}

mod bounds {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_group_runs_its_tasks_and_waits_for_them() {
        let (group, work) = (group(3), Work::default());
        let spawner = group.spawner();
        let tasks = [work.task(), work.task()];
        let tasks = tasks.map(|(go, task)| (go, spawning(&spawner, task)));
        settle().await;
        assert_eq!(work.running(), 2, "tasks run");
        let mut wait = tokio::spawn(group.wait());
        settle().await;
        assert!(!wait.is_finished(), "`wait` returns while tasks run");
        for (go, spawned) in tasks {
            assert!(spawned.await.unwrap().is_ok(), "of three slots");
            go.send(()).unwrap();
        }
        assert_eq!(soon("`wait`", &mut wait).await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_tasks_run_than_the_limit() {
        let (group, work) = (group(3), Work::default());
        let spawner = group.spawner();
        for _ in 0..20 {
            let work = work.clone();
            let task = async move {
                let _running = work.begin();
                settle().await;
                Ok(())
            };
            assert!(soon("a spawn", spawner.spawn(task)).await.is_ok());
        }
        assert_eq!(soon("`wait`", group.wait()).await, Ok(()));
        assert_eq!(work.most.load(Relaxed), 3, "tasks at a time, of three");
    }

    #[tokio::test(start_paused = true)]
    async fn a_spawn_at_the_limit_waits_for_a_slot() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (go, task) = work.task();
        accepted(&spawner, task).await;
        let (_go, second) = work.task();
        let waiting = spawning(&spawner, second);
        settle().await;
        assert!(!waiting.is_finished(), "a spawn returns without a slot");
        assert_eq!(work.running(), 1, "tasks run, with one slot");
        go.send(()).unwrap();
        let spawned = soon("a spawn with a free slot", waiting).await;
        assert!(spawned.unwrap().is_ok());
        settle().await;
        assert_eq!(work.running(), 1, "tasks run, with one slot");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_are_served_in_their_order() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (go, task) = work.task();
        accepted(&spawner, task).await;
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        for number in 0..5 {
            let order = Arc::clone(&order);
            spawning(&spawner, async move {
                order.lock().unwrap().push(number);
                Ok(())
            });
            settle().await;
        }
        go.send(()).unwrap();
        settle().await;
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4], "served");
    }

    #[tokio::test(start_paused = true)]
    async fn try_spawn_at_the_limit_gives_the_task_back() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (_go, task) = work.task();
        assert!(spawner.try_spawn(task).is_ok(), "a slot is free");
        match spawner.try_spawn(async { Err("ran") }) {
            Err(Refused::Full(task)) => assert_eq!(task.await, Err("ran")),
            other => panic!("{other:?}, with no slot free"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_error_is_told_and_returned() {
        let parent = CancellationToken::new();
        let two = NonZero::new(2).unwrap();
        let group = Group::<&str>::new(&parent, two);
        let (spawner, token) = (group.spawner(), group.token());
        accepted(&spawner, {
            let token = group.token();
            async move {
                token.cancelled().await;
                Err("told to stop")
            }
        })
        .await;
        assert!(!token.is_cancelled());
        accepted(&spawner, ready(Err("first"))).await;
        soon("the token", token.cancelled()).await;
        assert_eq!(soon("`wait`", group.wait()).await, Err("first"));
        assert!(!parent.is_cancelled(), "what happens in it stays in it");
    }

    #[tokio::test(start_paused = true)]
    async fn wait_also_waits_for_what_members_start() {
        let (group, work) = (group(2), Work::default());
        let spawner = group.spawner();
        let (go, task) = work.task();
        let (go_on, went_on) = oneshot::channel::<()>();
        accepted(&group.spawner(), async move {
            went_on.await.unwrap();
            assert!(spawner.spawn(task).await.is_ok(), "one of two slots");
            Ok(())
        })
        .await;
        let mut wait = tokio::spawn(group.wait());
        settle().await;
        go_on.send(()).unwrap();
        settle().await;
        assert_eq!(work.running(), 1, "the member's task runs");
        assert!(!wait.is_finished(), "`wait` returns while a task runs");
        go.send(()).unwrap();
        assert_eq!(soon("`wait`", &mut wait).await.unwrap(), Ok(()));
    }
}

mod frees {
    use super::*;

    /// One slot, which `task` takes. Then it is free, also for what `try_spawn`
    /// starts in a group that is cancelled by now.
    async fn frees_its_slot<F>(group: &Group<&'static str>, task: F)
    where
        F: Future<Output = Result<(), &'static str>> + Send + 'static,
    {
        let spawner = group.spawner();
        accepted(&spawner, task).await;
        settle().await;
        for _ in 0..3 {
            let spawned = spawner.try_spawn(ready(Ok(())));
            assert!(spawned.is_ok(), "{spawned:?}, and a slot is free");
            settle().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_returns_frees_its_slot() {
        let group = group(1);
        frees_its_slot(&group, ready(Ok(()))).await;
        assert_eq!(soon("`wait`", group.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_frees_its_slot() {
        let group = group(1);
        frees_its_slot(&group, ready(Err("failed"))).await;
        assert_eq!(soon("`wait`", group.wait()).await, Err("failed"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_frees_its_slot_and_is_raised_by_wait() {
        let group = group(1);
        frees_its_slot(&group, async { panic!("on purpose") }).await;
        let token = group.token();
        assert!(token.is_cancelled(), "the others are told of a panic");
        let wait = AssertUnwindSafe(group.wait()).catch_unwind();
        let raised = soon("`wait`", wait).await.expect_err("a panic");
        assert_eq!(raised.downcast_ref(), Some(&"on purpose"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_does_not_hide_a_panic() {
        let group = group(2);
        let spawner = group.spawner();
        accepted(&spawner, ready(Err("failed"))).await;
        settle().await;
        let spawned = spawner.try_spawn(async { panic!("on purpose") });
        assert!(spawned.is_ok(), "{spawned:?}, and a slot is free");
        let wait = AssertUnwindSafe(group.wait()).catch_unwind();
        let raised = soon("`wait`", wait).await.expect_err("a panic");
        assert_eq!(raised.downcast_ref(), Some(&"on purpose"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_waiting_takes_no_slot() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (go, task) = work.task();
        accepted(&spawner, task).await;
        let gone = spawning(&spawner, pending());
        let waiting = spawning(&spawner, ready(Ok(())));
        settle().await;
        gone.abort();
        settle().await;
        go.send(()).unwrap();
        let spawned = soon("the next one that waits", waiting).await;
        assert!(spawned.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_as_a_slot_is_freed_takes_no_slot() {
        let (group, work) = (group(1), Work::default());
        let spawner = group.spawner();
        let (go, task) = work.task();
        accepted(&spawner, task).await;
        {
            let mut waiting = Box::pin(spawner.spawn(pending()));
            let mut context = std::task::Context::from_waker(Waker::noop());
            let polled = waiting.as_mut().poll(&mut context);
            assert!(matches!(polled, Poll::Pending), "no slot is free");
            go.send(()).unwrap();
            settle().await;
            // Its turn has come, and it goes without having looked.
        }
        accepted(&spawner, ready(Ok(()))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_dropped_drops_its_tasks() {
        let (group, work) = (group(2), Work::default());
        let (spawner, token) = (group.spawner(), group.token());
        let (_go, task) = work.task();
        accepted(&spawner, task).await;
        settle().await;
        assert_eq!(work.running(), 1);
        drop(group);
        settle().await;
        assert_eq!(work.running(), 0, "tasks run, and their group is gone");
        assert!(token.is_cancelled(), "the token of a group that is gone");
    }
}

mod refuses {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_member_at_the_limit_gets_its_task_back() {
        let group = group(1);
        let (spawner, (told, seen)) = (group.spawner(), oneshot::channel());
        accepted(&group.spawner(), async move {
            let refused = spawner.spawn(async { Err("ran by hand") }).await;
            let is_full = match refused {
                Err(Refused::Full(task)) => {
                    assert_eq!(task.await, Err("ran by hand"));
                    true
                }
                _ => false,
            };
            told.send(is_full).unwrap();
            Ok(())
        })
        .await;
        let is_full = soon("a spawn by a member", seen).await.unwrap();
        assert!(
            is_full,
            "a member that has the only slot is refused as `Full`"
        );
        assert_eq!(soon("`wait`", group.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_is_one_after_each_await() {
        let group = group(2);
        let both = Arc::new(Barrier::new(2));
        for _ in 0..2 {
            let (spawner, both) = (group.spawner(), Arc::clone(&both));
            accepted(&group.spawner(), async move {
                both.wait().await;
                let spawned = spawner.spawn(ready(Ok(()))).await;
                both.wait().await;
                match spawned {
                    Err(Refused::Full(_)) => Ok(()),
                    _ => Err("not refused"),
                }
            })
            .await;
        }
        assert_eq!(soon("`wait`", group.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_of_another_group_waits() {
        let (outer, inner) = (group(1), group(1));
        let work = Work::default();
        let (go, task) = work.task();
        accepted(&inner.spawner(), task).await;
        let spawner = inner.spawner();
        accepted(&outer.spawner(), async move {
            match spawner.spawn(ready(Ok(()))).await {
                Ok(()) => Ok(()),
                Err(_) => Err("refused"),
            }
        })
        .await;
        settle().await;
        go.send(()).unwrap();
        assert_eq!(soon("`wait`", outer.wait()).await, Ok(()));
        assert_eq!(soon("`wait`", inner.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_refused_when_the_group_is_cancelled() {
        let parent = CancellationToken::new();
        let one = NonZero::new(1).unwrap();
        let group = Group::<&str>::new(&parent, one);
        let spawner = group.spawner();
        accepted(&spawner, pending()).await;
        let waiting = spawning(&spawner, async { Err("ran by hand") });
        settle().await;
        parent.cancel();
        match soon("a spawn in a cancelled group", waiting).await.unwrap() {
            Err(Refused::Cancelled(task)) => {
                assert_eq!(task.await, Err("ran by hand"));
            }
            other => panic!("{other:?}, and the group is cancelled"),
        }
        let late = soon("another one", spawner.spawn(ready(Ok(())))).await;
        assert!(matches!(late, Err(Refused::Cancelled(_))), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_refused_when_another_task_fails() {
        let group = group(2);
        let spawner = group.spawner();
        let (fail, failed) = oneshot::channel::<()>();
        accepted(&spawner, pending()).await;
        accepted(&spawner, async move {
            let _ = failed.await;
            // Its slot is still taken while the others are told.
            Err("failed")
        })
        .await;
        let waiting = [(); 3].map(|()| spawning(&spawner, pending()));
        settle().await;
        fail.send(()).unwrap();
        for waiting in waiting {
            // Also the first, whose turn it would be: there is a free slot.
            let answer = soon("who waits", waiting).await.unwrap();
            assert!(matches!(answer, Err(Refused::Cancelled(_))), "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_cancelled_group_spawn_refuses_and_try_spawn_does_not() {
        let group = group(1);
        let spawner = group.spawner();
        group.token().cancel();
        let refused = soon("a spawn", spawner.spawn(ready(Ok(())))).await;
        assert!(matches!(refused, Err(Refused::Cancelled(_))), "{refused:?}");
        let cleanup = spawner.try_spawn(ready(Err("it ran")));
        assert!(cleanup.is_ok(), "{cleanup:?}, and a slot is free");
        assert_eq!(soon("`wait`", group.wait()).await, Err("it ran"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_of_a_cancelled_group_is_refused_too() {
        let group = group(2);
        let (spawner, token) = (group.spawner(), group.token());
        accepted(&group.spawner(), async move {
            token.cancel();
            match spawner.spawn(ready(Ok(()))).await {
                Err(Refused::Cancelled(_)) => Ok(()),
                _ => Err("not refused"),
            }
        })
        .await;
        assert_eq!(soon("`wait`", group.wait()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_has_ended_refuses_all() {
        let group = group(1);
        let spawner = group.spawner();
        assert_eq!(soon("`wait`", group.wait()).await, Ok(()));
        let late = soon("a spawn", spawner.spawn(ready(Ok(())))).await;
        assert!(matches!(late, Err(Refused::Cancelled(_))), "{late:?}");
        let late = spawner.try_spawn(ready(Ok(())));
        assert!(matches!(late, Err(Refused::Cancelled(_))), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_dropped_refuses_who_waits() {
        let group = group(1);
        let spawner = group.spawner();
        accepted(&spawner, pending()).await;
        let waiting = spawning(&spawner, ready(Ok(())));
        settle().await;
        drop(group);
        // Its task has not been dropped by now, and still has the slot.
        let late = spawner.try_spawn(ready(Ok(())));
        assert!(matches!(late, Err(Refused::Cancelled(_))), "{late:?}");
        let refused = soon("who waits", waiting).await.unwrap();
        assert!(matches!(refused, Err(Refused::Cancelled(_))), "{refused:?}");
        let late = spawner.try_spawn(ready(Ok(())));
        assert!(matches!(late, Err(Refused::Cancelled(_))), "{late:?}");
    }
}
