//! A file that is read again when it changes, and whose last version is not missed.
//! Your turn.
//!
//! What is graded, and nothing else:
//!
//! - `Pace` says when the next reading is due. It is told of hints and of readings
//!   with their times, which never go back, and knows no clock.
//!   - In the beginning a reading is due at once, as if somebody had asked.
//!   - `begin`: a reading begins, and answers all hints before it. What comes after
//!     that, also while it goes on, is a hint for the next one, which is due
//!     `anyway` later at the latest, with or without a hint.
//!   - `touch`: it is due when nothing has been touched for `quiet`, and at the
//!     latest `at_most` after the first touch since the last reading began.
//!   - `ask`: it is due at once, whatever is touched afterwards.
//!   - What is due at some time stays due until a reading begins, or until a touch
//!     puts it off.
//! - `is_hint`: reading is no hint, which is an access of any kind but the end of
//!   one that has written. Anything else is: also `Other`, by which a full queue is
//!   told, and an error, since events may have been lost.
//! - `Reloader::start` fails if the folder of `file` is not there, or is none. If
//!   it succeeds, `read` is called at once, and what is changed after `start` has
//!   returned is seen, and so is what is changed by then: in the end the last
//!   version has been read. That holds whether the file is written in place, in
//!   pieces, renamed over, deleted and created again, or a link that is swapped
//!   in its folder, or leads through one that is. It need not exist at the start,
//!   and may be named without a folder.
//! - `read` is called when `Pace` says so, and never twice at the same time.
//! - `ask` does not wait for `read`.
//! - A `read` that panics is called again like any other.
//! - When a `Reloader` has been dropped, `read` runs no more, and what it holds has
//!   been dropped.
//!
//! `notify::recommended_watcher` takes a closure that is called with each event, on
//! a thread of its own, until the watcher is dropped.

use std::path::Path;
use std::time::{Duration, Instant};

/// Reads a file again and again, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Reloader {}

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
pub struct Pace {}

impl Pace {
    /// The first reading is due at once.
    pub fn new(_timing: Timing, _now: Instant) -> Self {
        todo!("what has to be remembered between two calls?")
    }

    /// When to read, unless something happens before.
    pub fn due(&self) -> Instant {
        todo!()
    }

    /// The file may have changed.
    pub fn touch(&mut self, _now: Instant) {
        todo!("which of two times comes first?")
    }

    /// Somebody wants it to be read.
    pub fn ask(&mut self, _now: Instant) {
        todo!()
    }

    /// A reading begins.
    pub fn begin(&mut self, _now: Instant) {
        todo!("what is answered by it, and what is not?")
    }
}

/// Whether something may have changed.
pub fn is_hint(_event: &notify::Result<notify::Event>) -> bool {
    todo!("what does whoever reads do to himself?")
}

impl Reloader {
    /// Watches `file`, and calls `read` now and whenever it may have changed.
    pub fn start(
        _file: &Path,
        _timing: Timing,
        _read: impl FnMut() + Send + 'static,
    ) -> notify::Result<Self> {
        todo!(
            "what is watched, and what comes first, the watch or the reading?"
        )
    }

    /// Has it read at once, also when nothing has changed. Does not wait.
    pub fn ask(&self) {
        todo!()
    }
}
