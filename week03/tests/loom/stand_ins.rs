//! The stand-ins have the methods of `std`, tokio and crossbeam-epoch that an
//! attempt may use. Code that compiles with the real types must compile with them.

use std::future::pending;
use std::panic::resume_unwind;

use loom::sync::atomic::Ordering::Acquire;

use crate::common::{explore, shuffle};
use crate::model_checked::loom_epoch::{Atomic, Owned, Shared, pin};
use crate::model_checked::shuttle_tasks::{
    Arc, CancellationToken, Notify, Semaphore, spawn, try_id,
};
use crate::task::{AbortOnDropHandle, JoinSet, TaskTracker, yield_now};

#[test]
fn a_handle_has_the_id_of_its_task() {
    shuffle(async || {
        assert_eq!(try_id(), None);
        let (first, second) =
            (spawn(async { try_id() }), spawn(async { try_id() }));
        assert_ne!(first.id(), second.id());
        let ids = [first.id(), second.id()];
        assert_eq!(
            [first.await.unwrap(), second.await.unwrap()],
            ids.map(Some)
        );
    });
}

#[test]
fn a_handle_returns_the_panic_of_its_task() {
    shuffle(async || {
        // Not `panic!`: shuttle would print the schedule of each panic.
        let panics = spawn(async { resume_unwind(Box::new("on purpose")) });
        let id = panics.id();
        let error: Result<(), _> = panics.await;
        let error = error.expect_err("the task panicked");
        assert!(error.is_panic() && !error.is_cancelled() && error.id() == id);
        let payload = error.try_into_panic().expect("the task panicked");
        assert_eq!(payload.downcast_ref(), Some(&"on purpose"));
        let aborted = spawn(pending::<()>());
        aborted.abort();
        let error = aborted.await.expect_err("the task was aborted");
        assert!(error.is_cancelled() && error.try_into_panic().is_err());
    });
}

#[test]
fn a_join_set_returns_panics_and_aborts_its_tasks_on_drop() {
    shuffle(async || {
        let held = Arc::new(());
        let holds = || {
            let held = Arc::clone(&held);
            async move {
                pending::<()>().await;
                drop(held);
            }
        };
        drop(AbortOnDropHandle::new(spawn(holds())));
        let mut aborted = JoinSet::new();
        aborted.spawn(holds());
        drop(aborted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async { resume_unwind(Box::new("on purpose")) });
        let ended: Option<Result<(), _>> = tasks.join_next().await;
        assert!(ended.expect("one task").is_err_and(|it| it.is_panic()));
        assert!(tasks.join_next().await.is_none());
        for _ in 0..20 {
            yield_now().await;
        }
        assert_eq!(Arc::strong_count(&held), 1, "a task was not aborted");
    });
}

#[test]
fn a_task_tracker_waits_for_its_tasks() {
    shuffle(async || {
        let (tracker, held) = (TaskTracker::new(), Arc::new(()));
        let task = Arc::clone(&held);
        tracker.spawn(async move {
            yield_now().await;
            drop(task);
        });
        tracker.close();
        tracker.wait().await;
        assert_eq!(Arc::strong_count(&held), 1, "a task has not ended");
    });
}

#[test]
fn other_tasks_run_while_a_task_holds_a_lock_of_std() {
    shuffle(async || {
        let lock = Arc::new(std::sync::Mutex::new(0));
        let tasks = [(); 2].map(|()| {
            let lock = Arc::clone(&lock);
            spawn(async move {
                let mut sum = lock.lock().unwrap();
                let before = *sum;
                shuttle::thread::yield_now();
                *sum = before + 1;
            })
        });
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*lock.lock().unwrap(), 2);
    });
}

#[test]
fn tokens_have_guards_that_borrow_and_futures_that_own() {
    shuffle(async || {
        let token = CancellationToken::new();
        assert!(!token.drop_guard_ref().disarm().is_cancelled());
        drop(token.drop_guard_ref());
        assert!(token.is_cancelled() && token.child_token().is_cancelled());
        let never = pending::<()>();
        assert_eq!(token.run_until_cancelled_owned(never).await, None);
    });
}

#[test]
fn semaphores_forget_free_permits() {
    shuffle(async || {
        let semaphore = Arc::new(Semaphore::new(3));
        let permit = Arc::clone(&semaphore).acquire_owned().await.unwrap();
        assert_eq!(semaphore.forget_permits(5), 2);
        drop(permit);
        assert_eq!(semaphore.available_permits(), 1);
    });
}

#[test]
fn notify_last_notifies_a_waiter() {
    shuffle(async || {
        let notify = Notify::new();
        notify.notify_last();
        notify.notified().await;
    });
}

#[test]
fn atomics_become_owned_values_or_none() {
    // Two threads, since `explore` expects more than one execution.
    explore(None, || {
        let atomic = Arc::new(Atomic::new(1));
        let other = Arc::clone(&atomic);
        let reader = loom::thread::spawn(move || {
            let pin = pin();
            let loaded = other.load(Acquire, &pin);
            let is_null = loaded.is_null();
            drop(other);
            is_null
        });
        let pin = pin();
        let null = Shared::null();
        assert!(atomic.fetch_update(Acquire, Acquire, &pin, |_| None).is_err());
        drop(pin);
        assert!(!reader.join().unwrap());
        let atomic = Arc::into_inner(atomic).expect("the reader has ended");
        // SAFETY: no other thread has the atomics.
        unsafe {
            let owned: Option<Owned<i32>> = atomic.try_into_owned();
            assert_eq!(owned.map(|owned| *owned), Some(1));
            assert!(Atomic::<i32>::from(null).try_into_owned().is_none());
        }
    });
}
