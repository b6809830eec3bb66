//! Copy-on-write configuration: build a new snapshot aside, check it, and
//! publish it with one pointer swap.
//!
//! *Question.* A settings file is edited while each request reads the settings.
//! How does each request see one version, and never a mix of two? How do the
//! last good settings stay in use if the file is broken? How is each observer
//! notified of each change exactly once?
//!
//! *Idea.* Copy on write. A reload builds a new value from all layers, where no
//! reader can see it. Tables are merged key by key, and any other value is
//! replaced. A value that fits its type, is valid and differs from the current
//! one is **published** by one pointer swap. Only then are the observers
//! **notified**: each change waits in a queue, and one thread at a time
//! delivers the queue.
//!
//! *Guarantee.* A [`Snapshot`] never changes. If any step fails, the last good
//! snapshot stays, and [`last_error`](Config::last_error) returns the reason.
//! Each observer is called once for each change, in version order. No lock is
//! held during the call: the observer may read, reload and subscribe. When no
//! reload is running, all changes have been delivered. Dropping a
//! [`Subscription`] does not wait for a call that another thread is making.
//!
//! *Cost.* Each change builds the whole value again. A snapshot lives as long
//! as a caller keeps it. A reload may return before its own change is
//! delivered, if another thread is delivering, and may have to deliver the
//! changes of other reloads. The destructors of `T` and of a layer's error must
//! not panic, and must not use the configuration.
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
//! let _subscription =
//!     config.subscribe(|old, new| println!("{old:?} is now {new:?}"));
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
///
/// The drop does not wait. If another thread is calling the observer, this call
/// continues after the drop, and is the last one. So an observer owns what it
/// uses.
#[derive(Debug)]
#[must_use = "dropping a subscription unsubscribes its observer"]
pub struct Subscription {
    _observer: Arc<dyn Any + Send + Sync>,
}

struct Shared<T> {
    layers: Vec<Layer>,
    validate: fn(&T) -> Result<(), Cause>,
    /// Replaced only by the thread that holds `reload_lock`, under `state`.
    current: ArcSwap<Snapshot<T>>,
    /// Held by a reload while it reads, checks and publishes. It guards no
    /// data, so a panic in a layer leaves nothing half done.
    reload_lock: Mutex<()>,
    /// While it is locked, no callback runs, except the destructor of an old
    /// error.
    state: Mutex<State<T>>,
}

struct State<T> {
    last_error: Option<Arc<Error>>,
    observers: Vec<Weak<Observer<T>>>,
    /// Changes that are published and not yet delivered, oldest first.
    changes: VecDeque<Change<T>>,
    /// A thread is delivering `changes`, and stops only when it is empty.
    is_delivering: bool,
}

type Observer<T> = dyn Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync;

struct Change<T> {
    old: Arc<Snapshot<T>>,
    new: Arc<Snapshot<T>>,
    /// The observers that were subscribed when the change was published.
    /// `Weak`, so that an observer is not called after its subscription is
    /// dropped.
    observers: Vec<Weak<Observer<T>>>,
}

