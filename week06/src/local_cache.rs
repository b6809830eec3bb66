//! Local cache: hot values in the memory of each process.
//!
//! *Question.* Values of hot keys belong into the memory of the process. Which
//! ones are kept, and for how long? What does a reader get while the value is
//! refreshed, if the key does not exist, or if the source fails? And how does no
//! value come back that was read before an invalidation?
//!
//! *Idea.* **Admission**: only values of hot keys are stored. **Jitter**: a
//! random part of each time to live, so that keys do not expire together.
//! **Negative entries**: "there is none" is stored, too. **Stale while
//! revalidate**: an expired value of a hot key is still returned for some time,
//! while one load in the background renews it. **Leases**: a load takes a lease
//! when it begins, and an invalidation removes it. A load stores its value only
//! under the lock of the leases, and only if it still has its own.
//!
//! *Guarantee.* After [`invalidate`](LocalCache::invalidate), no value is stored
//! or returned that was read before it: a load that is running has lost its
//! lease, and cannot be joined. Invalidations of other keys do not matter to it.
//! While a fresh value is stored, no load begins. A value is never taken for
//! fresher than its read: its age is counted from the `now` of the call that has
//! started the load.
//!
//! *Cost.* Two locks for all keys: each call records its key under one, and
//! each load takes the other one twice or three times. A value can be older than
//! its time to live by `stale_for`, and stays that old as long as refreshes
//! fail. An invalidation reaches this process only. A value is cloned for each
//! call, so use an `Arc`.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use week05::window;
//! use week06::hot::{self, HotKeys};
//! use week06::local_cache::{Config, LocalCache};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let second = Duration::from_secs(1);
//! let config = Config {
//!     capacity: 10_000.try_into().unwrap(),
//!     ttl: 10 * second,
//!     jitter: 0.2, // 8 to 10 seconds
//!     negative_ttl: second,
//!     stale_for: 5 * second,
//! };
//! let hot = hot::Config {
//!     capacity: 1_000.try_into().unwrap(),
//!     window: window::Config { bucket: second, buckets: 10.try_into().unwrap() },
//!     hot_at: 2.try_into().unwrap(),
//!     cool_below: 1.try_into().unwrap(),
//! };
//! let now = Instant::now();
//! let cache = LocalCache::<_, _, &str>::new(config, HotKeys::new(hot, now));
//! let query = || async { Ok(Some("a comment")) };
//! for _ in 0..2 {
//!     // The second call makes the key hot, so its value is stored.
//!     let value = cache.get(&7, now, 0.5, query).await;
//!     assert_eq!(value, Ok(Some("a comment")));
//! }
//! let unused = || async { Err("the value is fresh") };
//! let value = cache.get(&7, now + 8 * second, 0.5, unused).await;
//! assert_eq!(value, Ok(Some("a comment")));
//! # }
//! ```

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZero;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::hot::HotKeys;
use crate::model_checked::shuttle_tasks::{
    Arc, Mutex, MutexGuard, Semaphore, spawn,
};
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
    /// The lease of each key that is loaded and was not invalidated since. Under
    /// this lock, "is the lease valid? then store" is one step.
    leases: Mutex<HashMap<K, Arc<()>>>,
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
    /// Has one permit, for the refresh in the background.
    refresh: Arc<Semaphore>,
}

/// Owned by a load. Its drop gives the lease back, however the load ends.
struct Lease<K: Eq + Hash, V, E> {
    shared: Arc<Shared<K, V, E>>,
    key: K,
    token: Arc<()>,
}

impl<K, V, E> LocalCache<K, V, E>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Creates an empty cache. `hot` decides which keys are stored.
    pub fn new(config: Config, hot: HotKeys<K>) -> Self {
        let shared = Shared {
            config,
            hot: Mutex::new(hot),
            entries: Cache::new(config.capacity.get()),
            flights: Group::default(),
            leases: Mutex::default(),
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
                let lease = Lease::new(of_flight, leased);
                let value = load().await?;
                lease.store(value.clone(), now, rand);
                Ok(value)
            };
            shared.flights.run(key, flight).await
        };
        // The value of a key that has cooled is not renewed, so it is not
        // returned either. The few callers wait.
        match entry.filter(|e| is_hot && e.age(now) < e.usable_for) {
            None => loaded.await,
            Some(entry) => {
                if let Ok(permit) = entry.refresh.try_acquire_owned() {
                    drop(spawn(async move {
                        drop(loaded.await);
                        drop(permit);
                    }));
                }
                Ok(entry.value)
            }
        }
    }

    /// Removes the value of `key`. A load that is running does not store its
    /// value any more, and later calls do not join it.
    ///
    /// Call it after each write to the source.
    pub fn invalidate(&self, key: &K) {
        let mut leases = lock(&self.shared.leases);
        let lease = leases.remove_entry(key);
        let entry = self.shared.entries.remove(key);
        drop(leases);
        drop((lease, entry));
        // Not before: a flight that has found the entry could still be joined.
        self.shared.flights.forget(key);
    }
}

impl<K: Clone + Eq + Hash, V: Clone, E> Lease<K, V, E> {
    fn new(shared: Arc<Shared<K, V, E>>, key: K) -> Self {
        let token = Arc::new(());
        // A load that was cancelled may still run. It loses its lease.
        lock(&shared.leases).insert(key.clone(), Arc::clone(&token));
        Self { shared, key, token }
    }

    /// Stores what was loaded, if the lease is still valid and the key is hot.
    fn store(self, value: Option<V>, now: Instant, rand: f64) {
        let Shared { config, hot, entries, leases, .. } = &*self.shared;
        let (ttl, stale_for) = match value {
            Some(_) => (config.ttl, config.stale_for),
            None => (config.negative_ttl, Duration::ZERO),
        };
        // It is tempting to multiply by `1 - jitter * rand`. But `mul_f64`
        // panics if it rounds `Duration::MAX` up.
        let fresh_for = ttl.saturating_sub(ttl.mul_f64(config.jitter * rand));
        let usable_for = fresh_for.saturating_add(stale_for);
        let refresh = Arc::new(Semaphore::new(1));
        let entry =
            Entry { value, loaded: now, fresh_for, usable_for, refresh };
        let is_hot = lock(hot).is_hot(&self.key, now);

        let (mut evicted, mut removed) = (Default::default(), None);
        let leases = lock(leases);
        if self.is_valid(&leases) && is_hot {
            let key = self.key.clone();
            entries.insert_with_lifecycle(key, entry, &mut evicted);
        } else if self.is_valid(&leases) {
            // Otherwise a later call could get an older value than this one.
            removed = entries.remove(&self.key);
        }
        // Values are dropped without the lock.
        drop(leases);
        drop(removed);
    }
}

impl<K: Eq + Hash, V, E> Lease<K, V, E> {
    fn is_valid(&self, leases: &HashMap<K, Arc<()>>) -> bool {
        leases.get(&self.key).is_some_and(|t| Arc::ptr_eq(t, &self.token))
    }
}

impl<K: Eq + Hash, V, E> Drop for Lease<K, V, E> {
    fn drop(&mut self) {
        let mut leases = lock(&self.shared.leases);
        let is_valid = self.is_valid(&leases);
        let lease = is_valid.then(|| leases.remove_entry(&self.key));
        drop(leases);
        drop(lease);
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
