//! Models of `limit`. shuttle runs each one with its tasks' steps in many
//! orders, and it must hold in all of them.

use std::future::ready;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};

use shuttle_tokio_impl::task::yield_now;

use crate::common::shuffle;
use crate::limit::{Group, Spawner};
use crate::model_checked::shuttle_tasks::{
    CancellationToken, JoinHandle, spawn,
};

type Failed = &'static str;

fn group(limit: usize) -> Group<Failed> {
    let limit = NonZero::new(limit).expect("a limit is not 0");
    Group::new(&CancellationToken::new(), limit)
}

/// Counts the tasks that run, and those that have ended.
#[derive(Clone, Default)]
struct Count {
    running: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

/// Counts as running until it is dropped.
struct Running(Count);

impl Count {
    fn begin(&self, limit: usize) -> Running {
        let running = self.running.fetch_add(1, SeqCst) + 1;
        assert!(
            running <= limit,
            "expected at most {limit} tasks at a time, saw {running}"
        );
        Running(self.clone())
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
async fn yield_once(count: Count, limit: usize) -> Result<(), Failed> {
    let _running = count.begin(limit);
    yield_now().await;
    Ok(())
}

/// Calls `spawn` on a task of its own, which returns whether `task` was
/// accepted.
fn spawn_in_background<F>(spawner: Spawner<Failed>, task: F) -> JoinHandle<bool>
where
    F: Future<Output = Result<(), Failed>> + Send + 'static,
{
    spawn(async move { spawner.spawn(task).await.is_ok() })
}

#[test]
fn concurrent_spawns_keep_to_the_limit() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let spawned = [(); 3].map(|()| {
            spawn_in_background(group.spawner(), yield_once(count.clone(), 1))
        });
        for spawned in spawned {
            assert!(spawned.await.unwrap(), "`spawn` refused a task");
        }
        assert_eq!(group.wait().await, Ok(()));
        assert_eq!(count.ended(), 3, "tasks that ended, of 3 accepted");
    });
}

#[test]
fn a_slot_is_held_until_all_variables_of_its_task_are_dropped() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let spawner = group.spawner();
        for _ in 0..3 {
            // The slot is held until `held` is dropped, after the last line of
            // the task.
            let held = Held(count.clone());
            let work = yield_once(count.clone(), 1);
            let task = async move {
                let _held = held;
                work.await
            };
            assert!(
                spawner.spawn(task).await.is_ok(),
                "`spawn` refused a task, although a slot is released"
            );
        }
        assert_eq!(group.wait().await, Ok(()));
    });
}

/// A future that completes at its first poll, and whose destructor yields.
///
/// The destructor records a maximum and does not panic: its panic would only be
/// seen through the handle of the task.
struct SlowDrop {
    count: Count,
    most: Arc<AtomicUsize>,
}

impl Future for SlowDrop {
    type Output = Result<(), Failed>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for SlowDrop {
    fn drop(&mut self) {
        let running = self.count.running.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(running, SeqCst);
        shuttle::thread::yield_now();
        drop(Running(self.count.clone()));
    }
}

#[test]
fn a_slot_is_held_until_the_completed_future_is_dropped() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let (spawner, most) = (group.spawner(), Arc::default());
        for _ in 0..3 {
            let (count, most) = (count.clone(), Arc::clone(&most));
            let task = SlowDrop { count, most };
            assert!(
                spawner.spawn(task).await.is_ok(),
                "`spawn` refused a task, although a slot is released"
            );
        }
        assert_eq!(group.wait().await, Ok(()));
        assert_eq!(
            count.ended(),
            3,
            "futures dropped when `wait` returned, of 3 accepted"
        );
        let most = most.load(SeqCst);
        assert_eq!(most, 1, "the most futures at a time, with a limit of 1");
    });
}

/// A task that yields once and fails.
async fn fails() -> Result<(), Failed> {
    yield_now().await;
    Err("broken")
}

#[test]
fn a_waiting_spawn_does_not_get_the_slot_of_a_failed_task() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let spawned = group.spawner().try_spawn(fails());
        assert!(spawned.is_ok(), "`try_spawn` refused a task with a free slot");
        let late =
            spawn_in_background(group.spawner(), yield_once(count.clone(), 1));
        assert!(
            !late.await.unwrap(),
            "a waiting `spawn` started a task after a failure"
        );
        assert_eq!(group.wait().await, Err("broken"));
    });
}

#[test]
fn a_nested_spawn_does_not_get_the_slot_of_a_failed_task() {
    shuffle(async || {
        let (group, accepted) = (group(2), Arc::new(AtomicUsize::new(0)));
        let (spawner, count) = (group.spawner(), Arc::clone(&accepted));
        let member = async move {
            let is_accepted = spawner.spawn(ready(Ok(()))).await.is_ok();
            count.fetch_add(usize::from(is_accepted), SeqCst);
            Ok(())
        };
        let refused = "`try_spawn` refused a task with a free slot";
        assert!(group.spawner().try_spawn(fails()).is_ok(), "{refused}");
        assert!(group.spawner().try_spawn(member).is_ok(), "{refused}");
        assert_eq!(group.wait().await, Err("broken"));
        let accepted = accepted.load(SeqCst);
        assert_eq!(
            accepted, 0,
            "tasks that a member spawned into the slot of a failed task"
        );
    });
}

/// A value whose destructor yields, and counts as running with a limit of 1.
struct Held(Count);

impl Drop for Held {
    fn drop(&mut self) {
        // A second panic would abort the process, and hide the first one.
        if !std::thread::panicking() {
            let _running = self.0.begin(1);
            shuttle::thread::yield_now();
        }
    }
}

#[test]
fn an_aborted_spawn_leaks_no_slot() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let (first, aborted, last) = (
            spawn_in_background(group.spawner(), yield_once(count.clone(), 1)),
            spawn_in_background(group.spawner(), yield_once(count.clone(), 1)),
            spawn_in_background(group.spawner(), yield_once(count.clone(), 1)),
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
                let task = yield_once(count.clone(), 2);
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
        let follows = spawn_in_background(group.spawner(), async move {
            token.cancelled().await;
            Err("cancelled")
        });
        let fails =
            spawn_in_background(group.spawner(), ready(Err("the cause")));
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
            spawn_in_background(group.spawner(), yield_once(count.clone(), 1));
        drop(group);
        drop(late.await);
        let refused = spawner.spawn(yield_once(count.clone(), 1)).await;
        assert!(refused.is_err(), "`spawn` started a task after the drop");
        let refused = spawner.try_spawn(yield_once(count.clone(), 1));
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
