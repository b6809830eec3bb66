//! A process and its signals. Here each signal has a task that listens to it, in a
//! runtime that is never shut down, and the parts are joined by hand.

use std::error::Error;
use std::pin::Pin;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Whatever a part fails with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What the process is made of.
pub type Part = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Runs a process of parts, and returns its exit code.
pub async fn run<F>(
    start: impl FnOnce(CancellationToken) -> F,
    reload: impl FnMut() + Send + 'static,
) -> u8
where
    F: Future<Output = Result<Vec<Part>, BoxError>>,
{
    let stop = CancellationToken::new();
    if let Err(error) = listen(&stop, reload) {
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

fn listen(
    stop: &CancellationToken,
    mut reload: impl FnMut() + Send + 'static,
) -> std::io::Result<()> {
    let runtime =
        Builder::new_multi_thread().worker_threads(1).enable_io().build()?;
    // The process has it to its end.
    let listeners = Box::leak(Box::new(runtime));
    let _in_it = listeners.enter();
    let is_told = Arc::new(AtomicBool::new(false));
    for kind in
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()]
    {
        let mut comes = signal(kind)?;
        let (stop, is_told) = (stop.clone(), Arc::clone(&is_told));
        listeners.spawn(async move {
            while comes.recv().await.is_some() {
                if is_told.swap(true, Relaxed) {
                    exit(128 + kind.as_raw_value());
                }
                stop.cancel();
            }
        });
    }
    let mut hangup = signal(SignalKind::hangup())?;
    let (again, mut asked) = tokio::sync::mpsc::channel(1);
    // It may panic there, once for each time.
    std::thread::spawn(move || {
        while asked.blocking_recv().is_some() {
            let reload = std::panic::AssertUnwindSafe(&mut reload);
            let _ = std::panic::catch_unwind(reload);
        }
    });
    listeners.spawn(async move {
        while hangup.recv().await.is_some() {
            let _ = again.send(()).await;
        }
    });
    Ok(())
}
