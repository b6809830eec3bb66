//! Copy-on-write configuration. A counter of pending changes decides which
//! thread delivers. The list of observers is copy-on-write too.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::layers::{Cause, Error, Layer};
use crate::model_checked::shuttle_locks::{
    Arc, ArcSwap, ArcSwapOption, AtomicUsize, Mutex, Ordering::AcqRel,
    PoisonError, Weak,
};

/// The configuration of a process.
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
pub struct Subscription {
    _observer: Arc<dyn Any + Send + Sync>,
}

struct Shared<T> {
    load: Box<dyn Fn() -> Result<T, Error> + Send + Sync>,
    reload_lock: Mutex<()>,
    /// Held to subscribe and to publish, so that one comes after the other.
    publish_lock: Mutex<()>,
    current: ArcSwap<Snapshot<T>>,
    last_error: ArcSwapOption<Error>,
    observers: ArcSwap<Observers<T>>,
    changes: Mutex<VecDeque<Change<T>>>,
    /// The number of changes that are queued or being delivered.
    pending: AtomicUsize,
}

type Observer<T> = dyn Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync;

type Observers<T> = Vec<Weak<Observer<T>>>;

struct Change<T> {
    old: Arc<Snapshot<T>>,
    new: Arc<Snapshot<T>>,
    observers: Arc<Observers<T>>,
}

impl<T: DeserializeOwned + PartialEq + Send + Sync + 'static> Config<T> {
    /// Creates version 1 from `layers`.
    pub fn new(
        layers: Vec<Layer>,
        validate: fn(&T) -> Result<(), Cause>,
    ) -> Result<Self, Error> {
        let load = move || {
            let mut merged = Table::new();
            for layer in &layers {
                merge(&mut merged, layer.read()?);
            }
            let value: T = merged.try_into().map_err(Error::Shape)?;
            validate(&value).map_err(Error::Invalid).map(|()| value)
        };
        let first = Snapshot { version: 1, value: load()? };
        let shared = Shared {
            load: Box::new(load),
            reload_lock: Mutex::new(()),
            publish_lock: Mutex::new(()),
            current: ArcSwap::from_pointee(first),
            last_error: ArcSwapOption::empty(),
            observers: ArcSwap::from_pointee(Vec::new()),
            changes: Mutex::default(),
            pending: AtomicUsize::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads all layers again, and publishes the value if it has changed.
    pub fn reload(&self) -> Result<Arc<Snapshot<T>>, Arc<Error>> {
        let shared = &self.shared;
        let reload_guard =
            shared.reload_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let value = (shared.load)().map_err(|error| {
            let error = Arc::new(error);
            shared.last_error.store(Some(Arc::clone(&error)));
            error
        })?;
        shared.last_error.store(None);
        let old = self.snapshot();
        if old.value == value {
            return Ok(old);
        }
        let new = Arc::new(Snapshot { version: old.version + 1, value });
        let publish_guard = shared.publish_lock.lock().unwrap();
        shared.current.store(Arc::clone(&new));
        let observers = shared.observers.load_full();
        drop(publish_guard);
        let change = Change { old, new: Arc::clone(&new), observers };
        shared.changes.lock().unwrap().push_back(change);
        let is_first = shared.pending.fetch_add(1, AcqRel) == 0;
        drop(reload_guard);
        if is_first {
            shared.deliver_changes();
        }
        Ok(new)
    }

    /// Calls `observer` with each change that is published from now on.
    pub fn subscribe<F>(&self, observer: F) -> Subscription
    where
        F: Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync + 'static,
    {
        let observer = Arc::new(observer);
        let weak: Weak<Observer<T>> = Arc::<F>::downgrade(&observer);
        let publish_guard = self.shared.publish_lock.lock().unwrap();
        let old = self.shared.observers.load_full();
        let is_subscribed = |observer: &&Weak<_>| {
            Weak::<Observer<T>>::strong_count(observer) > 0
        };
        let kept = old.iter().filter(is_subscribed).cloned();
        let new = kept.chain([weak]).collect();
        self.shared.observers.store(Arc::new(new));
        drop(publish_guard);
        Subscription { _observer: observer }
    }
}

impl<T> Config<T> {
    /// Returns the latest version.
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        self.shared.current.load_full()
    }

    /// Returns the error of the latest reload, or `None` if it succeeded.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.shared.last_error.load_full()
    }
}

impl<T> Shared<T> {
    fn deliver_changes(&self) {
        loop {
            let next = self.changes.lock().unwrap().pop_front();
            let change = next.expect("a change is queued before it is counted");
            for observer in change.observers.iter().filter_map(Weak::upgrade) {
                catch_panic(|| observer(&change.old, &change.new));
                catch_panic(move || drop(observer));
            }
            if self.pending.fetch_sub(1, AcqRel) == 1 {
                return;
            }
        }
    }
}

/// Runs `run`, and ends its panic.
fn catch_panic(run: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
        drop_payload(payload);
    }
}

/// Drops the payload of a panic. Its destructor may panic, too.
fn drop_payload(payload: Box<dyn Any + Send>) {
    let dropped = catch_unwind(AssertUnwindSafe(move || drop(payload)));
    dropped.unwrap_or_else(std::mem::forget);
}

fn merge(base: &mut Table, overlay: Table) {
    for (key, value) in overlay {
        let is_table = value.is_table();
        match base.get_mut(&key).filter(|old| old.is_table() && is_table) {
            Some(Value::Table(old)) => {
                merge(old, value.try_into().expect("it is a table"));
            }
            _ => drop(base.insert(key, value)),
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
