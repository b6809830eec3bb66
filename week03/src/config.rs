//! Configuration as snapshots: prepared aside, checked, and published whole.
//!
//! *Question.* A file of settings is edited while each request reads them. How
//! does each request see one version and never a mix of two, how is a broken file
//! kept from all of them, and how does everyone who must know hear of each change
//! once?
//!
//! *Idea.* Copy on write. A reload builds a new value out of all layers, where
//! nobody sees it: tables are merged, key by key, and anything else is replaced.
//! What fits its type, is valid and differs from the present is **published** by
//! one swap of a pointer. Only then observers are **told**, from a queue, by
//! whoever finds that nobody tells.
//!
//! *Guarantee.* A [`Snapshot`] never changes. If anything fails, the last good
//! one stays, and [`last_error`](Config::last_error) says why. Each observer
//! hears each change once, in the order of versions, and no lock is held
//! meanwhile: it may read, reload and subscribe. When no reload is under way, all
//! changes have been told.
//!
//! *Cost.* Each change builds everything again. A snapshot lives as long as
//! somebody keeps it. A reload may return before its change is told, when
//! another one is telling, and may have to tell what others have changed. The
//! destructors of `T` and of what a layer fails with must not panic, nor use the
//! configuration.
//!
//! ```
//! use serde::Deserialize;
//! use week03::config::Config;
//! use week03::layers::Layer;
//!
//! #[derive(Debug, PartialEq, Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     port: u16,
//!     workers: usize,
//! }
//!
//! let layers = vec![
//!     Layer::new("defaults", || Ok("port = 80\nworkers = 4".parse()?)),
//!     Layer::new("file", || Ok("port = 8080".parse()?)), // read from a file
//! ];
//! let config = Config::new(layers, |settings: &Settings| {
//!     if settings.workers == 0 { Err("no workers".into()) } else { Ok(()) }
//! })?;
//! let _told = config.subscribe(|old, new| println!("{old:?} is now {new:?}"));
//! assert_eq!(config.snapshot().value, Settings { port: 8080, workers: 4 });
//! assert_eq!(config.reload()?.version, 1); // nothing has changed
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{fmt, mem};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::layers::{Cause, Error, Layer};
use crate::model_checked::shuttle_locks::{
    Arc, ArcSwap, Mutex, MutexGuard, PoisonError, Weak,
};

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
pub struct Subscription {
    _observer: Arc<dyn Any + Send + Sync>,
}

struct Shared<T> {
    layers: Vec<Layer>,
    validate: fn(&T) -> Result<(), Cause>,
    /// Stored to under `state`, by whoever has the turn.
    current: ArcSwap<Snapshot<T>>,
    /// Held by a reload while it reads, and guards no data: a panic in a layer
    /// leaves nothing half done.
    turn: Mutex<()>,
    /// No code of others runs under it, except a destructor of an old error.
    state: Mutex<State<T>>,
}

struct State<T> {
    last_error: Option<Arc<Error>>,
    observers: Vec<Weak<Observer<T>>>,
    /// Published, and not told yet: the oldest first.
    changes: VecDeque<Change<T>>,
    /// Somebody takes from `changes`, and does not stop before it is empty.
    is_telling: bool,
}

type Observer<T> = dyn Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync;

struct Change<T> {
    old: Arc<Snapshot<T>>,
    new: Arc<Snapshot<T>>,
    /// Who was there when it was published. Weak: who goes is told no more.
    observers: Vec<Weak<Observer<T>>>,
}

