//! Cache levels: process, Redis, database.
//!
//! *Question.* A price is changed, and one of twelve processes sells at the old
//! price for an hour. Each process has a local cache, and all share a Redis. How
//! do the levels of a cache agree?
//!
//! *Idea.* A copy lives at most as long as the entry it was **copied** from, and
//! its age counts from before the read. An **invalidation** deletes from below:
//! the remote entry, the local one, and then those of the other processes, by a
//! message. In any other order, a reader fills the upper level again from the
//! lower one. A message can get lost. So if the **channel** breaks, all that the
//! process knows is dropped, and new entries live shortly until it is restored.
//! **Negative entries** and a **Bloom filter** keep absent keys away from the
//! database, and **jitter** keeps entries from expiring together.
//!
//! *Guarantee.* After a message is handled, the local level has no value that
//! was read before it, and no fill that began before it stores one. A value is
//! served for at most its remote time to live after its load began, plus the
//! time that the `set` took to arrive. If the remote level fails, at most
//! [`Config::loads_without_remote`] loads run at once.
//!
//! *Cost.* A process that has not yet got the message serves the old value. A
//! fill that has read the old value from the database can still store it in the
//! remote level after the delete: the stale refill, see `lease`. Misses of one
//! key are not merged: see `week06::singleflight`. While the channel is lost,
//! most reads go to Redis.
//!
//! ```
//! # use std::{convert::Infallible, time::Duration};
//! # use fastbloom::AtomicBloomFilter;
//! # use week08::levels::{Config, Levels, Origin, Remote, Stored, Value};
//! # #[derive(Debug, Clone, PartialEq)]
//! # struct Price(u8);
//! # impl Value for Price {
//! #     fn encode(&self) -> Vec<u8> { vec![self.0] }
//! #     fn decode(bytes: &[u8]) -> Option<Self> { bytes.first().map(|b| Price(*b)) }
//! # }
//! # struct Redis;
//! # impl Remote for Redis {
//! #     type Error = Infallible;
//! #     async fn get(&self, _: &str) -> Result<Option<Stored>, Infallible> { Ok(None) }
//! #     async fn set(&self, _: &str, _: Vec<u8>, _: Duration) -> Result<(), Infallible> { Ok(()) }
//! #     async fn delete(&self, _: &str) -> Result<(), Infallible> { Ok(()) }
//! #     async fn publish(&self, _: &str) -> Result<(), Infallible> { Ok(()) }
//! # }
//! # struct Prices;
//! # impl Origin for Prices {
//! #     type Value = Price;
//! #     type Error = Infallible;
//! #     async fn load(&self, _: &str) -> Result<Option<Price>, Infallible> { Ok(Some(Price(7))) }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let config = Config {
//!     capacity: 10_000.try_into().unwrap(),
//!     local_ttl: Duration::from_secs(60),
//!     remote_ttl: Duration::from_secs(3600),
//!     negative_ttl: Duration::from_secs(30),
//!     unsynced_ttl: Duration::from_secs(1),
//!     jitter: 0.1,
//!     remote_timeout: Duration::from_millis(50),
//!     loads_without_remote: 20,
//! };
//! let levels = Levels::new(config, Redis, Prices);
//! let products = AtomicBloomFilter::with_false_pos(0.01).expected_items(1000);
//! products.insert("book");
//! levels.channel_restored(products); // subscribed
//! assert_eq!(levels.get("book", 0.5).await, Ok(Some(Price(7))));
//! assert_eq!(levels.get("no such book", 0.5).await, Ok(None));
//! levels.invalidate("book").await.unwrap(); // after the write has committed
//! # }
//! ```

use std::hash::{BuildHasher, RandomState};
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use fastbloom::AtomicBloomFilter;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// The cache of one process. Share it in an `Arc`.
#[derive(Debug)]
pub struct Levels<R, O: Origin> {
    config: Config,
    remote: R,
    origin: O,
    /// Replaced when the channel is lost or restored. A fill that began before
    /// has the replaced one, and stores its value there.
    local: RwLock<Arc<Local<O::Value>>>,
    /// Has a permit for each load without the remote level.
    without_remote: Semaphore,
}

/// The settings of [`Levels`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The number of local entries.
    pub capacity: NonZero<usize>,
    /// The longest life of a local entry.
    pub local_ttl: Duration,
    /// The longest life of a value in the remote level.
    pub remote_ttl: Duration,
    /// The longest life of an absent key in the remote level.
    pub negative_ttl: Duration,
    /// The longest life of a local entry while the channel is lost. If it is
    /// more than `local_ttl`, then `local_ttl` takes its place.
    pub unsynced_ttl: Duration,
    /// The part of each of these times that is random, from 0 to 1.
    pub jitter: f64,
    /// The longest time for a call of the remote level.
    pub remote_timeout: Duration,
    /// How many loads run at once if the remote level fails.
    pub loads_without_remote: usize,
}

