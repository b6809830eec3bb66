//! Hot reload: reads a file again when it changes, and never misses its last
//! version.
//!
//! *Question.* Some editors write a new file and rename it over the old one.
//! Others truncate the file and write it in pieces. Kubernetes swaps a symlink
//! in the folder. When must the file be read, so that its last version is
//! always seen, and a half-written version rarely?
//!
//! *Idea.* An event is only a **hint** that the file may have changed. Every
//! event in the folder is a hint, unless it comes from reading. A burst of
//! hints leads to one read (debouncing): the file is read when the folder has
//! been **quiet** for a while, or after a maximum delay. If no hint comes, the
//! file is still read at a maximum interval. When to read is a pure function of
//! times.
//!
//! *Guarantee.* After each hint the file is read again: when there has been no
//! further hint for `quiet`, and at most `max_delay` after the first hint that
//! no read has answered. A [trigger](Reloader::trigger), for example on SIGHUP,
//! starts a read at once. The starts of two reads are never more than
//! `max_interval` apart. A read that fails or panics does not stop later reads.
//! A slow read delays the next read. All hints and triggers that arrive during
//! a read lead to one more read.
//!
//! *Cost.* A change is seen `quiet` late. A half-written file can still be
//! read, so `read` must reject invalid content. There is no event if a link in
//! the path of the folder is switched, if the file behind a link into another
//! folder changes, or on a network drive. Such a change is seen up to
//! `max_interval` late. Each write of `read` itself into the folder leads to
//! another read.
//!
//! ```
//! use std::time::Duration;
//! use week03::reload::{Debounce, Reloader};
//!
//! # fn main() -> notify::Result<()> {
//! let debounce = Debounce {
//!     quiet: Duration::from_millis(50),
//!     max_delay: Duration::from_secs(1),
//!     max_interval: Duration::from_secs(30),
//! };
//! let file = std::env::temp_dir().join("app.toml");
//! let reloader = Reloader::start(&file, debounce, || println!("read again"))?;
//! reloader.trigger(); // on SIGHUP
//! # Ok(())
//! # }
//! ```

use std::any::Any;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};

/// Reads a file again whenever it may have changed, on its own thread, until it
/// is dropped.
#[derive(Debug)]
pub struct Reloader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Not locked during a read: hints, triggers and the drop are recorded at
    /// once, and no queue grows.
    state: Mutex<State>,
    /// Notified when `state` changes. Only the thread that reads waits for it.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    schedule: Schedule,
    is_stopped: bool,
}

/// The times that decide when a file is read. Each is at most some years: it is
/// added to an `Instant`.
#[derive(Debug, Clone, Copy)]
pub struct Debounce {
    /// The quiet time required before a read. After it, the writer has probably
    /// finished.
    pub quiet: Duration,
    /// The longest time from the first hint to the read.
    pub max_delay: Duration,
    /// The longest time between the starts of two reads, with or without a
    /// hint.
    pub max_interval: Duration,
}

/// Computes when the next read is due. It uses neither a clock nor the file.
#[derive(Debug)]
pub struct Schedule {
    debounce: Debounce,
    due: Instant,
    /// Hints cannot postpone the read beyond this time.
    latest: Instant,
}

impl Schedule {
    /// Creates a schedule whose first read is due at once.
    pub fn new(debounce: Debounce, now: Instant) -> Self {
        Self { debounce, due: now, latest: now }
    }

    /// Returns the time at which the next read is due, if no hint, trigger or
    /// read comes before.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Records a hint: the file may have changed.
    pub fn hint(&mut self, now: Instant) {
        let Debounce { quiet, max_delay, .. } = self.debounce;
        // The first hint since the last read began sets the limit.
        self.latest = self.latest.min(now + max_delay);
        self.due = self.latest.min(now + quiet);
    }

    /// Records a trigger: a read is due at once.
    pub fn trigger(&mut self, now: Instant) {
        self.due = self.due.min(now);
        // Later hints do not postpone this read.
        self.latest = self.due;
    }

