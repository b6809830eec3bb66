//! Models of `limit`. shuttle runs each one with its tasks' steps in many
//! orders, and it must hold in all of them.

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::future::ready;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use shuttle_tokio_impl::task::yield_now;

use crate::common::shuffle;
use crate::limit::{Group, Spawner};
use crate::model_checked::shuttle_tasks::{
    CancellationToken, JoinHandle, oneshot, spawn,
};

type Failed = &'static str;

/// The type of all tasks: few types make this file compile faster.
type Boxed = BoxFuture<'static, Result<(), Failed>>;

fn group(limit: usize) -> Group<Failed> {
    let limit = NonZero::new(limit).expect("a limit is not 0");
    Group::new(&CancellationToken::new(), limit)
}

/// Counts the tasks that run, the most at a time, and those that have ended. The
/// tasks contain no assertions: the group would catch the panic and raise it
/// only in `wait`.
#[derive(Clone, Default)]
struct Count {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

/// Counts as running until it is dropped.
struct Running(Count);

impl Count {
    fn begin(&self) -> Running {
        let running = self.running.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(running, SeqCst);
        Running(self.clone())
    }

    fn assert_limit(&self, limit: usize) {
        let most = self.most.load(SeqCst);
        assert!(
            most <= limit,
            "expected at most {limit} tasks at a time, saw {most}"
        );
    }

    fn running(&self) -> usize {
        self.running.load(SeqCst)
    }

    fn ended(&self) -> usize {
        self.ended.load(SeqCst)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// A task that yields once.
fn yield_once(count: Count) -> Boxed {
    let task = async move {
        let _running = count.begin();
        yield_now().await;
        Ok(())
    };
    task.boxed()
}

/// Calls `spawn` on a task of its own, which returns whether `task` was
/// accepted.
fn spawn_in_background(
    spawner: Spawner<Failed>,
    task: Boxed,
) -> JoinHandle<bool> {
    spawn(async move { spawner.spawn(task).await.is_ok() })
}

#[test]
fn concurrent_spawns_keep_to_the_limit() {
    shuffle(async || {
        let (group, count) = (group(2), Count::default());
        let spawned = [(); 2].map(|()| {
            spawn_in_background(group.spawner(), yield_once(count.clone()))
        });
        let tried = [(); 2].map(|()| {
            let (spawner, task) = (group.spawner(), yield_once(count.clone()));
            spawn(async move { spawner.try_spawn(task).is_ok() })
        });
        let mut accepted = 2;
        for spawned in spawned {
            assert!(spawned.await.unwrap(), "`spawn` refused a task");
        }
        for tried in tried {
            accepted += usize::from(tried.await.unwrap());
        }
        let last = yield_once(count.clone());
        assert!(group.spawner().spawn(last).await.is_ok(), "a slot is lost");
        assert_eq!(group.wait().await, Ok(()));
        let expected = accepted + 1;
        assert_eq!(
            count.ended(),
            expected,
            "tasks that ended, of the accepted"
        );
        count.assert_limit(2);
    });
}

/// A future that completes at its first poll, and whose destructor yields.
struct SlowDrop(Count);

impl Future for SlowDrop {
    type Output = Result<(), Failed>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for SlowDrop {
    fn drop(&mut self) {
        let _running = self.0.begin();
        shuttle::thread::yield_now();
    }
}

#[test]
fn a_slot_is_held_until_its_task_and_all_variables_are_dropped() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let spawner = group.spawner();
        let refused = "`spawn` refused a task, although a slot is released";
        for _ in 0..2 {
            let future = SlowDrop(count.clone()).boxed();
            assert!(spawner.spawn(future).await.is_ok(), "{refused}");
            // `held` is dropped after the last line of the task.
            let (held, work) =
                (SlowDrop(count.clone()), yield_once(count.clone()));
            let task = async move {
                let _held = held;
                work.await
            };
            let spawned = spawner.spawn(task.boxed()).await;
            assert!(spawned.is_ok(), "{refused}");
        }
        assert_eq!(group.wait().await, Ok(()));
        assert_eq!(
            count.ended(),
            2 * 3,
            "tasks and values dropped when `wait` returned"
        );
        count.assert_limit(1);
    });
}

/// What cancels a group just before a slot is released. A panic is missing:
/// shuttle's locks are poisoned if they are used while a task unwinds.
#[derive(Clone, Copy)]
enum Cause {
    Error,
    Parent,
}

/// Yields once and returns, after it has cancelled its group.
fn cancels(cause: Cause, parent: CancellationToken) -> Boxed {
    let task = async move {
        yield_now().await;
        match cause {
            Cause::Error => Err("broken"),
            Cause::Parent => {
                parent.cancel();
                Ok(())
            }
        }
    };
    task.boxed()
}

/// Runs `call` with a group of `limit` slots, one of which is released right
/// after the group is cancelled. `call` returns whether a task was accepted.
fn refuses_the_slot_of_the_task_that_cancels(
    limit: usize,
    call: impl AsyncFn(Spawner<Failed>) -> bool + Copy + Send + Sync + 'static,
) {
    for cause in [Cause::Error, Cause::Parent] {
        shuffle(move || async move {
            let parent = CancellationToken::new();
            let limit = NonZero::new(limit).expect("a limit is not 0");
            let group = Group::<Failed>::new(&parent, limit);
            let task = cancels(cause, parent.clone());
            assert!(
                group.spawner().try_spawn(task).is_ok(),
                "`try_spawn` refused a task with a free slot"
            );
            assert!(
                !call(group.spawner()).await,
                "`spawn` started a task after the cancellation, in the slot \
                 of the task that cancelled the group"
            );
            let expected = match cause {
                Cause::Error => Err("broken"),
                Cause::Parent => Ok(()),
            };
            assert_eq!(group.wait().await, expected);
        });
    }
}

#[test]
fn a_waiting_spawn_does_not_get_the_slot_of_a_failed_task() {
    refuses_the_slot_of_the_task_that_cancels(1, async |spawner| {
        let task = yield_once(Count::default());
        spawn_in_background(spawner, task).await.unwrap()
    });
}

#[test]
fn a_nested_spawn_does_not_get_the_slot_of_a_failed_task() {
    // With two slots, one is held by the member.
    refuses_the_slot_of_the_task_that_cancels(2, async |spawner| {
        let (report, reported) = oneshot::channel();
        let member = {
            let spawner = spawner.clone();
            async move {
                let spawned = spawner.spawn(ready(Ok(())).boxed()).await;
                let _ = report.send(spawned.is_ok());
                Ok(())
            }
        };
        let spawned = spawner.try_spawn(member.boxed());
        assert!(spawned.is_ok(), "`try_spawn` refused a task with a free slot");
        reported.await.unwrap()
    });
}

#[test]
fn a_nested_spawn_never_waits() {
    shuffle(async || {
        let group = group(1);
        let spawner = group.spawner();
        // This member holds the only slot.
        let member = async move {
            let spawned = spawner.spawn(ready(Ok(())).boxed()).await;
            spawned.map_or(Ok(()), |()| Err("`spawn` exceeded the limit"))
        };
        let spawned = group.spawner().try_spawn(member.boxed());
        assert!(spawned.is_ok(), "`try_spawn` refused a task with a free slot");
        assert_eq!(group.wait().await, Ok(()));
    });
}

#[test]
fn an_aborted_spawn_leaks_no_slot() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let (first, aborted, last) = (
            spawn_in_background(group.spawner(), yield_once(count.clone())),
            spawn_in_background(group.spawner(), yield_once(count.clone())),
            spawn_in_background(group.spawner(), yield_once(count.clone())),
        );
        aborted.abort();
        assert!(first.await.unwrap(), "the first `spawn` was refused");
        assert!(last.await.unwrap(), "the last `spawn` was refused");
        drop(aborted.await);
        assert_eq!(group.wait().await, Ok(()));
        let ended = count.ended();
        assert!(ended >= 2, "expected at least 2 tasks to end, saw {ended}");
    });
}

