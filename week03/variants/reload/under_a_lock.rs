//! A file that is read again when it changes. Here the watcher moves the pace
//! itself, under a lock, and wakes the thread that reads.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// Reads a file again and again.
pub struct Reloader {
    shared: Arc<Shared>,
    /// Until it is dropped.
    thread: Option<JoinHandle<()>>,
    _watcher: RecommendedWatcher,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    pace: Pace,
    is_over: bool,
}

/// When a file is read that may have changed.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Nothing has happened for so long: whoever writes has finished.
    pub quiet: Duration,
    /// So long is waited for that, from the first hint on.
    pub at_most: Duration,
    /// So long after a reading the next one is due, with or without a hint.
    pub anyway: Duration,
}

/// When the next reading is due.
#[derive(Debug)]
pub struct Pace {
    timing: Timing,
    begun: Option<Instant>,
    asked: Option<Instant>,
    /// The first and the last one.
    touched: Option<(Instant, Instant)>,
}

impl Pace {
    /// The first reading is due at once.
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self { timing, begun: None, asked: Some(now), touched: None }
    }

    /// When to read, unless something happens before.
    pub fn due(&self) -> Instant {
        let Timing { quiet, at_most, anyway } = self.timing;
        let touched = self
            .touched
            .map(|(first, last)| Instant::min(first + at_most, last + quiet));
        let anyway = self.begun.map(|begun| begun + anyway);
        let all = [self.asked, touched, anyway].into_iter().flatten();
        all.min().expect("one is asked for before the first has begun")
    }

    /// The file may have changed.
    pub fn touch(&mut self, now: Instant) {
        let first = self.touched.map_or(now, |(first, _)| first);
        self.touched = Some((first, now));
    }

    /// Somebody wants it to be read.
    pub fn ask(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// A reading begins.
    pub fn begin(&mut self, now: Instant) {
        (self.begun, self.asked, self.touched) = (Some(now), None, None);
    }
}

/// Whether something may have changed.
pub fn is_hint(event: &notify::Result<notify::Event>) -> bool {
    let Ok(event) = event else { return true };
    let reads = matches!(event.kind, EventKind::Access(_));
    let wrote = EventKind::Access(AccessKind::Close(AccessMode::Write));
    !reads || event.kind == wrote
}

impl Reloader {
    /// Watches `file`, and calls `read` now and whenever it may have changed.
    pub fn start(
        file: &Path,
        timing: Timing,
        mut read: impl FnMut() + Send + 'static,
    ) -> notify::Result<Self> {
        let pace = Pace::new(timing, Instant::now());
        let shared = Arc::new(Shared {
            state: Mutex::new(State { pace, is_over: false }),
            changed: Condvar::new(),
        });
        let tells = Arc::clone(&shared);
        let mut watcher = notify::recommended_watcher(move |event| {
            if is_hint(&event) {
                tells.state().pace.touch(Instant::now());
                tells.changed.notify_one();
            }
        })?;
        // Of a bare name, the folder is empty: that of the process. And what is
        // no folder has no dot in it.
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

    /// Has it read at once.
    pub fn ask(&self) {
        self.shared.state().pace.ask(Instant::now());
        self.shared.changed.notify_one();
    }
}

impl Shared {
    /// Until a reading begins. Whether one does.
    fn wait(&self) -> bool {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if state.is_over {
                return false;
            }
            if state.pace.due() <= now {
                state.pace.begin(now);
                return true;
            }
            let left: Duration = state.pace.due() - now;
            (state, _) = self.changed.wait_timeout(state, left).unwrap();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.changed.notify_one();
        let _ = self.thread.take().expect("it is dropped once").join();
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}
