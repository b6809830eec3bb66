//! Copy-on-write configuration: build a new snapshot aside, check it, and
//! publish it with one pointer swap. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - `new` reads the layers in order, one after the other, and merges each of
//!   them into the result so far. Two tables are merged key by key, at any
//!   depth. In all other cases the later value replaces the earlier one, also
//!   if both are lists, or if only one of them is a table, or if the later one
//!   is empty.
//! - Then `new` converts the merged table to a `T`, and `validate` checks the
//!   `T`. `new` returns the `Error` of the first step that fails: a layer
//!   fails, the table does not convert to a `T`, or `validate` rejects the `T`.
//! - `snapshot` returns the latest version. After `new`, this is version 1. A
//!   snapshot that a caller keeps does not change. A snapshot that no caller
//!   keeps is dropped after the change that replaces it has been delivered.
//! - `reload` repeats all these steps, starting from an empty table. So a key
//!   that was deleted from a layer no longer has that layer's value. No step is
//!   skipped: even if no layer has changed, the `T` may differ from the current
//!   one or may no longer be valid.
//! - A valid `T` that differs from the current one is published as the next
//!   version, and `reload` returns this snapshot. If the `T` is equal, then the
//!   current snapshot stays, even if the layers have changed, and `reload`
//!   returns the snapshot that it compared, not the new `T`. If any step fails,
//!   the snapshot stays and `reload` returns the error.
//! - When `reload` returns `Ok`, the current snapshot includes every change
//!   that was made to the layers before `reload` was called. This also holds if
//!   several threads reload.
//! - Reloads run one at a time: a reload starts to read only after the previous
//!   reload has published its value or failed. `snapshot`, `last_error` and
//!   `subscribe` do not wait for a reload, whether it reads or validates. While
//!   a layer is read, it may call all three. `validate` may call `snapshot`,
//!   which still returns the old snapshot. Neither a layer nor `validate` calls
//!   `reload`.
//! - `last_error` returns the error of the latest reload, or `None` if that
//!   reload succeeded or no reload has run. The error is updated before a new
//!   snapshot can be read, and before any observer is called.
//! - If a layer or `validate` panics, `reload` panics. The snapshot and
//!   `last_error` stay as they were, and the next reload works, also if it is
//!   already waiting.
//! - There may be many observers. Each observer is called once for each change
//!   that is published after its `subscribe` returned, with the old and the new
//!   snapshot. It is not called for a change that was published before
//!   `subscribe` was called. If nothing changed, no observer is called.
//! - A change is published before its observers are called: in an observer,
//!   `snapshot` returns the new version or a later one.
//! - Changes are delivered to observers one at a time, in version order, even
//!   if several threads reload. When `reload` returns and no other reload is
//!   running, all changes have been delivered.
//! - While an observer runs, no other thread waits for it. Other threads can
//!   read, reload and subscribe, and so can the observer. If a change is
//!   published while an observer runs, the thread that is delivering delivers
//!   this change afterwards.
//! - After a `Subscription` is dropped, its observer is not called again, not
//!   even for a change that was published earlier. The drop does not wait: a
//!   call that another thread has begun, or is about to begin, continues.
//! - The observer, with all values that its closure holds, is dropped with the
//!   `Subscription`, or after the call that continues. One of these values may
//!   be another `Subscription`. Subscribing and unsubscribing in a loop does
//!   not use up memory, even if no change is ever published.
//! - If an observer panics, the other observers are still called, and the
//!   observer that panicked is called again for the next change. `reload`
//!   returns as usual. All this also holds if the destructor of the panic's
//!   payload panics, or the destructor of an observer that is dropped during a
//!   delivery, even after its call has panicked.
//! - All these rules hold for every order in which threads take their locks:
//!   the last group of tests (rung) runs your file under shuttle. shuttle does
//!   not see the types of `std`. So import `ArcSwap`, atomics, blocking types,
//!   `thread` and `thread_local!` from `crate::model_checked::shuttle_locks`.
//!   If a thread holds a `std` lock while shuttle runs another thread, the
//!   whole test can hang.
//!
//! Help: `Shared` holds everything that the clones share. `ArcSwap` has
//! `load_full` and `store`. The module `crate::layers` is given. It is short:
//! read it. `try_into` converts a `toml::Table` to a `T`.

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
    // Add the latest snapshot. What else do the clones share?
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
    /// not call `reload`.
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
        todo!("which pointer do you read, and how many times?")
    }

    /// Returns the error of the latest reload, or `None` if it succeeded.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        todo!("where does a failed reload store its error?")
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
