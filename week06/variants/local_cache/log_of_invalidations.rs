//! A log of invalidations, instead of a lease for each load.
//!
//! Loads and invalidations get numbers from one counter. A load stores its value
//! if the log has no higher number for its key. An invalidation is logged only
//! while loads run, and is removed when all loads that began before it have
//! ended. So it costs nothing while nothing is loaded. But one load that hangs
//! keeps all later invalidations in the log.
//!
//! Each stale value that is returned starts a task. The tasks are merged by the
//! `Group`, so that there is no state of a refresh. This is less code, but costs
//! a task for each call while a load runs.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::num::NonZero;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::hot::HotKeys;
use crate::model_checked::shuttle_tasks::{Arc, Mutex, MutexGuard, spawn};
use crate::singleflight::{Failed, Group};

/// Keeps values of hot keys. A clone shares them.
#[derive(Debug)]
pub struct LocalCache<K, V, E> {
    shared: Arc<Shared<K, V, E>>,
}

/// The settings of [`LocalCache`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The number of entries. `quick_cache` has shards, whose capacities are
    /// rounded up, so there may be a few more.
    pub capacity: NonZero<usize>,
    /// The longest time for which a value is fresh.
    pub ttl: Duration,
    /// The part of a time to live that is random, from 0 to 1.
    pub jitter: f64,
    /// The longest time for which a key counts as missing at the source.
    pub negative_ttl: Duration,
    /// The time for which an expired value is still returned, while it is
    /// renewed.
    pub stale_for: Duration,
}

#[derive(Debug)]
struct Shared<K, V, E> {
    config: Config,
    hot: Mutex<HotKeys<K>>,
    entries: Cache<K, Entry<V>>,
    flights: Group<K, Option<V>, E>,
    /// Under this lock, "was it invalidated? if not, store" is one step.
    log: Mutex<Log<K>>,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    /// `None` if the key does not exist at the source.
    value: Option<V>,
    /// The `now` of the call that has started the load.
    loaded: Instant,
    // Times, not ends: an `Instant` plus `Duration::MAX` panics.
    fresh_for: Duration,
    usable_for: Duration,
}

#[derive(Debug)]
struct Log<K> {
    latest: u64,
    /// The numbers of the loads that run.
    loads: BTreeSet<u64>,
    /// The number of the latest invalidation of each key, if a load runs that
    /// began before it.
    invalidated: HashMap<K, u64>,
}

/// Owned by a load.
struct Load<K: Eq + Hash, V, E> {
    shared: Arc<Shared<K, V, E>>,
    number: u64,
}

impl<K, V, E> LocalCache<K, V, E>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Creates an empty cache. `hot` decides which keys are stored.
    pub fn new(config: Config, hot: HotKeys<K>) -> Self {
        let (loads, invalidated) = (BTreeSet::new(), HashMap::new());
        let log = Log { latest: 0, loads, invalidated };
        let shared = Shared {
            config,
            hot: Mutex::new(hot),
            entries: Cache::new(config.capacity.get()),
            flights: Group::default(),
            log: Mutex::new(log),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the value of `key`, or `None` if it does not exist at the source.
    /// Calls `load` if the value has to be loaded and no load of the key runs.
    /// `rand` is a random number, at least 0 and less than 1.
    ///
    /// # Errors
    ///
    /// Returns [`Failed`] if this call waits for a load, and the load fails.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, if it starts a load.
    ///
    /// # Cancel safety
    ///
    /// The first poll returns a stored value, or joins or starts a load.
    /// If the future is dropped, its call no longer waits for the load. The
    /// load is cancelled if no other call waits for it. A refresh in the
    /// background is not cancelled.
    pub async fn get<F, Fut>(
        &self,
        key: &K,
        now: Instant,
        rand: f64,
        load: F,
    ) -> Result<Option<V>, Failed<E>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
    {
        let is_hot = lock(&self.shared.hot).record(key, now);
        let entry = self.shared.entries.get(key);
        if let Some(entry) = entry.as_ref().filter(|e| e.is_fresh(now)) {
            return Ok(entry.value.clone());
        }
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        let loaded = async move {
            let (of_flight, leased) = (Arc::clone(&shared), key.clone());
            let flight = move || async move {
                // Another flight may have ended since the call has looked.
                let entry = of_flight.entries.get(&leased);
                if let Some(entry) = entry.filter(|e| e.is_fresh(now)) {
                    return Ok(entry.value);
                }
                let running = Load::new(of_flight);
                let value = load().await?;
                running.store(leased, value.clone(), now, rand);
                Ok(value)
            };
            shared.flights.run(key, flight).await
        };
        // The value of a key that has cooled is not renewed, so it is not
        // returned either. The few callers wait.
        match entry.filter(|e| is_hot && e.age(now) < e.usable_for) {
            None => loaded.await,
            Some(entry) => {
                drop(spawn(loaded));
                Ok(entry.value)
            }
        }
    }

    /// Removes the value of `key`. A load that is running does not store its
    /// value any more, and later calls do not join it.
    ///
    /// Call it after each write to the source.
    pub fn invalidate(&self, key: &K) {
        let mut log = lock(&self.shared.log);
        if !log.loads.is_empty() {
            log.latest += 1;
            let number = log.latest;
            log.invalidated.insert(key.clone(), number);
        }
        let entry = self.shared.entries.remove(key);
        drop(log);
        drop(entry);
        self.shared.flights.forget(key);
    }
}

impl<K: Clone + Eq + Hash, V: Clone, E> Load<K, V, E> {
    fn new(shared: Arc<Shared<K, V, E>>) -> Self {
        let mut log = lock(&shared.log);
        log.latest += 1;
        let number = log.latest;
        log.loads.insert(number);
        drop(log);
        Self { shared, number }
    }

    fn store(self, key: K, value: Option<V>, now: Instant, rand: f64) {
        let Shared { config, hot, entries, log, .. } = &*self.shared;
        let ttl =
            if value.is_some() { config.ttl } else { config.negative_ttl };
        let fresh_for = ttl.saturating_sub(ttl.mul_f64(config.jitter * rand));
        let usable_for = match value {
            Some(_) => fresh_for.saturating_add(config.stale_for),
            None => fresh_for,
        };
        let entry = Entry { value, loaded: now, fresh_for, usable_for };
        let is_hot = lock(hot).is_hot(&key, now);
        let (mut evicted, mut removed) = (Default::default(), None);
        let log = lock(log);
        if log.invalidated.get(&key).is_none_or(|n| *n < self.number) {
            if is_hot {
                entries.insert_with_lifecycle(key, entry, &mut evicted);
            } else {
                removed = entries.remove(&key);
            }
        }
        drop(log);
        drop(removed);
    }
}

impl<K: Eq + Hash, V, E> Drop for Load<K, V, E> {
    fn drop(&mut self) {
        let mut log = lock(&self.shared.log);
        log.loads.remove(&self.number);
        let oldest = log.loads.first().copied().unwrap_or(u64::MAX);
        let ended = log.invalidated.extract_if(|_, number| *number < oldest);
        let ended: Vec<_> = ended.collect();
        drop(log);
        drop(ended);
    }
}

impl<V> Entry<V> {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.loaded)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.age(now) < self.fresh_for
    }
}

impl<K, V, E> Clone for LocalCache<K, V, E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics with the lock held")
}
