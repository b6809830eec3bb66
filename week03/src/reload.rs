//! A file that is read again when it changes, and whose last version is not missed.
//!
//! *Question.* Editors write beside a file and rename, others truncate it and
//! write in pieces, Kubernetes swaps a link in the folder. When is the file read,
//! so that its last version is always seen, and rarely half of one?
//!
//! *Idea.* An event is a **hint** that something may be different, and no more:
//! what is true stands in the file. So everything that happens in the folder
//! counts, a burst of it is one hint, and the reading is done when it is
//! **quiet**, or when waiting for that takes too long. Where no hint comes, it is
//! read now and then all the same. When to read is a pure function of times.
//!
//! *Guarantee.* After the last hint the file is read once more, after `quiet` if
//! nothing else happens, and never later than `at_most` after the first hint that
//! no reading has answered. Who asks ([`ask`](Reloader::ask), on SIGHUP) is
//! answered at once. From one reading to the next it is never longer than `anyway`.
//! A reading that fails or panics ends nothing; one that takes long puts off what
//! is due meanwhile, and hints that wait for it count from its end.
//!
//! *Cost.* A change is seen `quiet` late. Half a file can be read all the same:
//! whoever reads must refuse what is broken. A folder that is itself replaced, and
//! a file behind a link into another one, give no events, and neither do network
//! drives: then `anyway` is how late it is.
//!
//! ```
//! use std::time::Duration;
//! use week03::reload::{Reloader, Timing};
//!
//! # fn main() -> notify::Result<()> {
//! let timing = Timing {
//!     quiet: Duration::from_millis(50),
//!     at_most: Duration::from_secs(1),
//!     anyway: Duration::from_secs(30),
//! };
//! let file = std::env::temp_dir().join("app.toml");
//! let reloader = Reloader::start(&file, timing, || println!("read again"))?;
//! reloader.ask(); // SIGHUP does it
//! # Ok(())
//! # }
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};

/// Reads a file again and again, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Reloader {
    hints: Sender<Hint>,
    thread: Option<JoinHandle<()>>,
}

/// When a file is read that may have changed. Each is at most some years: it is
/// added to an `Instant`.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long nothing has to happen: then whoever writes has probably finished.
    pub quiet: Duration,
    /// The longest wait for that, counted from the first hint.
    pub at_most: Duration,
    /// So long after a reading the next one is due, with or without a hint.
    pub anyway: Duration,
}

/// When the next reading is due. It knows no clock and no file.
#[derive(Debug)]
pub struct Pace {
    timing: Timing,
    due: Instant,
    /// Until then hints can put it off.
    latest: Instant,
}

enum Hint {
    Touched,
    Asked,
    Stop,
}

impl Pace {
    /// The first reading is due at once.
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self { timing, due: now, latest: now }
    }

    /// When to read, unless something happens before.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// The file may have changed.
    pub fn touch(&mut self, now: Instant) {
        let Timing { quiet, at_most, .. } = self.timing;
        // Of all touches since a reading began, the first one has the say.
        self.latest = self.latest.min(now + at_most);
        self.due = self.latest.min(now + quiet);
    }

    /// Somebody wants it to be read.
    pub fn ask(&mut self, now: Instant) {
        self.due = self.due.min(now);
        // What is touched from here on does not put it off.
        self.latest = self.due;
    }

    /// A reading begins. It answers all hints so far. What comes while it goes on
    /// may be news that it does not see, and is the next one's.
    pub fn begin(&mut self, now: Instant) {
        self.due = now + self.timing.anyway;
        self.latest = self.due;
    }
}

/// Whether something may have changed. Reading is an event as well, and must not
/// count: who reads at each hint would cause the next one. Where events were lost,
/// anything may have happened.
pub fn is_hint(event: &notify::Result<notify::Event>) -> bool {
    const WRITTEN: AccessKind = AccessKind::Close(AccessMode::Write);
    match event.as_ref().map(|event| event.kind) {
        Ok(EventKind::Access(how)) => how == WRITTEN,
        Ok(_) | Err(_) => true,
    }
}

impl Reloader {
    /// Watches `file`, which need not exist, and calls `read` now and whenever it
    /// may have changed, with one call after the other. `read` must not drop what
    /// is returned: that waits for it.
    ///
    /// # Errors
    ///
    /// When its folder cannot be watched.
    pub fn start(
        file: &Path,
        timing: Timing,
        read: impl FnMut() + Send + 'static,
    ) -> notify::Result<Self> {
        let (hints, heard) = channel();
        let tell = hints.clone();
        let mut watcher = notify::recommended_watcher(move |event| {
            if is_hint(&event) {
                // Nobody listens any more once it has been stopped.
                let _ = tell.send(Hint::Touched);
            }
        })?;
        // The folder, since a watch on the file stays with what is renamed over.
        // Of a name alone it is empty. With a dot, it is the working folder then,
        // and what is no folder is an error.
        let folder = file.parent().unwrap_or(file).join(".");
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        // And then the first reading: a change in between would be missed.
        let pace = Pace::new(timing, Instant::now());
        let thread = thread::spawn(move || {
            let _watcher = watcher;
            run(pace, &heard, read);
        });
        Ok(Self { hints, thread: Some(thread) })
    }

    /// Has it read at once, also when nothing has changed. Does not wait.
    pub fn ask(&self) {
        // It ends only when this is dropped.
        let _ = self.hints.send(Hint::Asked);
    }
}

fn run(mut pace: Pace, hints: &Receiver<Hint>, mut read: impl FnMut()) {
    loop {
        // Not only where no hint is waiting: there may always be one.
        if pace.due() <= Instant::now() {
            pace.begin(Instant::now());
            // It has been printed by then, and the next version may be better.
            let _ = catch_unwind(AssertUnwindSafe(&mut read));
        }
        let wait = pace.due().saturating_duration_since(Instant::now());
        match hints.recv_timeout(wait) {
            Ok(Hint::Touched) => pace.touch(Instant::now()),
            Ok(Hint::Asked) => pace.ask(Instant::now()),
            Ok(Hint::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Drop for Reloader {
    /// Waits for a reading that is under way.
    fn drop(&mut self) {
        let _ = self.hints.send(Hint::Stop);
        if let Some(thread) = self.thread.take() {
            // What panics in it is caught.
            let _ = thread.join();
        }
    }
}
