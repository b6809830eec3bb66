//! Signal handling and exit codes. In this variant, each signal has a task of
//! its own, in a runtime that is never shut down. A `JoinSet` joins the parts.

use std::error::Error;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::exit;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The error of a part.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A part of the process, such as a server or a consumer.
pub type Part = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Runs the parts of a process, and returns the exit code.
pub async fn run<F>(
    start: impl FnOnce(CancellationToken) -> F,
    reload: impl FnMut() + Send + 'static,
) -> u8
where
    F: Future<Output = Result<Vec<Part>, BoxError>>,
{
    let stop = CancellationToken::new();
    if let Err(error) = handle_signals(&stop, reload) {
        return failed(&error);
    }
    let mut parts = JoinSet::new();
    match start(stop.clone()).await {
        Ok(all) => all.into_iter().for_each(|part| {
            let stop = stop.clone();
            // Whether a part ends early is decided when it ends, not when it
            // is joined: a signal may come in between.
            parts.spawn(async move { (part.await, stop.is_cancelled()) });
        }),
        Err(error) => return failed(&*error),
    }
    let mut code = 0;
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok((Ok(()), true)) => {}
            Ok((Ok(()), false)) => code = 1,
            Ok((Err(error), _)) => code = failed(&*error),
            Err(error) => code = failed(&error),
        }
        stop.cancel();
    }
    code
}

fn failed(error: &dyn Error) -> u8 {
    // `eprintln!` panics if stderr cannot be written.
    let _ = writeln!(io::stderr(), "error: {error}");
    1
}

/// Registers the signals, and spawns their tasks.
fn handle_signals(
    stop: &CancellationToken,
    mut reload: impl FnMut() + Send + 'static,
) -> std::io::Result<()> {
    let parts_runtime = Handle::current();
    let runtime =
        Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
    // Never dropped: it runs until the process exits.
    let runtime = Box::leak(Box::new(runtime));
    let _context = runtime.enter();
    let ignored = ignored_signals();
    let is_ignored = |kind: SignalKind| {
        ignored.unwrap_or(0) & 1 << (kind.as_raw_value() - 1) != 0
    };
    let first = Arc::new(OnceLock::<Instant>::new());
    for kind in
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()]
    {
        if is_ignored(kind) {
            continue;
        }
        let mut signals = signal(kind)?;
        let (stop, first) = (stop.clone(), Arc::clone(&first));
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                // At Ctrl-C, the terminal and the parent may both send it.
                if first.get_or_init(Instant::now).elapsed()
                    >= Duration::from_millis(200)
                {
                    exit(128 + kind.as_raw_value());
                }
                stop.cancel();
            }
        });
    }
    if is_ignored(SignalKind::hangup()) {
        return Ok(());
    }
    let mut hangups = signal(SignalKind::hangup())?;
    let (request, mut requests) = tokio::sync::mpsc::channel(1);
    // A panic of `reload` ends neither this thread nor the task below.
    std::thread::spawn(move || {
        let _context = parts_runtime.enter();
        while requests.blocking_recv().is_some() {
            let called = catch_unwind(AssertUnwindSafe(&mut reload));
            // Not dropped: the destructor of a payload may panic, too.
            called.unwrap_or_else(std::mem::forget);
        }
    });
    runtime.spawn(async move {
        while hangups.recv().await.is_some() {
            let _ = request.send(()).await;
        }
    });
    Ok(())
}

/// Returns the mask of the signals that this process ignores. Returns `None` on
/// a system without `/proc`.
fn ignored_signals() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}
