//! A file that is read again when it changes. Here there is no event at all: the
//! folder is looked at, and a runtime of its own has the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, unbounded_channel,
};

/// Reads a file again and again.
#[derive(Debug)]
pub struct Reloader {
    asks: Option<UnboundedSender<()>>,
    thread: Option<JoinHandle<()>>,
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
    state: State,
}

#[derive(Debug)]
enum State {
    Idle { begun: Instant },
    Touched { begun: Instant, first: Instant, last: Instant },
    Due { since: Instant },
}

impl Pace {
    /// The first reading is due at once.
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self { timing, state: State::Due { since: now } }
    }

    /// When to read, unless something happens before.
    pub fn due(&self) -> Instant {
        let Timing { quiet, at_most, anyway } = self.timing;
        match self.state {
            State::Idle { begun } => begun + anyway,
            State::Touched { begun, first, last } => {
                (first + at_most).min(last + quiet).min(begun + anyway)
            }
            State::Due { since } => since,
        }
    }

    /// The file may have changed.
    pub fn touch(&mut self, now: Instant) {
        match &mut self.state {
            State::Idle { begun } => {
                let begun = *begun;
                self.state = State::Touched { begun, first: now, last: now };
            }
            State::Touched { last, .. } => *last = now,
            State::Due { .. } => {}
        }
    }

    /// Somebody wants it to be read.
    pub fn ask(&mut self, now: Instant) {
        let since = self.due().min(now);
        self.state = State::Due { since };
    }

    /// A reading begins.
    pub fn begin(&mut self, now: Instant) {
        self.state = State::Idle { begun: now };
    }
}

/// Whether something may have changed.
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
    /// Looks at `file`, and calls `read` now and whenever it may have changed.
    pub fn start(
        file: &Path,
        timing: Timing,
        read: impl FnMut() + Send + 'static,
    ) -> notify::Result<Self> {
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        fs::read_dir(&folder).map_err(notify::Error::io)?;
        let (asks, asked) = unbounded_channel();
        let file = file.to_owned();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_time().build();
            let runtime = runtime.expect("it takes no more than a clock");
            runtime.block_on(run(&file, timing, asked, read));
        });
        Ok(Self { asks: Some(asks), thread: Some(thread) })
    }

    /// Has it read at once.
    pub fn ask(&self) {
        let asks = self.asks.as_ref().expect("until it is dropped");
        let _ = asks.send(());
    }
}

async fn run(
    file: &Path,
    timing: Timing,
    mut asked: UnboundedReceiver<()>,
    mut read: impl FnMut(),
) {
    const LOOK: Duration = Duration::from_millis(5);

    let mut looks = tokio::time::interval(LOOK);
    let mut before = stamp(file);
    let mut pace = Pace::new(timing, Instant::now());
    loop {
        if pace.due() <= Instant::now() {
            pace.begin(Instant::now());
            let read = std::panic::AssertUnwindSafe(&mut read);
            let _ = std::panic::catch_unwind(read);
        }
        tokio::select! {
            ask = asked.recv() => match ask {
                Some(()) => pace.ask(Instant::now()),
                None => return,
            },
            () = tokio::time::sleep_until(pace.due().into()) => {}
            _ = looks.tick() => {
                let now = stamp(file);
                if now != before {
                    pace.touch(Instant::now());
                    before = now;
                }
            }
        }
    }
}

/// Differs where the text may differ.
fn stamp(file: &Path) -> Option<Vec<u8>> {
    fs::read(file).ok()
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
