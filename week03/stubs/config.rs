//! Copy-on-write configuration: build a new snapshot aside, check it, and
//! publish it with one pointer swap. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - `new` reads the layers in order and merges each one over the result so
//!   far. Two tables are merged key by key, at any depth. Any other value is
//!   replaced by the later one: lists too, and also when only one of the two is
//!   a table.
//! - `new` converts the merged table to a `T`, and `validate` checks the `T`
//!   last. If a layer fails, the table is not a `T`, or `validate` rejects it,
//!   `new` returns the `Error` of that step.
//! - `snapshot` returns the latest version, which is 1 after `new`. A snapshot
//!   that a caller keeps does not change.
//! - `reload` repeats all these steps, starting from an empty table. So a key
//!   that was deleted from a layer no longer has that layer's value.
//! - A value that differs from the current one is published as the next
//!   version. An equal value keeps the current version. `reload` returns the
//!   snapshot that it published, or the current one if nothing changed. If any
//!   step fails, the snapshot stays and `reload` returns the error.
//! - When `reload` returns, the snapshot is no older than the content that the
//!   layers had when `reload` was called, even if several threads reload.
//! - Reloads run one at a time: one reads, checks and publishes, then the next.
//!   `snapshot`, `last_error` and `subscribe` do not wait for a reload. A layer
//!   may call all three. `validate` may call `snapshot`, and gets the old one.
//!   Neither a layer nor `validate` calls `reload`.
//! - `last_error` returns the error of the latest reload, or `None` if that
//!   reload succeeded or none has run. It is updated in the step that publishes
//!   or rejects a change, before any observer is called.
//! - If a layer or `validate` panics, `reload` panics. The snapshot and
//!   `last_error` stay as they were, and the next reload works.
//! - There may be many observers. Each observer is called once for each change
//!   that is published after its `subscribe` returned, with the old and the new
//!   snapshot. It is not called for a change that was published before. If
//!   nothing changed, no observer is called.
//! - A change is published before its observers are called: in an observer,
//!   `snapshot` returns the new version or a later one.
//! - Changes are delivered to observers one at a time, in version order, even
//!   if several threads reload. When `reload` returns and no other reload is
//!   running, all changes have been delivered.
//! - No other thread waits for a running observer. Other threads can read,
//!   reload and subscribe, and so can the observer. A change that is published
//!   meanwhile is delivered afterwards, by the thread that is delivering.
//! - After its `Subscription` is dropped, an observer is not called again, not
//!   even for a change that was published earlier. A call that has begun
//!   continues.
//! - If an observer panics, the other observers are still called, and so is
//!   this one for the next change. `reload` returns as usual.
//! - All this holds for every order in which threads take their locks: the last
//!   rung runs your file under shuttle. So import `ArcSwap`, atomics, blocking
//!   types, `thread` and `thread_local!` from
//!   `crate::model_checked::shuttle_locks`. shuttle does not see those of
//!   `std`. A `std` lock that is held while another thread runs blocks the
//!   whole test.
//!
//! Help: `Shared` holds everything that the clones share. `ArcSwap` has
//! `load_full` and `store`. `crate::layers` is given and short: read it.
//! `try_into` converts a `toml::Table` to a `T`.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::layers::{Cause, Error, Layer};
use crate::model_checked::shuttle_locks::Arc;

/// The configuration of a process, with values of type `T`. Cheap to clone: all
/// clones share one configuration.
pub struct Config<T> {
    shared: Arc<Shared<T>>,
}

/// One version of the configuration.
#[derive(Debug)]
pub struct Snapshot<T> {
    /// 1 for the first snapshot, and one more with each change.
    pub version: u64,
    /// A valid value. It never changes.
    pub value: T,
}

/// Keeps an observer subscribed until it is dropped.
#[derive(Debug)]
#[must_use = "dropping a subscription unsubscribes its observer"]
pub struct Subscription {}

/// The state that all clones share.
struct Shared<T> {
    layers: Vec<Layer>,
    validate: fn(&T) -> Result<(), Cause>,
    // The latest snapshot. What else?
}

impl<T: DeserializeOwned + PartialEq + Send + Sync + 'static> Config<T> {
    /// Creates version 1 from `layers`. A later layer overrides earlier ones.
    pub fn new(
        _layers: Vec<Layer>,
        _validate: fn(&T) -> Result<(), Cause>,
    ) -> Result<Self, Error> {
        todo!("how do you merge the layers, make a T, and validate it?")
    }

    /// Reads all layers again, and publishes the value if it has changed.
    ///
    /// Then notifies the observers. Blocks while layers are read. A layer must
    /// not call it.
    pub fn reload(&self) -> Result<Arc<Snapshot<T>>, Arc<Error>> {
        todo!("which steps must succeed before any reader sees the new value?")
    }

    /// Calls `observer` with the old and the new snapshot of each change that
    /// is published from now on, until the subscription is dropped.
    pub fn subscribe<F>(&self, _observer: F) -> Subscription
    where
        F: Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync + 'static,
    {
        todo!("what owns the observer, and when is it dropped?")
    }
}

impl<T> Config<T> {
    /// Returns the latest version. A snapshot never changes.
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        todo!("which pointer do you read, and how often?")
    }

    /// Returns the error of the latest reload, or `None` if it succeeded.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        todo!("where does a failed reload leave its error?")
    }
}

impl<T> Clone for Config<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Config<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}
