//! What holds in whichever order the steps of tasks come. shuttle runs them.

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

/// How many are inside, and have been.
#[derive(Clone, Default)]
struct Count {
    inside: Arc<AtomicUsize>,
    been: Arc<AtomicUsize>,
}

/// Inside until it is dropped.
struct Inside(Count);

impl Count {
    fn enter(&self, limit: usize) -> Inside {
        let inside = self.inside.fetch_add(1, SeqCst) + 1;
        assert!(inside <= limit, "{inside} run at a time, of {limit}");
        Inside(self.clone())
    }

    fn inside(&self) -> usize {
        self.inside.load(SeqCst)
    }

    fn been(&self) -> usize {
        self.been.load(SeqCst)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.been.fetch_add(1, SeqCst);
        self.0.inside.fetch_sub(1, SeqCst);
    }
}

/// A task that stays for a moment.
async fn visit(count: Count, limit: usize) -> Result<(), Failed> {
    let _inside = count.enter(limit);
    yield_now().await;
    Ok(())
}

fn spawning<F>(spawner: Spawner<Failed>, task: F) -> JoinHandle<bool>
where
    F: Future<Output = Result<(), Failed>> + Send + 'static,
{
    spawn(async move { spawner.spawn(task).await.is_ok() })
}

#[test]
fn whoever_spawns_at_once_keeps_to_the_limit() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let rivals = [(); 3]
            .map(|()| spawning(group.spawner(), visit(count.clone(), 1)));
        for rival in rivals {
            assert!(rival.await.unwrap(), "nothing keeps it from a slot");
        }
        assert_eq!(group.wait().await, Ok(()));
        assert_eq!(count.been(), 3, "of three tasks have run to their end");
    });
}

#[test]
fn a_slot_is_taken_until_the_task_is_gone() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let spawner = group.spawner();
        for _ in 0..3 {
            // It is what the task holds that counts, and not its last line.
            let held = Held(count.clone());
            let visit = visit(count.clone(), 1);
            let task = async move {
                let _held = held;
                visit.await
            };
            assert!(spawner.spawn(task).await.is_ok(), "a slot comes free");
        }
        assert_eq!(group.wait().await, Ok(()));
    });
}

/// Ends at its first step, and is there until it is dropped, which takes a moment.
/// What a destructor panics with would go to the handle of the task.
struct ByHand {
    count: Count,
    most: Arc<AtomicUsize>,
}

impl Future for ByHand {
    type Output = Result<(), Failed>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let inside = self.count.inside.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(inside, SeqCst);
        shuttle::thread::yield_now();
        drop(Inside(self.count.clone()));
    }
}

#[test]
fn a_slot_is_taken_until_a_future_that_has_ended_is_gone() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let (spawner, most) = (group.spawner(), Arc::default());
        for _ in 0..3 {
            let (count, most) = (count.clone(), Arc::clone(&most));
            let task = ByHand { count, most };
            assert!(spawner.spawn(task).await.is_ok(), "a slot comes free");
        }
        assert_eq!(group.wait().await, Ok(()));
        assert_eq!(count.been(), 3, "of three are gone when `wait` returns");
        assert_eq!(most.load(SeqCst), 1, "are there at a time, of 1");
    });
}

/// Fails after a moment.
async fn fails() -> Result<(), Failed> {
    yield_now().await;
    Err("broken")
}

#[test]
fn a_slot_that_a_failure_frees_is_for_nobody_who_waits() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let taken = group.spawner().try_spawn(fails());
        assert!(taken.is_ok(), "the only slot is free");
        let late = spawning(group.spawner(), visit(count.clone(), 1));
        assert!(!late.await.unwrap(), "a task starts after the failure");
        assert_eq!(group.wait().await, Err("broken"));
    });
}

#[test]
fn a_slot_that_a_failure_frees_is_for_no_member() {
    shuffle(async || {
        let (group, members) = (group(2), Arc::new(AtomicUsize::new(0)));
        let (spawner, accepted) = (group.spawner(), Arc::clone(&members));
        let member = async move {
            let is_accepted = spawner.spawn(ready(Ok(()))).await.is_ok();
            accepted.fetch_add(usize::from(is_accepted), SeqCst);
            Ok(())
        };
        assert!(group.spawner().try_spawn(fails()).is_ok(), "two are free");
        assert!(group.spawner().try_spawn(member).is_ok(), "one is free");
        assert_eq!(group.wait().await, Err("broken"));
        let accepted = members.load(SeqCst);
        assert_eq!(
            accepted, 0,
            "started by a member, with no slot before that"
        );
    });
}

/// Takes a moment to be dropped, and nobody else may be inside meanwhile.
struct Held(Count);

impl Drop for Held {
    fn drop(&mut self) {
        // A second panic would end the process, and say less.
        if !std::thread::panicking() {
            let _inside = self.0.enter(1);
            shuttle::thread::yield_now();
        }
    }
}

#[test]
fn no_slot_is_lost_to_whoever_goes_away_waiting() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let (first, gone, last) = (
            spawning(group.spawner(), visit(count.clone(), 1)),
            spawning(group.spawner(), visit(count.clone(), 1)),
            spawning(group.spawner(), visit(count.clone(), 1)),
        );
        gone.abort();
        assert!(first.await.unwrap() && last.await.unwrap());
        drop(gone.await);
        assert_eq!(group.wait().await, Ok(()));
        assert!(count.been() >= 2, "of two that did not go away");
    });
}

#[test]
fn a_task_is_waited_for_or_refused() {
    shuffle(async || {
        let (group, count) = (group(2), Count::default());
        let spawner = group.spawner();
        let late = spawn({
            let count = count.clone();
            async move {
                let visit = visit(count.clone(), 2);
                let accepted = spawner.spawn(visit).await.is_ok();
                (accepted, count.been())
            }
        });
        assert_eq!(group.wait().await, Ok(()));
        let been = count.been();
        let (accepted, _) = late.await.unwrap();
        assert_eq!(
            been,
            usize::from(accepted),
            "accepted: {accepted}, and {been} have ended when `wait` returns"
        );
        yield_now().await;
        assert_eq!(count.been(), been, "a task runs after `wait`");
    });
}

#[test]
fn the_error_that_is_kept_came_first() {
    shuffle(async || {
        let group = group(2);
        let token = group.token();
        let follows = spawning(group.spawner(), async move {
            token.cancelled().await;
            Err("told to stop")
        });
        let fails = spawning(group.spawner(), ready(Err("the cause")));
        // The first of them may be refused, as the other has failed by then.
        follows.await.unwrap();
        assert!(fails.await.unwrap(), "nothing has failed before");
        assert_eq!(group.wait().await, Err("the cause"));
    });
}

#[test]
fn nothing_runs_when_the_group_is_gone() {
    shuffle(async || {
        let (group, count) = (group(1), Count::default());
        let spawner = group.spawner();
        let late = spawning(group.spawner(), visit(count.clone(), 1));
        drop(group);
        drop(late.await);
        let refused = spawner.spawn(visit(count.clone(), 1)).await;
        assert!(refused.is_err(), "a group that is gone starts a task");
        let refused = spawner.try_spawn(visit(count.clone(), 1));
        assert!(refused.is_err(), "a group that is gone starts a task");
        // What was accepted before is dropped at its next step.
        while count.inside() > 0 {
            yield_now().await;
        }
        let been = count.been();
        yield_now().await;
        assert_eq!(count.been(), been, "a task runs on");
    });
}
