//! Detects changes of one file, by file system events and by polling.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Event;
use crate::grading::grade::content_hash;

/// The quiet time required before a read: an editor may save in several steps.
const QUIET_TIME: Duration = Duration::from_millis(20);

/// The longest time from the first event to a read, for a file that is written
/// all the time.
const MAX_DELAY: Duration = Duration::from_millis(200);

/// The polling interval while file system events arrive.
const SLOW_POLL: Duration = Duration::from_millis(500);

/// The polling interval without file system events.
const FAST_POLL: Duration = Duration::from_millis(200);

/// After this many changes without an event, events are no longer expected. A
/// single one may be due to a folder that was replaced: it is watched again.
const MAX_MISSED: u32 = 2;

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    Missing,
    Hash(String),
}

/// One file under watch. The watcher is set on its folder, since many editors
/// replace the file by a new one.
#[derive(Debug)]
pub(super) struct WatchedFile {
    file: PathBuf,
    events: Sender<Event>,
    /// The error is the reason why no file system events arrive.
    watcher: Result<RecommendedWatcher, String>,
    /// The number of changes without an event, since the last event.
    missed: u32,
    /// The times of the first and the last event since the last read.
    changed: Option<(Instant, Instant)>,
    last_read: Instant,
}

impl WatchedFile {
    /// Starts to watch `file`. Each change is sent to `events`.
    pub(super) fn new(file: PathBuf, events: &Sender<Event>) -> Self {
        let watcher = watcher(&file, events);
        let events = events.clone();
        let last_read = Instant::now();
        Self { file, events, watcher, missed: 0, changed: None, last_read }
    }

    /// Called for each file system event.
    pub(super) fn handle_change(&mut self, now: Instant) {
        let first = self.changed.map_or(now, |(first, _)| first);
        self.changed = Some((first, now));
    }

    /// Returns when to [`read`](Self::read) the file next, unless an event
    /// arrives before.
    pub(super) fn next_read(&self) -> Instant {
        let interval = if self.watcher.is_ok() { SLOW_POLL } else { FAST_POLL };
        let poll = self.last_read + interval;
        match self.changed {
            None => poll,
            Some((first, last)) => {
                poll.min((last + QUIET_TIME).min(first + MAX_DELAY))
            }
        }
    }

    /// Reads the file, and compares it with the content `before` to notice
    /// changes without an event.
    pub(super) fn read(&mut self, before: &Content, now: Instant) -> Content {
        self.last_read = now;
        let had_event = self.changed.take().is_some();
        let content = Content::read(&self.file);
        if had_event {
            self.missed = 0;
        } else if content != *before && self.watcher.is_ok() {
            self.missed += 1;
            self.watcher = if self.missed < MAX_MISSED {
                watcher(&self.file, &self.events)
            } else {
                Err("no events from this file system".to_owned())
            };
        }
        content
    }

    /// Returns a notice if the file is polled for lack of events.
    pub(super) fn polling_notice(&self) -> Option<String> {
        let reason = self.watcher.as_ref().err()?;
        let times = 1000 / FAST_POLL.as_millis();
        Some(format!("{reason}: reading the file {times} times a second"))
    }
}

impl Content {
    fn read(file: &Path) -> Self {
        match fs::read(file) {
            Ok(text) => Self::Hash(content_hash(&text)),
            Err(_) => Self::Missing,
        }
    }
}

fn watcher(
    file: &Path,
    events: &Sender<Event>,
) -> Result<RecommendedWatcher, String> {
    let name = file.file_name().map(ToOwned::to_owned);
    let events = events.clone();
    let send = move |event: notify::Result<notify::Event>| {
        let is_relevant = event.as_ref().is_ok_and(|event| {
            let is_read = matches!(event.kind, EventKind::Access(how)
                if how != AccessKind::Close(AccessMode::Write));
            let mut paths = event.paths.iter();
            !is_read && paths.any(|path| path.file_name() == name.as_deref())
        });
        if is_relevant || event.is_err() {
            // The receiver is dropped when the command ends.
            let _ = events.send(Event::FileChanged);
        }
    };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut watcher = notify::recommended_watcher(send)
        .map_err(|error| format!("no events ({error})"))?;
    watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .map_err(|error| format!("no events ({error})"))?;
    Ok(watcher)
}
