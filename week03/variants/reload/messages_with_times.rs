//! Hot reload with a lock instead of a channel: the watcher updates the
//! schedule under a lock, and wakes the thread that reads.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// Reads a file again whenever it may have changed.
pub struct Reloader {
    shared: Arc<Shared>,
    /// `Some` until the drop.
    thread: Option<JoinHandle<()>>,
    _watcher: RecommendedWatcher,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    schedule: Schedule,
    is_stopped: bool,
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
    begun: Option<Instant>,
    triggered: Option<Instant>,
    /// The first and the last hint since the last read began.
    hinted: Option<(Instant, Instant)>,
}

impl Schedule {
    /// Creates a schedule whose first read is due at once.
    pub fn new(debounce: Debounce, now: Instant) -> Self {
        Self { debounce, begun: None, triggered: Some(now), hinted: None }
    }

    /// Returns when the next read is due, if nothing happens before.
    pub fn due(&self) -> Instant {
        let Debounce { quiet, max_delay, max_interval } = self.debounce;
        let hinted = self
            .hinted
            .map(|(first, last)| Instant::min(first + max_delay, last + quiet));
        let max_interval = self.begun.map(|begun| begun + max_interval);
        let all = [self.triggered, hinted, max_interval].into_iter().flatten();
        all.min().expect("a trigger is set until the first read begins")
    }

    /// Records a hint: the file may have changed.
    pub fn hint(&mut self, now: Instant) {
        let first = self.hinted.map_or(now, |(first, _)| first);
        self.hinted = Some((first, now));
    }

    /// Records a trigger: a read is due at once.
    pub fn trigger(&mut self, now: Instant) {
        self.triggered.get_or_insert(now);
    }

    /// Records that a read begins.
    pub fn begin(&mut self, now: Instant) {
        (self.begun, self.triggered, self.hinted) = (Some(now), None, None);
    }
}

/// Returns whether the file may have changed.
pub fn is_hint(event: &notify::Result<notify::Event>) -> bool {
    let Ok(event) = event else { return true };
    let reads = matches!(event.kind, EventKind::Access(_));
    let wrote = EventKind::Access(AccessKind::Close(AccessMode::Write));
    !reads || event.kind == wrote
}

impl Reloader {
    /// Watches `file`. Calls `read` at once, and again whenever the file may
    /// have changed.
    pub fn start(
        file: &Path,
        debounce: Debounce,
        mut read: impl FnMut() + Send + 'static,
    ) -> notify::Result<Self> {
        let schedule = Schedule::new(debounce, Instant::now());
        let shared = Arc::new(Shared {
            state: Mutex::new(State { schedule, is_stopped: false }),
            changed: Condvar::new(),
        });
        let hints = Arc::clone(&shared);
        let mut watcher = notify::recommended_watcher(move |event| {
            if is_hint(&event) {
                hints.state().schedule.hint(Instant::now());
                hints.changed.notify_one();
            }
        })?;
        // The parent of a bare file name is empty: the first dot makes it the
        // working folder. The last dot makes it an error if the parent is a
        // file.
        let folder = file.parent().unwrap_or(Path::new("/"));
        let folder = Path::new(".").join(folder).join(".");
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        let reads = Arc::clone(&shared);
        let thread = spawn(move || {
            while reads.wait() {
                let _ = catch_unwind(AssertUnwindSafe(&mut read));
            }
        });
        Ok(Self { shared, thread: Some(thread), _watcher: watcher })
    }

    /// Triggers a read at once, and does not wait for it.
    pub fn trigger(&self) {
        self.shared.state().schedule.trigger(Instant::now());
        self.shared.changed.notify_one();
    }
}

impl Shared {
    /// Waits until a read begins. Returns `false` if the reloader stops
    /// instead.
    fn wait(&self) -> bool {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if state.is_stopped {
                return false;
            }
            if state.schedule.due() <= now {
                state.schedule.begin(now);
                return true;
            }
            let left: Duration = state.schedule.due() - now;
            (state, _) = self.changed.wait_timeout(state, left).unwrap();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.shared.state().is_stopped = true;
        self.shared.changed.notify_one();
        let _ = self.thread.take().expect("the drop takes it once").join();
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}
