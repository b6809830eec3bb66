//! Hot reload by polling: the thread compares the content of the file every
//! 5 ms, and uses no events. Its timers are those of a tokio runtime on the
//! thread.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, unbounded_channel,
};

/// Reads a file again whenever it may have changed.
#[derive(Debug)]
pub struct Reloader {
    triggers: Option<UnboundedSender<()>>,
    thread: Option<JoinHandle<()>>,
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
        let (triggers, triggered) = unbounded_channel();
        let file = file.to_owned();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_time().build();
            let runtime =
                runtime.expect("a runtime with timers alone can be built");
            runtime.block_on(run(&file, debounce, triggered, read));
        });
        Ok(Self { triggers: Some(triggers), thread: Some(thread) })
    }

    /// Triggers a read at once, and does not wait for it.
    pub fn trigger(&self) {
        let triggers =
            self.triggers.as_ref().expect("the sender is there until the drop");
        let _ = triggers.send(());
    }
}

async fn run(
    file: &Path,
    debounce: Debounce,
    mut triggered: UnboundedReceiver<()>,
    mut read: impl FnMut(),
) {
    const POLL_INTERVAL: Duration = Duration::from_millis(5);

    let mut polls = tokio::time::interval(POLL_INTERVAL);
    let mut before = content(file);
    let mut schedule = Schedule::new(debounce, Instant::now());
    loop {
        if schedule.due() <= Instant::now() {
            schedule.begin(Instant::now());
            let read = std::panic::AssertUnwindSafe(&mut read);
            let _ = std::panic::catch_unwind(read);
        }
        tokio::select! {
            trigger = triggered.recv() => match trigger {
                Some(()) => schedule.trigger(Instant::now()),
                None => return,
            },
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
}

/// Returns the content, or `None` if the file cannot be read.
fn content(file: &Path) -> Option<Vec<u8>> {
    fs::read(file).ok()
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.triggers = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
