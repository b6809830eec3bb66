//! Signal handling and exit codes. In this variant, each signal has a task of
//! its own, in a runtime that is never shut down. A `JoinSet` joins the parts.

use std::error::Error;
use std::pin::Pin;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::runtime::Builder;
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
        Ok(all) => all.into_iter().for_each(|part| drop(parts.spawn(part))),
        Err(error) => return failed(&*error),
    }
    let mut code = 0;
    while let Some(ended) = parts.join_next().await {
        let ended = ended.map_err(BoxError::from).flatten();
        if let Err(error) = &ended {
            code = failed(&**error);
        } else if !stop.is_cancelled() {
            code = 1;
        }
        stop.cancel();
    }
    code
}

fn failed(error: &dyn Error) -> u8 {
    eprintln!("error: {error}");
    1
}

/// Registers the signals, and spawns their tasks.
fn handle_signals(
    stop: &CancellationToken,
    mut reload: impl FnMut() + Send + 'static,
) -> std::io::Result<()> {
    let runtime =
        Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
    // Never dropped: it runs until the process exits.
    let runtime = Box::leak(Box::new(runtime));
    let _context = runtime.enter();
    let has_begun = Arc::new(AtomicBool::new(false));
    for kind in
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()]
    {
        let mut signals = signal(kind)?;
        let (stop, has_begun) = (stop.clone(), Arc::clone(&has_begun));
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                if has_begun.swap(true, Relaxed) {
                    exit(128 + kind.as_raw_value());
                }
                stop.cancel();
            }
        });
    }
    let mut hangups = signal(SignalKind::hangup())?;
    let (request, mut requests) = tokio::sync::mpsc::channel(1);
    // A panic of `reload` ends neither this thread nor the task below.
    std::thread::spawn(move || {
        while requests.blocking_recv().is_some() {
            let reload = std::panic::AssertUnwindSafe(&mut reload);
            let _ = std::panic::catch_unwind(reload);
        }
    });
    runtime.spawn(async move {
        while hangups.recv().await.is_some() {
            let _ = request.send(()).await;
        }
    });
    Ok(())
}
