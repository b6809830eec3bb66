//! Tests of panics whose payload panics when it is dropped, and of destructors
//! that panic. The answers survive them, and not every stub requires it.

use std::future::ready;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{mem, thread};

use futures_util::FutureExt;
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use toml::Table;
use week03::layers::Layer;
use week03::reload::{Debounce, Reloader};
use week03::{config, group, limit, signals};

/// The longest wait for an event that must happen.
const DEADLINE: Duration = Duration::from_secs(5);

/// The payload of a panic. Its drop panics with the next one, `.0` times, and
/// without a message.
struct PanicsOnDrop(u32);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        // A panic during another one would abort the process.
        if self.0 > 0 && !thread::panicking() {
            resume_unwind(Box::new(Self(self.0 - 1)));
        }
    }
}

type Ended = Result<(), &'static str>;

/// A task that returns `Ok`, and whose destructor panics.
struct Task {
    _drop: PanicsOnDrop,
}

impl Future for Task {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Ended> {
        Poll::Ready(Ok(()))
    }
}

/// Panics after some seconds.
async fn panic_after(seconds: u64) -> Ended {
    sleep(Duration::from_secs(seconds)).await;
    resume_unwind(Box::new(PanicsOnDrop(2)))
}

/// Runs until the other tasks have panicked, and then counts as ended.
async fn end_last(has_ended: Arc<AtomicUsize>) -> Ended {
    sleep(Duration::from_secs(9)).await;
    has_ended.fetch_add(1, Relaxed);
    Ok(())
}

/// Checks that `wait` raises the panic of a task.
async fn assert_raises(wait: impl Future<Output = Ended>) {
    let raised = AssertUnwindSafe(wait).catch_unwind().await;
    let payload = raised.expect_err("expected `wait` to raise a panic");
    let is_of_a_task = payload.is::<PanicsOnDrop>();
    mem::forget(payload);
    assert!(is_of_a_task, "expected the payload of a task's panic");
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_panics_on_drop_does_not_end_the_wait_for_a_group() {
    let has_ended = Arc::new(AtomicUsize::new(0));
    let mut group = group::Group::new(&CancellationToken::new());
    (1..4).for_each(|seconds| group.spawn(panic_after(seconds)));
    group.spawn(end_last(Arc::clone(&has_ended)));
    assert_raises(group.wait()).await;
    assert_eq!(has_ended.load(Relaxed), 1, "ended tasks without a panic");

    let limit = 4.try_into().expect("it is not 0");
    let group = limit::Group::new(&CancellationToken::new(), limit);
    let spawner = group.spawner();
    for seconds in 1..4 {
        assert!(spawner.try_spawn(panic_after(seconds)).is_ok());
    }
    assert!(spawner.try_spawn(end_last(Arc::clone(&has_ended))).is_ok());
    assert_raises(group.wait()).await;
    assert_eq!(has_ended.load(Relaxed), 2, "ended tasks without a panic");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_destructor_of_a_task_is_a_panic_of_the_task() {
    let mut group = group::Group::new(&CancellationToken::new());
    group.spawn(Task { _drop: PanicsOnDrop(1) });
    let cancelled = timeout(DEADLINE, group.token().cancelled()).await;
    assert_eq!(cancelled, Ok(()), "the panic cancels the group");
    assert_raises(group.wait()).await;

    let limit = 1.try_into().expect("it is not 0");
    let group = limit::Group::new(&CancellationToken::new(), limit);
    let spawned = group.spawner().try_spawn(Task { _drop: PanicsOnDrop(1) });
    assert!(spawned.is_ok());
    let cancelled = timeout(DEADLINE, group.token().cancelled()).await;
    assert_eq!(cancelled, Ok(()), "the panic cancels the group");
    assert!(group.spawner().try_spawn(ready(Ok(()))).is_ok());
    assert_raises(group.wait()).await;
}

/// Does `work` on a thread of its own, with a deadline. A panic of `work` is
/// not caught safely: it may abort the process.
fn with_deadline<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, result) = channel();
    thread::spawn(move || drop(done.send(work())));
    result.recv_timeout(DEADLINE).expect("a result, without a panic")
}

#[test]
fn a_panic_of_one_observer_does_not_prevent_calls_of_others() {
    let (called, calls) = channel();
    let reads = AtomicUsize::new(0);
    let read = move || {
        let number = reads.fetch_add(1, Relaxed);
        Ok(format!("number = {number}").parse()?)
    };
    let layers = vec![Layer::new("numbers", read)];
    let config = config::Config::<Table>::new(layers, |_| Ok(())).unwrap();
    let _panics =
        config.subscribe(|_, _| resume_unwind(Box::new(PanicsOnDrop(2))));
    // This observer is dropped in its own first call.
    let kept = Arc::new(Mutex::new(None));
    let (own, held) = (Arc::clone(&kept), PanicsOnDrop(2));
    let drops_itself = config.subscribe(move |_, _| {
        let _held = &held;
        drop(own.lock().unwrap().take());
    });
    *kept.lock().unwrap() = Some(drops_itself);
    let _other =
        config.subscribe(move |_, new| called.send(new.version).unwrap());
    with_deadline(move || {
        for version in 2..5 {
            assert_eq!(config.reload().unwrap().version, version);
            assert_eq!(
                calls.try_recv(),
                Ok(version),
                "the version of the call"
            );
        }
    });
}

#[test]
fn a_panic_of_a_read_or_of_its_destructor_ends_neither_reads_nor_the_drop() {
    let never = Duration::from_secs(3600);
    let debounce =
        Debounce { quiet: never, max_delay: never, max_interval: never };
    let folder = tempfile::tempdir().unwrap();
    let (begun, reads) = channel();
    let held = PanicsOnDrop(2);
    let read = move || {
        let _held = &held;
        begun.send(()).unwrap();
        resume_unwind(Box::new(PanicsOnDrop(2)));
    };
    let file = folder.path().join("file");
    let reloader = Reloader::start(&file, debounce, read).unwrap();
    for _ in 0..3 {
        reads.recv_timeout(DEADLINE).expect("a read after a panic");
        reloader.trigger();
    }
    with_deadline(move || drop(reloader));
    let after_all = reads.iter().count();
    assert!(after_all < 2, "reads after the last trigger: {after_all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_reload_does_not_end_the_handling_of_signals() {
    // From here on, SIGHUP is not ignored, even if `nohup` runs this test.
    let _caught = signal(SignalKind::hangup()).unwrap();
    let (called, mut calls) = mpsc::channel(3);
    let reload = move || {
        called.try_send(()).unwrap();
        resume_unwind(Box::new(PanicsOnDrop(2)));
    };
    let start = async |stop: CancellationToken| {
        let part: signals::Part = Box::pin(async move {
            for _ in 0..3 {
                kill_process(getpid(), Signal::HUP)?;
                let called = timeout(DEADLINE, calls.recv()).await?;
                called.ok_or("the signal handling has ended")?;
            }
            stop.cancel();
            Ok(())
        });
        Ok(vec![part])
    };
    assert_eq!(signals::run(start, reload).await, 0, "the exit code");
}
