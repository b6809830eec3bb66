//! Signal handling: graceful shutdown, forced exit, reload, and the exit code.
//!
//! *Question.* A supervisor sends signals to a process and reads its exit code.
//! What does the process do at each signal, and what does the exit code report?
//!
//! *Idea.* Register the signals first: a signal during startup must not kill
//! the process. The first SIGTERM, SIGINT or SIGQUIT begins **graceful
//! shutdown**: it cancels the token of the [group](crate::group) in which all
//! parts run. The second one **forces the exit**: the process exits at once.
//! SIGHUP reloads the configuration. Every other signal keeps its disposition,
//! and so does a signal that was ignored when the process started: `nohup` must
//! still work. A separate thread handles the signals, since parts may block all
//! other threads.
//!
//! *Guarantee.* After the first signal, the process exits with 0 when every
//! part has ended. If a part fails, or ends before its token is cancelled, the
//! other parts are cancelled and the exit code is 1. A second signal *n* ends
//! the process at once with the code 128 + *n*, which shells also report for a
//! process that *n* has killed. A panic in `reload` does not end the signal
//! handling.
//!
//! *Cost.* A thread, which sleeps between signals. Signals of one kind that
//! arrive faster than they are handled count as one. For 200 ms after the first
//! signal, no other signal forces the exit. tokio never removes its handlers, so
//! these signals stay caught until the process exits. A part that ignores its
//! token keeps the process alive until the second signal. Without `/proc`, as on
//! macOS, the process also catches signals that were ignored.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use tokio_util::sync::CancellationToken;
//! use week03::signals::{BoxError, Part, run};
//!
//! async fn start(stop: CancellationToken) -> Result<Vec<Part>, BoxError> {
//!     Ok(vec![Box::pin(async move {
//!         stop.cancelled().await;
//!         Ok(())
//!     })])
//! }
//!
//! #[tokio::main]
//! async fn main() -> ExitCode {
//!     run(start, || println!("reload")).await.into()
//! }
//! ```

use std::error::Error;
use std::future::pending;
use std::io::Write;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::{Duration, Instant};
use std::{fs, io, process, thread};

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::group::Group;

/// The error of a part.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A part of the process, such as a server or a consumer. It ends when the
/// token that was passed to `start` is cancelled.
pub type Part = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A signal that comes so soon after the first one repeats it. At Ctrl-C, for
/// example, the terminal signals the whole process group, and then the parent
/// process passes its own signal on.
const REPETITION: Duration = Duration::from_millis(200);

/// Runs the parts of a process until a signal or a failure ends them, and
/// returns the exit code.
///
/// Calls `reload` at once at each SIGHUP, also while `start` runs, and in the
/// context of the current runtime. `reload` must not block. Call `run` at most
/// once in a process: its signal handlers stay until the process exits.
///
/// # Panics
///
/// Panics if a part panics, once the other parts have ended.
pub async fn run<F>(
    start: impl FnOnce(CancellationToken) -> F,
    reload: impl FnMut() + Send + 'static,
) -> u8
where
    F: Future<Output = Result<Vec<Part>, BoxError>>,
{
    match run_parts(start, reload).await {
        Ok(()) => 0,
        Err(error) => {
            // `eprintln!` panics if stderr cannot be written, for instance
            // when the process that read it has ended.
            let _ = writeln!(io::stderr(), "error: {error}");
            1
        }
    }
}

async fn run_parts<F>(
    start: impl FnOnce(CancellationToken) -> F,
    reload: impl FnMut() + Send + 'static,
) -> Result<(), BoxError>
where
    F: Future<Output = Result<Vec<Part>, BoxError>>,
{
    let stop = CancellationToken::new();
    // Before anything else: from here on, no signal is lost, and none kills.
    handle_signals(stop.clone(), reload).await?;

    let mut group = Group::new(&stop);
    for part in start(group.token()).await? {
        let token = group.token();
        group.spawn(async move {
            part.await?;
            match token.is_cancelled() {
                true => Ok(()),
                false => Err("a part ended before its cancellation".into()),
            }
        });
    }
    group.wait().await
}

/// Starts a thread that handles signals until the process exits, and waits
/// until the signals are registered. The thread has a runtime of its own. So it
/// works while parts block all threads of their runtime, and after their
/// runtime has ended.
async fn handle_signals(
    stop: CancellationToken,
    reload: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    let (registered, is_registered) = oneshot::channel();
    let parts_runtime = Handle::current();
    let handle = move || {
        let runtime = Builder::new_current_thread().enable_io().build();
        let ready = runtime.and_then(|runtime| {
            let signals = runtime.block_on(async { Signals::register() })?;
            Ok((runtime, signals))
        });
        match ready {
            Ok((runtime, signals)) => {
                let _ = registered.send(Ok(()));
                runtime.block_on(signals.handle(stop, reload, parts_runtime));
            }
            Err(error) => drop(registered.send(Err(error))),
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(handle)?;
    is_registered.await.expect("the thread sends one result")
}

/// The signals that this process catches. `None` stands for a signal that it
/// ignores.
struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    quit: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    fn register() -> io::Result<Self> {
        Ok(Self {
            terminate: register(SignalKind::terminate())?,
            interrupt: register(SignalKind::interrupt())?,
            quit: register(SignalKind::quit())?,
            hangup: register(SignalKind::hangup())?,
        })
    }

    /// Handles signals until the process exits.
    async fn handle(
        mut self,
        stop: CancellationToken,
        mut reload: impl FnMut(),
        parts_runtime: Handle,
    ) {
        let mut reload = move || {
            // Tasks that `reload` spawns run in the runtime of the parts.
            let _context = parts_runtime.enter();
            reload();
        };
        let mut first: Option<Instant> = None;
        loop {
            let kind = tokio::select! {
                () = receive(&mut self.terminate) => SignalKind::terminate(),
                () = receive(&mut self.interrupt) => SignalKind::interrupt(),
                () = receive(&mut self.quit) => SignalKind::quit(),
                () = receive(&mut self.hangup) => {
                    // The panic hook has printed the message already. If a
                    // panic ended this loop, later signals would neither be
                    // handled nor kill the process. The payload is not dropped,
                    // since its destructor may panic, too.
                    if let Err(payload) =
                        catch_unwind(AssertUnwindSafe(&mut reload))
                    {
                        forget(payload);
                    }
                    continue;
                }
            };
            match first {
                None => first = Some(Instant::now()),
                Some(first) if first.elapsed() < REPETITION => continue,
                Some(_) => process::exit(128 + kind.as_raw_value()),
            }
            stop.cancel();
        }
    }
}

/// Registers a signal, unless the process ignores it: `nohup` ignores SIGHUP,
/// and a shell script ignores SIGINT and SIGQUIT in its background processes.
fn register(kind: SignalKind) -> io::Result<Option<Signal>> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let bit = 1 << (kind.as_raw_value() - 1);
    match ignored {
        Some(mask) if mask & bit != 0 => Ok(None),
        _ => signal(kind).map(Some),
    }
}

/// Waits for the next `signal`, forever if the process ignores it.
async fn receive(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => pending().await,
    }
}