impl<T: DeserializeOwned + PartialEq + Send + Sync + 'static> Config<T> {
    /// Creates version 1 from `layers`. A later layer overrides earlier ones.
    ///
    /// # Errors
    ///
    /// If a layer fails, or if the merged settings are not a `T` or not valid.
    pub fn new(
        layers: Vec<Layer>,
        validate: fn(&T) -> Result<(), Cause>,
    ) -> Result<Self, Error> {
        let first = Snapshot { version: 1, value: load(&layers, validate)? };
        let state = State {
            last_error: None,
            observers: Vec::new(),
            changes: VecDeque::new(),
            is_delivering: false,
        };
        let shared = Shared {
            layers,
            validate,
            current: ArcSwap::from_pointee(first),
            reload_lock: Mutex::default(),
            state: Mutex::new(state),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads all layers again, and publishes the value if it has changed.
    ///
    /// Then notifies the observers. Blocks while layers are read. A layer must
    /// not call `reload`.
    ///
    /// # Errors
    ///
    /// As in [`new`](Self::new). The last good snapshot stays.
    ///
    /// # Panics
    ///
    /// If a layer or `validate` panics. The last good snapshot stays.
    pub fn reload(&self) -> Result<Arc<Snapshot<T>>, Arc<Error>> {
        let shared = &*self.shared;
        // It is tempting to read the layers without a lock, but then a slow
        // reload overwrites a newer version with older content.
        let guard =
            shared.reload_lock.lock().unwrap_or_else(PoisonError::into_inner);
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
            remove_dropped(&mut state.observers);
            let observers = state.observers.clone();
            let new = Arc::clone(&new);
            state.changes.push_back(Change { old, new, observers });
        }
        drop(state);
        drop(guard);
        shared.deliver_changes();
        Ok(new)
    }

    /// Calls `observer` with the old and the new snapshot of each change that
    /// is published from now on, until the subscription is dropped. A panic of
    /// the observer is printed and otherwise ignored.
    pub fn subscribe<F>(&self, observer: F) -> Subscription
    where
        F: Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync + 'static,
    {
        let observer = Arc::new(observer);
        let weak = Arc::downgrade(&observer);
        let mut state = self.shared.state();
        // A `Weak` keeps the memory of a dropped observer. So the list must not
        // grow from subscribing and unsubscribing alone.
        if state.observers.len() == state.observers.capacity() {
            remove_dropped(&mut state.observers);
        }
        state.observers.push(weak);
        drop(state);
        Subscription { _observer: observer }
    }
}

impl<T> Config<T> {
    /// Returns the latest version. A snapshot never changes.
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        self.shared.current.load_full()
    }

    /// Returns the error of the latest reload, or `None` if it succeeded.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.shared.state().last_error.clone()
    }
}

impl<T> Shared<T> {
    /// Delivers changes until the queue is empty. Returns at once if a delivery
    /// is already running: that delivery finds the new change in the queue.
    fn deliver_changes(&self) {
        if mem::replace(&mut self.state().is_delivering, true) {
            return;
        }
        while let Some(change) = self.next_change() {
            let Change { old, new, observers } = &change;
            for observer in observers.iter().filter_map(Weak::upgrade) {
                // The other observers are still called.
                catch_panic(|| observer(old, new));
                // If the subscription was dropped meanwhile, this drops the
                // observer.
                catch_panic(move || drop(observer));
            }
        }
    }

    /// Takes the next change, for the thread that delivers. Finding the queue
    /// empty and clearing `is_delivering` is one step: a change that is queued
    /// between the two would not be delivered.
    fn next_change(&self) -> Option<Change<T>> {
        let mut state = self.state();
        let next = state.changes.pop_front();
        state.is_delivering = next.is_some();
        next
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("nothing under this lock panics")
    }
}

fn remove_dropped<T>(observers: &mut Vec<Weak<Observer<T>>>) {
    observers.retain(|observer| observer.strong_count() > 0);
}

/// Runs `run`, and ends its panic, which the panic hook has printed.
fn catch_panic(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        drop_payload(payload);
    }
}

/// Drops the payload of a panic, whose destructor may panic again. The payload
/// of that second panic is leaked: its destructor could panic, too.
fn drop_payload(payload: Box<dyn Any + Send>) {
    let dropped = catch_unwind(AssertUnwindSafe(move || drop(payload)));
    dropped.unwrap_or_else(std::mem::forget);
}

fn load<T: DeserializeOwned>(
    layers: &[Layer],
    validate: fn(&T) -> Result<(), Cause>,
) -> Result<T, Error> {
    let mut merged = Table::new();
    for layer in layers {
        merge(&mut merged, layer.read()?);
    }
    let value = merged.try_into().map_err(Error::Shape)?;
    validate(&value).map_err(Error::Invalid)?;
    Ok(value)
}

/// Merges `overlay` into `base`. Tables are merged key by key. Any other value
/// is replaced, also a list.
fn merge(base: &mut Table, overlay: Table) {
    for (key, value) in overlay {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(overlay)) => {
                merge(base, overlay);
            }
            (_, value) => drop(base.insert(key, value)),
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
        let current = self.snapshot();
        f.debug_struct("Config")
            .field("current", &current)
            .finish_non_exhaustive()
    }
}
