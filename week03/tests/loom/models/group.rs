//! Models of `group`. shuttle runs each one with its tasks' steps in many
//! orders, and it must hold in all of them.
//!
//! No task panics: shuttle's locks are poisoned if they are used while a task
//! unwinds.

use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::future::pending;
use std::sync::Arc;

use futures_util::FutureExt;
use shuttle_tokio_impl::task::yield_now;

use crate::common::shuffle;
use crate::group::Group;
use crate::model_checked::shuttle_tasks::{CancellationToken, spawn};

/// Enough steps of one task for all others to end.
const STEPS: usize = 50;

fn group() -> Group<&'static str> {
    Group::new(&CancellationToken::new())
}

/// Counts the tasks that have ended.
#[derive(Clone, Default)]
struct Ends(Arc<AtomicUsize>);

/// Increments the count when it is dropped, after a yield.
struct End(Ends);

impl Ends {
    fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        shuttle::thread::yield_now();
        self.0.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn wait_returns_when_every_task_has_ended() {
    for result in [Ok(()), Err("broken")] {
        shuffle(move || async move {
            let (mut group, ends) = (group(), Ends::default());
            for yields in 0..2 {
                let end = End(ends.clone());
                group.spawn(async move {
                    let _end = end;
                    for _ in 0..yields {
                        yield_now().await;
                    }
                    result
                });
            }
            assert_eq!(group.wait().await, result);
            assert_eq!(
                ends.count(),
                2,
                "tasks that had ended when `wait` returned"
            );
        });
    }
}

#[test]
fn wait_returns_the_error_that_cancelled_the_token() {
    shuffle(async || {
        let mut group = group();
        for _ in 0..2 {
            let token = group.token();
            group.spawn(async move {
                token.cancelled().await;
                Err("failed because the token was cancelled")
            });
        }
        group.spawn(async { Err("the cause") });
        assert_eq!(group.wait().await, Err("the cause"));
    });
}

#[test]
fn an_error_counts_if_the_parent_is_cancelled_at_the_same_time() {
    shuffle(async || {
        let parent = CancellationToken::new();
        let mut group = Group::new(&parent);
        group.spawn(async { Err("broken") });
        let canceller = spawn(async move { parent.cancel() });
        assert_eq!(group.wait().await, Err("broken"));
        canceller.await.expect("it does not panic");
    });
}

#[test]
fn after_a_drop_each_task_ends_at_its_next_await() {
    for polls in 0..3 {
        shuffle(move || async move {
            let (mut group, ends) = (group(), Ends::default());
            let token = group.token();
            for _ in 0..2 {
                let end = End(ends.clone());
                group.spawn(async move {
                    let _end = end;
                    pending().await
                });
            }
            let mut wait = Box::pin(group.wait());
            for _ in 0..polls {
                let ended = (&mut wait).now_or_never();
                assert_eq!(ended, None, "`wait` returned before its tasks");
                yield_now().await;
            }
            drop(wait);
            assert!(
                token.is_cancelled(),
                "the token is not cancelled after the drop"
            );
            for _ in 0..STEPS {
                yield_now().await;
            }
            assert_eq!(ends.count(), 2, "tasks that had ended after the drop");
        });
    }
}
