//! Signal handling and exit codes. As in the answer, a separate thread handles
//! the signals. In this variant, the parts are plain tasks with a drop guard.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::{io, process, thread};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
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
    let (registered, is_registered) = oneshot::channel();
    let token = stop.clone();
    thread::spawn(move || {
        if let Err(error) = handle_signals(token, reload, registered) {
            failed(&error);
        }
    });
    if is_registered.await.is_err() {
        return 1;
    }

    let parts = match start(stop.clone()).await {
        Ok(parts) => parts,
        Err(error) => return failed(&*error),
    };
    let spawned = |part: Part| {
        let stop = stop.clone();
        tokio::spawn(async move {
            // However the part ends, the other parts are cancelled.
            let stop = stop.drop_guard();
            part.await?;
            match stop.token().is_cancelled() {
                true => Ok(()),
                false => {
                    Err(BoxError::from("a part ended before its cancellation"))
                }
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

/// Handles signals until the process exits.
fn handle_signals(
    stop: CancellationToken,
    mut reload: impl FnMut(),
    registered: oneshot::Sender<()>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let _ = registered.send(());
        let mut is_shutting_down = false;
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
            if is_shutting_down {
                process::exit(128 + kind.as_raw_value());
            }
            is_shutting_down = true;
            stop.cancel();
        }
    })
}
