//! Sees that a file has changed, also where the file system does not say so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Event;
use crate::grading::grade::content_hash;

/// A save may come in pieces: nothing is read before it is quiet for so long.
const QUIET: Duration = Duration::from_millis(20);

/// A file that is written all the time is read all the same.
const RESTLESS: Duration = Duration::from_millis(200);

/// How often the file is looked at where events are expected, and where not.
const NOW_AND_THEN: Duration = Duration::from_millis(500);
const OFTEN: Duration = Duration::from_millis(200);

/// So many changes that no event announced, and none is expected any more. One
/// alone may be a folder that was replaced, and is watched again.
const MISSED: u32 = 2;

/// What stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Text {
    Missing,
    Hash(String),
}

/// Watches one file, through the folder in which editors put a new one in its
/// place.
#[derive(Debug)]
pub(super) struct Saves {
    file: PathBuf,
    events: Sender<Event>,
    /// `None`: there are no events, for this reason.
    watcher: Result<RecommendedWatcher, String>,
    missed: u32,
    /// When the first and the last event came that nobody has looked after.
    touched: Option<(Instant, Instant)>,
    looked: Instant,
}

impl Saves {
    pub(super) fn of(file: PathBuf, events: &Sender<Event>) -> Self {
        let watcher = watcher(&file, events);
        let events = events.clone();
        let looked = Instant::now();
        Self { file, events, watcher, missed: 0, touched: None, looked }
    }

    /// An event came.
    pub(super) fn touch(&mut self, now: Instant) {
        let first = self.touched.map_or(now, |(first, _)| first);
        self.touched = Some((first, now));
    }

    /// When to look at the file, if nothing happens before.
    pub(super) fn look_at(&self) -> Instant {
        let rarely = if self.watcher.is_ok() { NOW_AND_THEN } else { OFTEN };
        let unasked = self.looked + rarely;
        match self.touched {
            None => unasked,
            Some((first, last)) => {
                unasked.min((last + QUIET).min(first + RESTLESS))
            }
        }
    }

    /// What the file holds, given that it was `before`.
    pub(super) fn look(&mut self, before: &Text, now: Instant) -> Text {
        self.looked = now;
        let was_announced = self.touched.take().is_some();
        let text = Text::read(&self.file);
        if was_announced {
            self.missed = 0;
        } else if text != *before && self.watcher.is_ok() {
            self.missed += 1;
            self.watcher = if self.missed < MISSED {
                watcher(&self.file, &self.events)
            } else {
                Err("no events from this file system".to_owned())
            };
        }
        text
    }

    /// Why the file is looked at again and again.
    pub(super) fn polls(&self) -> Option<String> {
        let why = self.watcher.as_ref().err()?;
        let times = 1000 / OFTEN.as_millis();
        Some(format!("{why}: looking {times} times a second"))
    }
}

impl Text {
    pub(super) fn read(file: &Path) -> Self {
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
    let tell = move |event: notify::Result<notify::Event>| {
        let concerns = event.as_ref().is_ok_and(|event| {
            let is_reading = matches!(event.kind, EventKind::Access(how)
                if how != AccessKind::Close(AccessMode::Write));
            let mut paths = event.paths.iter();
            !is_reading && paths.any(|path| path.file_name() == name.as_deref())
        });
        if concerns || event.is_err() {
            // Nobody listens any more when the command ends.
            let _ = events.send(Event::Touched);
        }
    };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut watcher = notify::recommended_watcher(tell)
        .map_err(|error| format!("no events ({error})"))?;
    watcher
        .watch(folder, RecursiveMode::NonRecursive)
        .map_err(|error| format!("no events ({error})"))?;
    Ok(watcher)
}