#[test]
fn every_task_is_either_refused_or_waited_for() {
    shuffle(async || {
        let (group, count) = (group(2), Count::default());
        let spawner = group.spawner();
        let late = spawn({
            let count = count.clone();
            async move {
                let task = yield_once(count.clone());
                let accepted = spawner.spawn(task).await.is_ok();
                (accepted, count.ended())
            }
        });
        assert_eq!(group.wait().await, Ok(()));
        let ended = count.ended();
        let (accepted, _) = late.await.unwrap();
        assert_eq!(
            ended,
            usize::from(accepted),
            "tasks that had ended when `wait` returned; accepted: {accepted}"
        );
        yield_now().await;
        assert_eq!(count.ended(), ended, "a task ended after `wait` returned");
    });
}

#[test]
fn wait_returns_the_error_that_cancelled_the_group() {
    shuffle(async || {
        let group = group(2);
        let token = group.token();
        let follower = async move {
            token.cancelled().await;
            Err("cancelled")
        };
        let follows = spawn_in_background(group.spawner(), follower.boxed());
        let cause = ready(Err("the cause")).boxed();
        let fails = spawn_in_background(group.spawner(), cause);
        // `follows` may be refused, if `fails` has already failed.
        follows.await.unwrap();
        assert!(
            fails.await.unwrap(),
            "`spawn` refused a task before any task had failed"
        );
        assert_eq!(group.wait().await, Err("the cause"));
    });
}

#[test]
fn after_the_group_is_dropped_no_task_starts_or_continues() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let spawner = group.spawner();
        let late =
            spawn_in_background(group.spawner(), yield_once(count.clone()));
        drop(group);
        drop(late.await);
        let refused = spawner.spawn(yield_once(count.clone())).await;
        assert!(refused.is_err(), "`spawn` started a task after the drop");
        let refused = spawner.try_spawn(yield_once(count.clone()));
        assert!(refused.is_err(), "`try_spawn` started a task after the drop");
        // A task that was accepted before is dropped at its next step.
        while count.running() > 0 {
            yield_now().await;
        }
        let ended = count.ended();
        yield_now().await;
        assert_eq!(count.ended(), ended, "a task ran on after the drop");
    });
}
