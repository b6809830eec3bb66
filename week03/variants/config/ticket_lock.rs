//! Copy-on-write configuration. A ticket lock serves reloads in the order in
//! which they were called. Observers are stored by id.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::layers::{Cause, Error, Layer};
use crate::model_checked::shuttle_locks::{
    Arc, Condvar, Mutex, MutexGuard, RwLock,
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
#[must_use = "dropping a subscription unsubscribes its observer"]
pub struct Subscription {
    unsubscribe: Option<Box<dyn FnOnce() + Send + Sync>>,
}

struct Shared<T> {
    layers: Vec<Layer>,
    validate: fn(&T) -> Result<(), Cause>,
    /// Locked only to clone or to store the pointer.
    current: RwLock<Arc<Snapshot<T>>>,
    state: Mutex<State<T>>,
    /// Notified when `served` changes.
    served_changed: Condvar,
}

struct State<T> {
    /// The ticket of the next reload that is called.
    next_ticket: u64,
    /// The ticket of the reload that may run.
    served: u64,
    last_error: Option<Arc<Error>>,
    next_id: u64,
    observers: BTreeMap<u64, Subscribed<T>>,
    changes: VecDeque<[Arc<Snapshot<T>>; 2]>,
    is_delivering: bool,
}

struct Subscribed<T> {
    /// The version that was current when the observer subscribed.
    since: u64,
    observer: Arc<Observer<T>>,
}

type Observer<T> = dyn Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync;

impl<T: DeserializeOwned + PartialEq + Send + Sync + 'static> Config<T> {
    /// Creates version 1 from `layers`.
    pub fn new(
        layers: Vec<Layer>,
        validate: fn(&T) -> Result<(), Cause>,
    ) -> Result<Self, Error> {
        let value = load(&layers, validate)?;
        let shared = Shared {
            layers,
            validate,
            current: RwLock::new(Arc::new(Snapshot { version: 1, value })),
            state: Mutex::new(State {
                next_ticket: 0,
                served: 0,
                last_error: None,
                next_id: 0,
                observers: BTreeMap::new(),
                changes: VecDeque::new(),
                is_delivering: false,
            }),
            served_changed: Condvar::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads all layers again, and publishes the value if it has changed.
    pub fn reload(&self) -> Result<Arc<Snapshot<T>>, Arc<Error>> {
        let guard = self.shared.lock_reload();
        let loaded = load(&self.shared.layers, self.shared.validate);
        let result = self.shared.publish(loaded);
        drop(guard);
        self.shared.deliver_changes();
        result
    }

    /// Calls `observer` with each change that is published from now on.
    pub fn subscribe<F>(&self, observer: F) -> Subscription
    where
        F: Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync + 'static,
    {
        let mut state = self.shared.state();
        let id = state.next_id;
        state.next_id += 1;
        let since = self.snapshot().version;
        let observer: Arc<Observer<T>> = Arc::new(observer);
        state.observers.insert(id, Subscribed { since, observer });
        drop(state);
        let shared = Arc::downgrade(&self.shared);
        let unsubscribe = move || {
            if let Some(shared) = shared.upgrade() {
                let removed = shared.state().observers.remove(&id);
                drop(removed);
            }
        };
        Subscription { unsubscribe: Some(Box::new(unsubscribe)) }
    }
}

impl<T> Config<T> {
    /// Returns the latest version.
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        self.shared.current()
    }

    /// Returns the error of the latest reload, or `None` if it succeeded.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.shared.state().last_error.clone()
    }
}

impl<T: PartialEq> Shared<T> {
    fn publish(
        &self,
        loaded: Result<T, Error>,
    ) -> Result<Arc<Snapshot<T>>, Arc<Error>> {
        let loaded = loaded.map_err(Arc::new);
        let mut state = self.state();
        state.last_error = loaded.as_ref().err().cloned();
        let value = loaded?;
        let old = self.current();
        if value == old.value {
            return Ok(old);
        }
        let new = Arc::new(Snapshot { version: old.version + 1, value });
        *self.current.write().unwrap() = Arc::clone(&new);
        state.changes.push_back([old, Arc::clone(&new)]);
        Ok(new)
    }
}

/// Serves the next ticket when it is dropped.
struct ReloadGuard<'a, T>(&'a Shared<T>);

impl<T> Drop for ReloadGuard<'_, T> {
    fn drop(&mut self) {
        self.0.state().served += 1;
        self.0.served_changed.notify_all();
    }
}

impl<T> Shared<T> {
    fn lock_reload(&self) -> ReloadGuard<'_, T> {
        let mut state = self.state();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        while state.served != ticket {
            state = self.served_changed.wait(state).unwrap();
        }
        ReloadGuard(self)
    }

    fn current(&self) -> Arc<Snapshot<T>> {
        Arc::clone(&self.current.read().unwrap())
    }

    fn deliver_changes(&self) {
        let mut state = self.state();
        if state.is_delivering {
            return;
        }
        state.is_delivering = true;
        while let Some([old, new]) = state.changes.pop_front() {
            let ids: Vec<u64> = state.observers.keys().copied().collect();
            for id in ids {
                let observer = match state.observers.get(&id) {
                    Some(entry) if entry.since < new.version => {
                        Arc::clone(&entry.observer)
                    }
                    _ => continue,
                };
                drop(state);
                catch_panic(|| observer(&old, &new));
                catch_panic(move || drop(observer));
                state = self.state();
            }
        }
        state.is_delivering = false;
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap()
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

fn load<T: DeserializeOwned>(
    layers: &[Layer],
    validate: fn(&T) -> Result<(), Cause>,
) -> Result<T, Error> {
    let empty = Value::Table(Table::new());
    let merged = layers.iter().try_fold(empty, |merged, layer| {
        Ok(merge(merged, Value::Table(layer.read()?)))
    })?;
    let value = merged.try_into().map_err(Error::Shape)?;
    validate(&value).map_err(Error::Invalid)?;
    Ok(value)
}

fn merge(base: Value, overlay: Value) -> Value {
    match (base, overlay) {
        (Value::Table(mut base), Value::Table(overlay)) => {
            for (key, value) in overlay {
                let value = match base.remove(&key) {
                    Some(old) => merge(old, value),
                    None => value,
                };
                base.insert(key, value);
            }
            Value::Table(base)
        }
        (_, overlay) => overlay,
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(unsubscribe) = self.unsubscribe.take() {
            unsubscribe();
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
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
