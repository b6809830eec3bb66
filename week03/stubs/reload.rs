//! Hot reload: reads a file again when it changes, and never misses its last
//! version. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - A `Schedule` computes when the next read is due. Its methods get the
//!   current time, which never goes back. It does not use a clock.
//!   - `new`: a read is due at once, as after a `trigger`.
//!   - `begin`: a read begins. It counts for all earlier hints and triggers.
//!     Later hints and triggers, also those during the read, count for the next
//!     read. The next read is due at most `max_interval` after this read began,
//!     with or without a hint.
//!   - `hint`: a read is due when `quiet` has passed without a further hint.
//!     But it is due at the latest when `max_delay` has passed since the first
//!     hint after the last read began.
//!   - `trigger`: a read is due at once. Later hints do not postpone it.
//!   - A read that is due stays due until a read begins, with one exception: a
//!     hint postpones a read that is due because of `quiet`.
//! - `is_hint`: `EventKind::Access` is not a hint, except `Close(Write)`. Every
//!   other event is a hint, also `Other`, which reports an overflow of the
//!   event queue. An error is a hint, since events may have been lost.
//! - `Reloader::start` fails if the folder of `file` does not exist, or is not
//!   a folder. A symlink to a folder is a folder.
//! - Each event in the folder for which `is_hint` returns `true` is a hint,
//!   whatever the name of its file is. Changes in subfolders are not hints.
//! - After a successful `start`, `read` is called at once. Every change is
//!   seen, whether it happens before or after `start` returns. So in the end,
//!   the last version of the file has been read.
//!   - The file may be written in place, written in pieces, replaced by a
//!     rename, or deleted and created again.
//!   - The file may be a symlink that is replaced by another symlink in the
//!     same folder. It may also be a symlink whose target path contains such a
//!     symlink.
//!   - The file need not exist when `start` is called. Its path may be a bare
//!     file name without a folder.
//! - The folder may be replaced by another one, and a symlink in its path may
//!   be switched to another folder. There may be no event for this. From the
//!   beginning of the next read on, changes in the new folder are seen.
//! - `read` is called when a read is due by `Schedule`. Calls of `read` never
//!   overlap. Hints and triggers that arrive during a read, however many, lead
//!   to one more read. Hints caused by `read` itself count as well: a `read`
//!   that always writes into the folder is called again after each `quiet`.
//! - `Reloader::trigger` does not wait for `read`. `read` may call it, too.
//! - A `read` that panics neither prevents nor causes later calls of `read`.
//!   This also holds if the destructor of the panic's payload panics.
//! - The drop of a `Reloader` waits for the read in progress, and no other read
//!   begins, even if one is due. When the drop returns, the values that the
//!   closure holds have been dropped. If a destructor among them panics, the
//!   drop does not. The watcher is dropped, too.
//! - `read` may drop its own `Reloader`. Only this drop does not wait: the
//!   current call of `read` is the last one, and afterwards the closure and the
//!   watcher are dropped.
//!
//! `notify::recommended_watcher` takes a closure. It calls the closure with
//! each event, on a thread of its own, until the watcher is dropped. `watch`
//! with a path that is already watched does nothing, unless the path leads to
//! another folder than before. `unwatch` ends the watch of a path.

use std::path::Path;
use std::time::{Duration, Instant};

/// Has a thread that reads a file again whenever the file may have changed.
/// Dropping the `Reloader` ends this.
#[derive(Debug)]
pub struct Reloader {}

/// The times that decide when a file is read. None is longer than a few years,
/// so adding it to an `Instant` does not overflow.
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
pub struct Schedule {}

impl Schedule {
    /// Creates a schedule whose first read is due at once.
    pub fn new(_debounce: Debounce, _now: Instant) -> Self {
        todo!("what must be remembered between two calls?")
    }

    /// Returns the time at which the next read is due, if no hint, trigger or
    /// read comes before.
    pub fn due(&self) -> Instant {
        todo!("which of the remembered times is it?")
    }

    /// Records a hint: the file may have changed.
    pub fn hint(&mut self, _now: Instant) {
        todo!("which comes first: the end of `quiet`, or of `max_delay`?")
    }

    /// Records a trigger: a read is due at once.
    pub fn trigger(&mut self, _now: Instant) {
        todo!("how is a later hint kept from postponing this read?")
    }

    /// Records that a read begins.
    pub fn begin(&mut self, _now: Instant) {
        todo!("for which hints does this read count, and for which not?")
    }
}

/// Returns whether the file may have changed.
pub fn is_hint(_event: &notify::Result<notify::Event>) -> bool {
    todo!("which events does `read` itself cause?")
}

impl Reloader {
    /// Watches `file`. Calls `read` at once, and again whenever the file may
    /// have changed.
    pub fn start(
        _file: &Path,
        _debounce: Debounce,
        _read: impl FnMut() + Send + 'static,
    ) -> notify::Result<Self> {
        todo!("which path is watched? does the watch or the read come first?")
    }

    /// Triggers a read at once, even if the file has not changed. Does not wait
    /// for the read.
    pub fn trigger(&self) {
        todo!("how does the reloader's thread learn of the trigger?")
    }
}