impl<T: DeserializeOwned + PartialEq + Send + Sync + 'static> Config<T> {
    /// Reads `layers` for the first time. A later one overrides an earlier one.
    ///
    /// # Errors
    ///
    /// When there is no valid value to start with.
    pub fn new(
        layers: Vec<Layer>,
        validate: fn(&T) -> Result<(), Cause>,
    ) -> Result<Self, Error> {
        let first = Snapshot { version: 1, value: load(&layers, validate)? };
        let state = State {
            last_error: None,
            observers: Vec::new(),
            changes: VecDeque::new(),
            is_telling: false,
        };
        let shared = Shared {
            layers,
            validate,
            current: ArcSwap::from_pointee(first),
            turn: Mutex::default(),
            state: Mutex::new(state),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads all layers again, and publishes and tells what is new. Blocks while
    /// layers are read. A layer must not reload.
    ///
    /// # Errors
    ///
    /// When the last good snapshot stays because of one.
    ///
    /// # Panics
    ///
    /// If a layer or `validate` does. The last good snapshot stays then, too.
    pub fn reload(&self) -> Result<Arc<Snapshot<T>>, Arc<Error>> {
        let shared = &*self.shared;
        // It is tempting to read at the same time, but then a slow reload puts
        // back what was there before a fast one.
        let turn = shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.snapshot();
        let loaded = load(&shared.layers, shared.validate);
        let next = loaded.map_err(Arc::new).map(|value| {
            if value == old.value {
                return Arc::clone(&old);
            }
            Arc::new(Snapshot { version: old.version + 1, value })
        });

        let mut state = shared.state();
        state.last_error = next.as_ref().err().cloned();
        let new = next?;
        if new.version != old.version {
            shared.current.store(Arc::clone(&new));
            state.observers.retain(|observer| observer.strong_count() > 0);
            let observers = state.observers.clone();
            let new = Arc::clone(&new);
            state.changes.push_back(Change { old, new, observers });
        }
        drop(state);
        drop(turn);
        shared.tell();
        Ok(new)
    }

    /// Calls `observer` with the old and the new snapshot of each change that is
    /// published from now on. What it panics with is printed, and no more.
    pub fn subscribe<F>(&self, observer: F) -> Subscription
    where
        F: Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync + 'static,
    {
        let observer = Arc::new(observer);
        let weak = Arc::downgrade(&observer);
        self.shared.state().observers.push(weak);
        Subscription { _observer: observer }
    }
}

impl<T> Config<T> {
    /// The latest version. Whoever keeps it goes on seeing the same one.
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        self.shared.current.load_full()
    }

    /// Why the latest reload has failed, if it has.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.shared.state().last_error.clone()
    }
}

impl<T> Shared<T> {
    /// Tells changes until none is left, unless somebody does: then that one
    /// finds ours in the queue.
    fn tell(&self) {
        if mem::replace(&mut self.state().is_telling, true) {
            return;
        }
        while let Some(change) = self.next_change() {
            let Change { old, new, observers } = &change;
            for observer in observers.iter().filter_map(Weak::upgrade) {
                let tell = move || observer(old, new);
                // It has been printed by then, and the others are told, too.
                let _ = catch_unwind(AssertUnwindSafe(tell));
            }
        }
    }

    /// For whoever tells. To find nothing and to stop telling is one step: who
    /// publishes in between would be told by nobody.
    fn next_change(&self) -> Option<Change<T>> {
        let mut state = self.state();
        let next = state.changes.pop_front();
        state.is_telling = next.is_some();
        next
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing under this lock panics")
    }
}

fn load<T: DeserializeOwned>(
    layers: &[Layer],
    validate: fn(&T) -> Result<(), Cause>,
) -> Result<T, Error> {
    let mut all = Table::new();
    for layer in layers {
        merge(&mut all, layer.read()?);
    }
    let value = all.try_into().map_err(Error::Shape)?;
    validate(&value).map_err(Error::Invalid)?;
    Ok(value)
}

/// Tables are merged, key by key; everything else is replaced, lists as well.
fn merge(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => {
                merge(below, above);
            }
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

impl<T> Clone for Config<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Config<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.snapshot();
        f.debug_struct("Config").field("now", &now).finish_non_exhaustive()
    }
}
