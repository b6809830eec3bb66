//! Configuration as snapshots. Here reloads take tickets, so that they are served
//! in the order in which they came; observers have numbers.

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
    /// From 1 on, and one more with each change.
    pub version: u64,
    /// Valid, and never written again.
    pub value: T,
}

/// Keeps an observer subscribed until it is dropped.
#[must_use = "an observer is forgotten when its subscription is dropped"]
pub struct Subscription {
    end: Option<Box<dyn FnOnce() + Send + Sync>>,
}

struct Shared<T> {
    layers: Vec<Layer>,
    validate: fn(&T) -> Result<(), Cause>,
    /// Locked for as long as it takes to clone or to store a pointer.
    current: RwLock<Arc<Snapshot<T>>>,
    state: Mutex<State<T>>,
    /// Another ticket is served.
    next: Condvar,
}

struct State<T> {
    /// Given to a reload before it reads.
    next_ticket: u64,
    /// Whose turn it is.
    served: u64,
    last_error: Option<Arc<Error>>,
    next_id: u64,
    observers: BTreeMap<u64, Subscribed<T>>,
    changes: VecDeque<[Arc<Snapshot<T>>; 2]>,
    is_telling: bool,
}

struct Subscribed<T> {
    /// The version at that time.
    since: u64,
    observer: Arc<Observer<T>>,
}

type Observer<T> = dyn Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync;

impl<T: DeserializeOwned + PartialEq + Send + Sync + 'static> Config<T> {
    /// Reads `layers` for the first time.
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
                is_telling: false,
            }),
            next: Condvar::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads all layers again.
    pub fn reload(&self) -> Result<Arc<Snapshot<T>>, Arc<Error>> {
        let turn = self.shared.turn();
        let loaded = load(&self.shared.layers, self.shared.validate);
        let result = self.shared.decide(loaded);
        drop(turn);
        self.shared.tell();
        result
    }

    /// Calls `observer` with each change from now on.
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
        let end = move || {
            if let Some(shared) = shared.upgrade() {
                let gone = shared.state().observers.remove(&id);
                drop(gone);
            }
        };
        Subscription { end: Some(Box::new(end)) }
    }
}

impl<T> Config<T> {
    /// The latest version.
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        self.shared.current()
    }

    /// Why the latest reload has failed, if it has.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.shared.state().last_error.clone()
    }
}

impl<T: PartialEq> Shared<T> {
    fn decide(
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

/// Gives the turn to the next ticket when it is dropped.
struct Turn<'a, T>(&'a Shared<T>);

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.0.state().served += 1;
        self.0.next.notify_all();
    }
}

impl<T> Shared<T> {
    fn turn(&self) -> Turn<'_, T> {
        let mut state = self.state();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        while state.served != ticket {
            state = self.next.wait(state).unwrap();
        }
        Turn(self)
    }

    fn current(&self) -> Arc<Snapshot<T>> {
        Arc::clone(&self.current.read().unwrap())
    }

    fn tell(&self) {
        let mut state = self.state();
        if state.is_telling {
            return;
        }
        state.is_telling = true;
        while let Some([old, new]) = state.changes.pop_front() {
            let all: Vec<u64> = state.observers.keys().copied().collect();
            for id in all {
                let observer = match state.observers.get(&id) {
                    Some(one) if one.since < new.version => {
                        Arc::clone(&one.observer)
                    }
                    _ => continue,
                };
                drop(state);
                let call = AssertUnwindSafe(|| observer(&old, &new));
                let _ = catch_unwind(call);
                drop(observer);
                state = self.state();
            }
        }
        state.is_telling = false;
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap()
    }
}

fn load<T: DeserializeOwned>(
    layers: &[Layer],
    validate: fn(&T) -> Result<(), Cause>,
) -> Result<T, Error> {
    let all =
        layers.iter().try_fold(Value::Table(Table::new()), |all, layer| {
            Ok(merged(all, Value::Table(layer.read()?)))
        })?;
    let value = all.try_into().map_err(Error::Shape)?;
    validate(&value).map_err(Error::Invalid)?;
    Ok(value)
}

fn merged(below: Value, above: Value) -> Value {
    match (below, above) {
        (Value::Table(mut below), Value::Table(above)) => {
            for (key, value) in above {
                let value = match below.remove(&key) {
                    Some(old) => merged(old, value),
                    None => value,
                };
                below.insert(key, value);
            }
            Value::Table(below)
        }
        (_, above) => above,
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end();
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
        let now = self.snapshot();
        f.debug_struct("Config").field("now", &now).finish_non_exhaustive()
    }
}