/// The shared level, and the channel to all processes.
pub trait Remote {
    /// Why a call has failed.
    type Error;
    /// Returns the entry of `key`.
    fn get(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<Stored>, Self::Error>> + Send;
    /// Stores an entry, which expires after `ttl`.
    fn set(
        &self,
        key: &str,
        bytes: Vec<u8>,
        ttl: Duration,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
    /// Removes the entry of `key`.
    fn delete(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
    /// Makes each process, also this one, call [`Levels::on_invalidation`].
    fn publish(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// An entry of the remote level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// A zero for an absent key, or a one and the encoded value.
    pub bytes: Vec<u8>,
    /// The rest of its life.
    pub ttl: Duration,
}

/// The database.
pub trait Origin {
    /// The values that the cache stores.
    type Value: Value;
    /// Why a load has failed.
    type Error;
    /// Returns the current value of `key`.
    fn load(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<Self::Value>, Self::Error>> + Send;
}

/// A value that the remote level can store.
pub trait Value: Clone {
    /// Returns the value as bytes.
    fn encode(&self) -> Vec<u8>;
    /// Returns the value of `bytes`, or `None` if this version cannot read them.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Why [`Levels::get`] has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GetError<E> {
    /// The load has failed.
    #[error("the origin has failed")]
    Origin(#[source] E),
    /// The remote level has failed, and all loads that may run without it are
    /// running. The database is protected from one more load.
    #[error("the remote level has failed, and the origin is protected")]
    Refused,
}

/// Why a call of the remote level has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoteError<E> {
    /// The call has returned this error.
    #[error("the remote level has failed")]
    Failed(#[source] E),
    /// The call took longer than [`Config::remote_timeout`], and may have been
    /// executed.
    #[error("the remote level has timed out")]
    TimedOut,
}

impl<R: Remote, O: Origin> Levels<R, O> {
    /// Creates an empty cache. Its channel is lost until it is restored.
    pub fn new(config: Config, remote: R, origin: O) -> Self {
        let loads = config.loads_without_remote.min(Semaphore::MAX_PERMITS);
        Self {
            local: RwLock::new(Arc::new(Local::new(config.capacity, None))),
            without_remote: Semaphore::new(loads),
            config,
            remote,
            origin,
        }
    }

    /// Returns the value of `key`, or `None` if it does not exist. `rand` is a
    /// random number, at least 0 and less than 1.
    ///
    /// # Errors
    ///
    /// Returns [`GetError`] if the origin has failed, or is protected.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the entries that it has stored stay, and
    /// nothing else.
    pub async fn get(
        &self,
        key: &str,
        rand: f64,
    ) -> Result<Option<O::Value>, GetError<O::Error>> {
        let local = self.local();
        if let Some(value) = local.get(key) {
            return Ok(value);
        }
        if local.keys.as_ref().is_some_and(|keys| !keys.contains(key)) {
            return Ok(None);
        }
        // Before the first read. Otherwise an invalidation between the two would
        // not be noticed, and the old value would be stored after it.
        let version = local.version(key);
        let mut entry = self.fetch(key, rand).await?;
        let value = entry.value.clone();
        let Config { local_ttl, unsynced_ttl, .. } = self.config;
        let is_synced = local.keys.is_some();
        let ttl =
            if is_synced { local_ttl } else { local_ttl.min(unsynced_ttl) };
        entry.ttl = entry.ttl.min(self.jittered(ttl, rand));
        local.store(key, version, entry);
        Ok(value)
    }

    /// Reads the remote level, or the origin. The entry that is returned has
    /// the rest of the remote entry's life.
    async fn fetch(
        &self,
        key: &str,
        rand: f64,
    ) -> Result<Entry<O::Value>, GetError<O::Error>> {
        // Taken before each read: while it is under way, time passes for what it
        // has read.
        let since = Instant::now();
        let found = self.in_time(self.remote.get(key)).await;
        if let Ok(Some(Stored { bytes, ttl })) = &found {
            if let Some(value) = decode(bytes) {
                return Ok(Entry { value, since, ttl: *ttl });
            }
            let _ = self.in_time(self.remote.delete(key)).await;
        }
        // A guard, so that a load that panics or is dropped returns its permit.
        let permit = match found {
            Ok(_) => None,
            Err(_) => Some(self.without_remote.try_acquire()),
        };
        let _permit = permit.transpose().map_err(|_| GetError::Refused)?;

        let since = Instant::now();
        let value = self.origin.load(key).await.map_err(GetError::Origin)?;
        let ttl = match value {
            Some(_) => self.config.remote_ttl,
            None => self.config.negative_ttl,
        };
        let ttl = self.jittered(ttl, rand);
        let rest = ttl.saturating_sub(since.elapsed());
        if found.is_ok() && !rest.is_zero() {
            let set = self.remote.set(key, encode(value.as_ref()), rest);
            let _ = self.in_time(set).await;
        }
        Ok(Entry { value, since, ttl })
    }

    /// Makes all processes forget `key`. Call this after each write to the
    /// origin, also after a write that has created the key. If this fails, call
    /// it again.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError`] if the remote entry could not be deleted, or if
    /// the message could not be sent. This process has forgotten the key in any
    /// case.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, this process has forgotten the key, but the
    /// remote level and the other processes may not: call it again.
    pub async fn invalidate(
        &self,
        key: &str,
    ) -> Result<(), RemoteError<R::Error>> {
        // It is tempting to begin with the local entry, which cannot fail. But
        // then a reader copies the remote entry before that is deleted.
        let forget = ForgetOnDrop { levels: self, key };
        let deleted = self.in_time(self.remote.delete(key)).await;
        drop(forget);
        // Also if the delete has failed: it may have been executed.
        let published = self.in_time(self.remote.publish(key)).await;
        deleted.and(published)
    }

    /// Forgets `key`, for which this process has got a message.
    pub fn on_invalidation(&self, key: &str) {
        let local = self.local();
        if let Some(keys) = &local.keys {
            keys.insert(key); // It may have been created.
        }
        local.remove(key);
    }

    /// Forgets all keys: from now on, messages may be missed.
    pub fn channel_lost(&self) {
        self.replace_local(None);
    }

    /// Forgets all keys: messages may have been missed until now. `keys` are the
    /// keys of the origin, read after the channel was subscribed to. Messages
    /// that have come since the subscription are handled after this call.
    pub fn channel_restored(&self, keys: AtomicBloomFilter) {
        self.replace_local(Some(keys));
    }

    fn replace_local(&self, keys: Option<AtomicBloomFilter>) {
        let new = Arc::new(Local::new(self.config.capacity, keys));
        let mut local = self.local.write().expect("no panic under the lock");
        let old = std::mem::replace(&mut *local, new);
        drop(local);
        drop(old); // Not under the lock.
    }

    fn local(&self) -> Arc<Local<O::Value>> {
        Arc::clone(&self.local.read().expect("no panic under the lock"))
    }

    fn jittered(&self, ttl: Duration, rand: f64) -> Duration {
        // `mul_f64(1 - jitter * rand)` panics if it rounds `Duration::MAX` up.
        ttl.saturating_sub(ttl.mul_f64(self.config.jitter * rand))
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, R::Error>>,
    ) -> Result<T, RemoteError<R::Error>> {
        match timeout(self.config.remote_timeout, call).await {
            Ok(result) => result.map_err(RemoteError::Failed),
            Err(_) => Err(RemoteError::TimedOut),
        }
    }
}

/// Forgets the key of an invalidation, also if that is dropped or panics.
struct ForgetOnDrop<'a, R: Remote, O: Origin> {
    levels: &'a Levels<R, O>,
    key: &'a str,
}

impl<R: Remote, O: Origin> Drop for ForgetOnDrop<'_, R, O> {
    fn drop(&mut self) {
        self.levels.on_invalidation(self.key);
    }
}

fn encode<V: Value>(value: Option<&V>) -> Vec<u8> {
    match value {
        Some(value) => [vec![1], value.encode()].concat(),
        None => vec![0],
    }
}

/// Returns `None` if `bytes` are not the entry of a value or an absent key.
fn decode<V: Value>(bytes: &[u8]) -> Option<Option<V>> {
    match bytes {
        [0] => Some(None),
        [1, value @ ..] => V::decode(value).map(Some),
        _ => None,
    }
}

/// The local level, between two changes of the channel.
#[derive(Debug)]
struct Local<V> {
    entries: Cache<String, Entry<V>>,
    /// The keys that may exist, or `None` if the channel is lost.
    keys: Option<AtomicBloomFilter>,
    /// How often keys with this hash were removed. Under one of these locks, "is
    /// the version the same? then store" is one step.
    versions: Vec<Mutex<u64>>,
    hasher: RandomState,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    /// `None` if the key is absent.
    value: Option<V>,
    /// When the read of the value began.
    since: Instant,
    // Not the end: an `Instant` plus `Duration::MAX` panics.
    ttl: Duration,
}

impl<V: Clone> Local<V> {
    fn new(capacity: NonZero<usize>, keys: Option<AtomicBloomFilter>) -> Self {
        Self {
            entries: Cache::new(capacity.get()),
            keys,
            versions: (0..256).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Returns the value of `key`, unless it has expired.
    fn get(&self, key: &str) -> Option<Option<V>> {
        let entry = self.entries.get(key)?;
        (entry.since.elapsed() < entry.ttl).then_some(entry.value)
    }

    fn version(&self, key: &str) -> u64 {
        *self.lock(key)
    }

    /// Stores `entry`, unless `key` was removed since it had this version.
    fn store(&self, key: &str, version: u64, entry: Entry<V>) {
        let current = self.lock(key);
        if *current == version {
            self.entries.insert(key.to_owned(), entry);
        }
    }

    fn remove(&self, key: &str) {
        let mut version = self.lock(key);
        *version += 1;
        self.entries.remove(key);
    }

    fn lock(&self, key: &str) -> MutexGuard<'_, u64> {
        let shard = self.hasher.hash_one(key) as usize % self.versions.len();
        self.versions[shard].lock().expect("no panic under the lock")
    }
}
