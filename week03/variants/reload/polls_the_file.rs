//! Hot reload by polling: the thread compares the content of the file every
//! 5 ms, and uses no events. Its timers are those of a tokio runtime on the
//! thread.

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use tokio::sync::Notify;

/// Reads a file again whenever it may have changed.
#[derive(Debug)]
pub struct Reloader {
    commands: Arc<Commands>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Commands {
    is_triggered: AtomicBool,
    is_stopped: AtomicBool,
    /// Notified after one of the two is set.
    changed: Notify,
}

/// The times that decide when a file is read.
#[derive(Debug, Clone, Copy)]
pub struct Debounce {
    /// The quiet time required before a read.
    pub quiet: Duration,
    /// The longest time from the first hint to the read.
    pub max_delay: Duration,
    /// The longest time between the starts of two reads, with or without a
    /// hint.
    pub max_interval: Duration,
}

/// Computes when the next read is due.
#[derive(Debug)]
pub struct Schedule {
    debounce: Debounce,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle { begun: Instant },
    Waiting { begun: Instant, first: Instant, last: Instant },
    Due { since: Instant },
}

impl Schedule {
    /// Creates a schedule whose first read is due at once.
    pub fn new(debounce: Debounce, now: Instant) -> Self {
        Self { debounce, state: State::Due { since: now } }
    }

    /// Returns when the next read is due, if nothing happens before.
    pub fn due(&self) -> Instant {
        let Debounce { quiet, max_delay, max_interval } = self.debounce;
        match self.state {
            State::Idle { begun } => begun + max_interval,
            State::Waiting { begun, first, last } => {
                (first + max_delay).min(last + quiet).min(begun + max_interval)
            }
            State::Due { since } => since,
        }
    }

    /// Records a hint: the file may have changed.
    pub fn hint(&mut self, now: Instant) {
        match &mut self.state {
            State::Idle { begun } => {
                let begun = *begun;
                self.state = State::Waiting { begun, first: now, last: now };
            }
            State::Waiting { last, .. } => *last = now,
            State::Due { .. } => {}
        }
    }

    /// Records a trigger: a read is due at once.
    pub fn trigger(&mut self, now: Instant) {
        let since = self.due().min(now);
        self.state = State::Due { since };
    }

    /// Records that a read begins.
    pub fn begin(&mut self, now: Instant) {
        self.state = State::Idle { begun: now };
    }
}

/// Returns whether the file may have changed.
pub fn is_hint(event: &notify::Result<notify::Event>) -> bool {
    match event {
        Ok(event) => match event.kind {
            EventKind::Access(AccessKind::Close(mode)) => {
                mode == AccessMode::Write
            }
            EventKind::Access(_) => false,
            _ => true,
        },
        Err(_) => true,
    }
}

impl Reloader {
    /// Polls `file`. Calls `read` at once, and again whenever the file may have
    /// changed.
    pub fn start(
        file: &Path,
        debounce: Debounce,
        read: impl FnMut() + Send + 'static,
    ) -> notify::Result<Self> {
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::read_dir(&folder).map_err(notify::Error::io)?;
        let commands = Arc::<Commands>::default();
        let received = Arc::clone(&commands);
        let file = file.to_owned();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_time().build();
            let runtime =
                runtime.expect("a runtime with timers alone can be built");
            runtime.block_on(run(&file, debounce, &received, read));
        });
        Ok(Self { commands, thread: Some(thread) })
    }

    /// Triggers a read at once, and does not wait for it.
    pub fn trigger(&self) {
        self.commands.is_triggered.store(true, Relaxed);
        self.commands.changed.notify_one();
    }
}

async fn run(
    file: &Path,
    debounce: Debounce,
    commands: &Commands,
    mut read: impl FnMut(),
) {
    const POLL_INTERVAL: Duration = Duration::from_millis(5);

    let mut polls = tokio::time::interval(POLL_INTERVAL);
    let mut before = content(file);
    let mut schedule = Schedule::new(debounce, Instant::now());
    while !commands.is_stopped.load(Relaxed) {
        if commands.is_triggered.swap(false, Relaxed) {
            schedule.trigger(Instant::now());
        }
        if schedule.due() <= Instant::now() {
            schedule.begin(Instant::now());
            catch_panic(&mut read);
            continue;
        }
        tokio::select! {
            () = commands.changed.notified() => {}
            () = tokio::time::sleep_until(schedule.due().into()) => {}
            _ = polls.tick() => {
                let now = content(file);
                if now != before {
                    schedule.hint(Instant::now());
                    before = now;
                }
            }
        }
    }
    catch_panic(move || drop(read));
}

fn catch_panic(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        drop_payload(payload);
    }
}

/// Drops the payload of a panic. Its destructor may panic, too.
fn drop_payload(payload: Box<dyn Any + Send>) {
    let dropped = catch_unwind(AssertUnwindSafe(move || drop(payload)));
    dropped.unwrap_or_else(std::mem::forget);
}

/// Returns the content, or `None` if the file cannot be read.
fn content(file: &Path) -> Option<Vec<u8>> {
    fs::read(file).ok()
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.commands.is_stopped.store(true, Relaxed);
        self.commands.changed.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
