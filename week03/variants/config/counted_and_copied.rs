//! Configuration as snapshots. Here a counter of what is to be told says who
//! tells, and the observers are a copied list like the configuration itself.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::layers::{Cause, Error, Layer};
use crate::model_checked::shuttle_locks::{
    Arc, ArcSwap, ArcSwapOption, AtomicBool, AtomicUsize, Mutex,
    Ordering::{AcqRel, Acquire, Release},
    PoisonError,
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
#[derive(Debug)]
#[must_use = "an observer is forgotten when its subscription is dropped"]
pub struct Subscription {
    is_gone: Arc<AtomicBool>,
}

struct Shared<T> {
    load: Box<dyn Fn() -> Result<T, Error> + Send + Sync>,
    turn: Mutex<()>,
    /// Subscribing and publishing happen under it, one after the other.
    publish: Mutex<()>,
    current: ArcSwap<Snapshot<T>>,
    last_error: ArcSwapOption<Error>,
    observers: ArcSwap<Vec<Subscribed<T>>>,
    changes: Mutex<VecDeque<Change<T>>>,
    /// Changes that are in the queue or being told.
    untold: AtomicUsize,
}

struct Subscribed<T> {
    is_gone: Arc<AtomicBool>,
    observer: Arc<Observer<T>>,
}

type Observer<T> = dyn Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync;

struct Change<T> {
    old: Arc<Snapshot<T>>,
    new: Arc<Snapshot<T>>,
    observers: Arc<Vec<Subscribed<T>>>,
}

impl<T: DeserializeOwned + PartialEq + Send + Sync + 'static> Config<T> {
    /// Reads `layers` for the first time.
    pub fn new(
        layers: Vec<Layer>,
        validate: fn(&T) -> Result<(), Cause>,
    ) -> Result<Self, Error> {
        let load = move || {
            let mut all = Table::new();
            for layer in &layers {
                put(&mut all, layer.read()?);
            }
            let value: T = all.try_into().map_err(Error::Shape)?;
            validate(&value).map_err(Error::Invalid).map(|()| value)
        };
        let first = Snapshot { version: 1, value: load()? };
        let shared = Shared {
            load: Box::new(load),
            turn: Mutex::new(()),
            publish: Mutex::new(()),
            current: ArcSwap::from_pointee(first),
            last_error: ArcSwapOption::empty(),
            observers: ArcSwap::from_pointee(Vec::new()),
            changes: Mutex::default(),
            untold: AtomicUsize::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads all layers again.
    pub fn reload(&self) -> Result<Arc<Snapshot<T>>, Arc<Error>> {
        let shared = &self.shared;
        let turn = shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
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
        let publish = shared.publish.lock().unwrap();
        shared.current.store(Arc::clone(&new));
        let observers = shared.observers.load_full();
        drop(publish);
        let change = Change { old, new: Arc::clone(&new), observers };
        shared.changes.lock().unwrap().push_back(change);
        let is_first = shared.untold.fetch_add(1, AcqRel) == 0;
        drop(turn);
        if is_first {
            shared.tell();
        }
        Ok(new)
    }

    /// Calls `observer` with each change from now on.
    pub fn subscribe<F>(&self, observer: F) -> Subscription
    where
        F: Fn(&Snapshot<T>, &Snapshot<T>) + Send + Sync + 'static,
    {
        let is_gone = Arc::new(AtomicBool::new(false));
        let observer: Arc<Observer<T>> = Arc::new(observer);
        let _one_at_a_time = self.shared.publish.lock().unwrap();
        self.shared.observers.rcu(|all| {
            let all = all.iter().filter(|one| !one.is_gone.load(Acquire));
            let mut all: Vec<_> = all.map(Subscribed::share).collect();
            let (is_gone, observer) = (is_gone.clone(), observer.clone());
            all.push(Subscribed { is_gone, observer });
            all
        });
        Subscription { is_gone }
    }
}

impl<T> Config<T> {
    /// The latest version.
    pub fn snapshot(&self) -> Arc<Snapshot<T>> {
        self.shared.current.load_full()
    }

    /// Why the latest reload has failed, if it has.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.shared.last_error.load_full()
    }
}

impl<T> Shared<T> {
    fn tell(&self) {
        loop {
            let next = self.changes.lock().unwrap().pop_front();
            let change = next.expect("it is counted when it is there");
            for one in change.observers.iter() {
                if !one.is_gone.load(Acquire) {
                    let call = || (one.observer)(&change.old, &change.new);
                    let _ = catch_unwind(AssertUnwindSafe(call));
                }
            }
            if self.untold.fetch_sub(1, AcqRel) == 1 {
                return;
            }
        }
    }
}

impl<T> Subscribed<T> {
    fn share(&self) -> Self {
        let is_gone = Arc::clone(&self.is_gone);
        Self { is_gone, observer: Arc::clone(&self.observer) }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.is_gone.store(true, Release);
    }
}

fn put(below: &mut Table, above: Table) {
    for (key, value) in above {
        let is_table = value.is_table();
        match below.get_mut(&key).filter(|old| old.is_table() && is_table) {
            Some(Value::Table(old)) => {
                put(old, value.try_into().expect("it is a table"));
            }
            _ => drop(below.insert(key, value)),
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
