//! Configuration as snapshots: prepared aside, checked, and published whole.
//! Your turn.
//!
//! What is graded, and nothing else:
//!
//! - `new` reads the layers in their order, and merges each over those before it.
//!   Where both have a table, it is merged, key by key, at any depth. Anything
//!   else is replaced by the later one: a list too, and also where one of the two
//!   is a table and the other is not. The result becomes a `T`, and `validate`
//!   has the last word. If a layer fails, or what is merged is no `T`, or not
//!   valid, there is no configuration, and the error says why.
//! - `snapshot` has the latest version: 1 after `new`. Who keeps one goes on
//!   seeing the same.
//! - `reload` does all that again, and begins with nothing: what a layer says no
//!   more is gone. If the new value differs from the present one, it is published
//!   as the next version. If it is equal, the version stays. If anything fails,
//!   the snapshot stays, and the error is returned. `reload` returns the snapshot
//!   that it has published, or the one that stays because nothing is new.
//! - When `reload` has returned, the snapshot is no older than what the layers
//!   said when it was called, also when several threads reload. They take turns:
//!   one reads, checks and publishes after the other, and nobody else waits then:
//!   layers call `snapshot`, `last_error` and `subscribe` themselves, and
//!   `validate` looks at the snapshot, which is still the old one. Neither of
//!   them reloads.
//! - `last_error` is what the latest reload has failed with, or nothing if it has
//!   not failed. It changes when a change is published, or refused, and before
//!   anybody is told.
//! - If a layer or `validate` panics, so does `reload`. The snapshot and the last
//!   error stay, and the next reload works.
//! - An observer is told of each change that is published after `subscribe` has
//!   returned, and of none before: once, with the old and the new snapshot. There
//!   may be many. What is told has been published: `snapshot` is no older. Where
//!   nothing changes, nobody is called.
//! - Changes are told one at a time, in the order of versions, also when several
//!   threads reload. When `reload` returns and no other one is under way, all
//!   changes have been told.
//! - While an observer runs, nobody waits for it: other threads read, reload and
//!   subscribe meanwhile, and so may the observer. What is published meanwhile is
//!   told afterwards, by whoever is telling.
//! - An observer whose subscription has been dropped is called no more, not even
//!   with what was published before. Only a call that has begun goes on.
//! - An observer that panics keeps neither the others nor itself from being told
//!   the next time, and `reload` returns as ever.
//! - All that holds in whichever order threads come to their locks: the last rung
//!   runs your file under shuttle. So take `ArcSwap`, what is atomic, and what
//!   blocks, also `thread` and `thread_local!`, from `crate::model_checked::shuttle_locks`. What is in
//!   `std` is not seen there, and a lock of it that is held while others run
//!   blocks the whole test.
//!
//! How it might be done: `Shared` has all that the clones share. `ArcSwap` has
//! `load_full` and `store`. `crate::layers` is given, and short: read it. A
//! `toml::Table` becomes a `T` by `try_into`.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::layers::{Cause, Error, Layer};
use crate::model_checked::shuttle_locks::Arc;

/// The configuration of a process, of which `T` is one value. Cheap to clone:
/// all clones are the same one.
pub struct Config<T> {
    shared: Arc<Shared<T>>,
}

/// One version of the configuration.
#[derive(Debug)]
pub struct Snapshot<T> {
    /// From 1 on, and one more with each change.
    pub version: u64,
    /// Valid, and never written again.
    pub value: T,
}

/// Keeps an observer subscribed until it is dropped.
#[derive(Debug)]
#[must_use = "an observer is forgotten when its subscription is dropped"]
pub struct Subscription {}

/// What clones share.
struct Shared<T> {
    layers: Vec<Layer>,
    validate: fn(&T) -> Result<(), Cause>,
    // The latest snapshot, and what else?
}

impl<T: DeserializeOwned + PartialEq + Send + Sync + 'static> Config<T> {
    /// Reads `layers` for the first time. A later one overrides an earlier one.
    pub fn new(
        _layers: Vec<Layer>,
        _validate: fn(&T) -> Result<(), Cause>,
    ) -> Result<Self, Error> {
        todo!("merge the layers, make a T of it, and ask whether it is valid")
    }

    /// Reads all layers again, and publishes and tells what is new. Blocks while
    /// layers are read. A layer must not reload.
    pub fn reload(&self) -> Result<Arc<Snapshot<T>>, Arc<Error>> {
        todo!("what must have succeeded before anybody sees anything of it?")
    }

    /// Calls `observer` with the old and the new snapshot of each change that is
    /// published from now on.
    pub fn subscribe<F>(&self, _observer: F) -> Subscription
    where
        F: Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync + 'static,
    {
        todo!("who keeps the observer, and who lets it go?")
    }
}

impl<T> Config<T> {
    /// The latest version. Whoever keeps it goes on seeing the same one.
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        todo!("one pointer, read once")
    }

    /// Why the latest reload has failed, if it has.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        todo!("who asks later hears it, too")
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