    /// Records that a read begins. It answers all earlier hints and triggers. A
    /// hint that arrives during the read counts for the next one, since this
    /// read may not see that change.
    pub fn begin(&mut self, now: Instant) {
        self.due = now + self.debounce.max_interval;
        self.latest = self.due;
    }
}

/// Returns whether the file may have changed. Reading a file also causes
/// events. They are not hints: otherwise each read would cause the next one. An
/// error is a hint, since events may have been lost.
pub fn is_hint(event: &notify::Result<notify::Event>) -> bool {
    const WRITTEN: AccessKind = AccessKind::Close(AccessMode::Write);
    match event.as_ref().map(|event| event.kind) {
        Ok(EventKind::Access(kind)) => kind == WRITTEN,
        Ok(_) | Err(_) => true,
    }
}

impl Reloader {
    /// Watches `file`, which need not exist. Calls `read` at once, and again
    /// whenever the file may have changed. Calls of `read` never overlap.
    /// `read` may trigger another read, and may drop the `Reloader`.
    ///
    /// # Errors
    ///
    /// Fails if the folder of `file` cannot be watched.
    pub fn start(
        file: &Path,
        debounce: Debounce,
        mut read: impl FnMut() + Send + 'static,
    ) -> notify::Result<Self> {
        let schedule = Schedule::new(debounce, Instant::now());
        let state = Mutex::new(State { schedule, is_stopped: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let hints = Arc::clone(&shared);
        let mut watcher = notify::recommended_watcher(move |event| {
            if is_hint(&event) {
                hints.update(|state| state.schedule.hint(Instant::now()));
            }
        })?;
        // Watch the folder: a watch on the file follows the old inode when
        // another file is renamed over it. The parent of a bare file name is
        // empty. The dot turns it into the working folder, and makes it an
        // error if the parent is a file.
        let folder = file.parent().unwrap_or(file).join(".");
        // Watch first, then read: otherwise a change in between is missed.
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        let reads = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while reads.wait_until_due() {
                // The path may lead to another folder than before. If there is
                // no folder now, the next read tries again.
                let _ = watcher.unwatch(&folder);
                let _ = watcher.watch(&folder, RecursiveMode::NonRecursive);
                catch_panic(&mut read);
            }
            drop(watcher);
            catch_panic(move || drop(read));
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Triggers a read at once, even if the file has not changed. Does not wait
    /// for the read.
    pub fn trigger(&self) {
        self.shared.update(|state| state.schedule.trigger(Instant::now()));
    }
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_one();
    }

    /// Waits until a read is due, and records its begin. Returns `false` if the
    /// `Reloader` has been dropped, even if a read is due.
    fn wait_until_due(&self) -> bool {
        let mut state = self.state();
        while !state.is_stopped {
            let now = Instant::now();
            let wait = state.schedule.due().saturating_duration_since(now);
            if wait.is_zero() {
                state.schedule.begin(now);
                return true;
            }
            let woken = self.changed.wait_timeout(state, wait);
            (state, _) = woken.expect("nothing under this lock panics");
        }
        false
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing under this lock panics")
    }
}

/// Runs `run`, and ends its panic, which the panic hook has printed.
fn catch_panic(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        drop_payload(payload);
    }
}

/// Drops the payload of a panic, whose destructor may panic again. The payload
/// of that second panic is leaked: its destructor could panic, too.
fn drop_payload(payload: Box<dyn Any + Send>) {
    let dropped = catch_unwind(AssertUnwindSafe(move || drop(payload)));
    dropped.unwrap_or_else(mem::forget);
}

impl Drop for Reloader {
    /// Waits for a read in progress, unless this read drops the `Reloader`.
    fn drop(&mut self) {
        self.shared.update(|state| state.is_stopped = true);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // Panics of `read` are caught in the thread.
            let _ = thread.join();
        }
    }
}
