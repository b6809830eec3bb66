//! Signal handling and exit codes. As in the answer, a separate thread handles
//! the signals. In this variant, the parts are plain tasks with a drop guard.

use std::error::Error;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::{Duration, Instant};
use std::{fs, io, mem, process, thread};

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
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
    let parts_runtime = Handle::current();
    thread::spawn(move || {
        // Tasks that `reload` spawns run in the runtime of the parts.
        let reload = {
            let mut reload = reload;
            move || {
                let _context = parts_runtime.enter();
                reload();
            }
        };
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
    // `eprintln!` panics if stderr cannot be written.
    let _ = writeln!(io::stderr(), "error: {error}");
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
        let mut terminate = register(SignalKind::terminate())?;
        let mut interrupt = register(SignalKind::interrupt())?;
        let mut quit = register(SignalKind::quit())?;
        let mut hangup = register(SignalKind::hangup())?;
        let _ = registered.send(());
        let mut repetitions_end: Option<Instant> = None;
        loop {
            let kind = tokio::select! {
                Some(()) = receive(&mut terminate), if terminate.is_some() => {
                    SignalKind::terminate()
                }
                Some(()) = receive(&mut interrupt), if interrupt.is_some() => {
                    SignalKind::interrupt()
                }
                Some(()) = receive(&mut quit), if quit.is_some() => {
                    SignalKind::quit()
                }
                Some(()) = receive(&mut hangup), if hangup.is_some() => {
                    let reload = AssertUnwindSafe(&mut reload);
                    // The destructor of the payload may panic, too.
                    catch_unwind(reload).unwrap_or_else(mem::forget);
                    continue;
                }
                else => return Ok(()),
            };
            match repetitions_end {
                None => {
                    let now = Instant::now();
                    repetitions_end = Some(now + Duration::from_millis(250));
                    stop.cancel();
                }
                // At Ctrl-C, the terminal and the parent may both send it.
                Some(end) if Instant::now() < end => {}
                Some(_) => process::exit(128 + kind.as_raw_value()),
            }
        }
    })
}

/// Registers a signal, unless the process ignores it. Linux reports that.
fn register(kind: SignalKind) -> io::Result<Option<Signal>> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.unwrap_or("0").trim();
    let mask = u64::from_str_radix(mask, 16).unwrap_or(0);
    match mask >> (kind.as_raw_value() - 1) & 1 {
        0 => signal(kind).map(Some),
        _ => Ok(None),
    }
}

async fn receive(signal: &mut Option<Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}
