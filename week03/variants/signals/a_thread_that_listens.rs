//! A process and its signals. Here a thread of its own hears them, also while
//! the parts keep every other thread busy.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::{io, process, thread};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
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
    let (ready, is_ready) = oneshot::channel();
    let token = stop.clone();
    thread::spawn(move || {
        if let Err(error) = listen(token, reload, ready) {
            failed(&error);
        }
    });
    if is_ready.await.is_err() {
        return 1;
    }

    let parts = match start(stop.clone()).await {
        Ok(parts) => parts,
        Err(error) => return failed(&*error),
    };
    let spawned = |part: Part| {
        let stop = stop.clone();
        tokio::spawn(async move {
            // However it ends: one goes, all go.
            let stop = stop.drop_guard();
            part.await?;
            match stop.token().is_cancelled() {
                true => Ok(()),
                false => Err(BoxError::from("a part has left")),
            }
        })
    };
    let tasks: Vec<_> = parts.into_iter().map(spawned).collect();
    let mut code = 0;
    for task in tasks {
        if let Err(error) = task.await.map_err(BoxError::from).flatten() {
            code = failed(&*error);
        }
    }
    code
}

fn failed(error: &dyn Error) -> u8 {
    eprintln!("error: {error}");
    1
}

/// Until the process exits.
fn listen(
    stop: CancellationToken,
    mut reload: impl FnMut(),
    ready: oneshot::Sender<()>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let _ = ready.send(());
        let mut is_told = false;
        loop {
            let kind = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = quit.recv() => SignalKind::quit(),
                _ = hangup.recv() => {
                    let _ = catch_unwind(AssertUnwindSafe(&mut reload));
                    continue;
                }
            };
            if is_told {
                process::exit(128 + kind.as_raw_value());
            }
            is_told = true;
            stop.cancel();
        }
    })
}
