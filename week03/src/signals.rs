//! A process and its signals: one part goes, all go, and the exit code tells why.
//!
//! *Question.* Whoever runs a process speaks to it in signals and hears from it
//! one number. What does each signal do, and what does the number say?
//!
//! *Idea.* Register first: a signal that comes during the start must not kill.
//! The first SIGTERM, SIGINT or SIGQUIT **asks**: it cancels the token of the
//! [group](crate::group) in which all parts run. The second **insists**: the
//! process exits at once. SIGHUP means "read your configuration again". Every
//! other signal keeps its default. All that is heard by a thread of its own, since
//! what hangs may have taken every other one.
//!
//! *Guarantee.* Asked to stop, the process exits with 0 when every part has
//! ended. If a part fails, or ends without being asked to, the others are
//! stopped and the code is 1. A second signal *n* ends it at once with 128 + *n*,
//! as if it had killed. A reload that panics takes no signal away.
//!
//! *Cost.* A thread, which sleeps. Signals of one kind that come faster than they
//! are heard are one. The handlers stay for the life of the process:
//! tokio does not give them back. A part that never looks at its token keeps the
//! process until somebody insists.
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
//!     run(start, || println!("again")).await.into()
//! }
//! ```

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::{io, process, thread};

use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::group::Group;

/// Whatever a part fails with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What the process is made of: a server, a consumer. It ends when the token is
/// cancelled that `start` was given.
pub type Part = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Starts a process of parts, runs it until a signal or a failure ends it, and
/// returns its exit code. `reload` is called at each SIGHUP, in this runtime, and
/// must not block. Once in a process: its signals are this one's to the end.
///
/// # Panics
///
/// With what a part has panicked with, once the others have ended.
pub async fn run<F>(
    start: impl FnOnce(CancellationToken) -> F,
    reload: impl FnMut() + Send + 'static,
) -> u8
where
    F: Future<Output = Result<Vec<Part>, BoxError>>,
{
    match parts(start, reload).await {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            1
        }
    }
}

async fn parts<F>(
    start: impl FnOnce(CancellationToken) -> F,
    reload: impl FnMut() + Send + 'static,
) -> Result<(), BoxError>
where
    F: Future<Output = Result<Vec<Part>, BoxError>>,
{
    let stop = CancellationToken::new();
    // Before anything else: from here on no signal is lost, and none kills.
    hear(stop.clone(), reload).await?;

    let mut group = Group::new(&stop);
    for part in start(group.token()).await? {
        let token = group.token();
        group.spawn(async move {
            part.await?;
            match token.is_cancelled() {
                true => Ok(()),
                false => Err("a part has ended, and was not asked to".into()),
            }
        });
    }
    group.wait().await
}

/// Starts to hear signals, until the process exits. In a runtime of its own: it
/// does also while parts block all threads of theirs, and after its end.
async fn hear(
    stop: CancellationToken,
    reload: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    let (tell, told) = oneshot::channel();
    let home = Handle::current();
    let hear = move || {
        let runtime = Builder::new_current_thread().enable_io().build();
        let hears = runtime.and_then(|runtime| {
            let signals = runtime.block_on(async { Signals::register() })?;
            Ok((runtime, signals))
        });
        match hears {
            Ok((runtime, signals)) => {
                let _ = tell.send(Ok(()));
                runtime.block_on(signals.handle(stop, reload, home));
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(hear)?;
    told.await.expect("it tells")
}

/// The signals that this process hears instead of dying of them.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
}

impl Signals {
    fn register() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Until the process exits.
    async fn handle(
        mut self,
        stop: CancellationToken,
        mut reload: impl FnMut(),
        home: Handle,
    ) {
        let mut reload = move || {
            // What it spawns is no business of this thread.
            let _home = home.enter();
            reload();
        };
        loop {
            let kind = tokio::select! {
                _ = self.terminate.recv() => SignalKind::terminate(),
                _ = self.interrupt.recv() => SignalKind::interrupt(),
                _ = self.quit.recv() => SignalKind::quit(),
                _ = self.hangup.recv() => {
                    // It has been printed by then. If it ended this loop, the
                    // signals would be heard by nobody, and kill nobody.
                    let _ = catch_unwind(AssertUnwindSafe(&mut reload));
                    continue;
                }
            };
            if stop.is_cancelled() {
                process::exit(128 + kind.as_raw_value());
            }
            stop.cancel();
        }
    }
}
