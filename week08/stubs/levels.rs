//! Cache levels: process, Redis, database. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - *Levels.* `get` looks in the local level, then asks the remote one, then
//!   the origin, and returns the first result. A result is a value, or `None`
//!   for an absent key: absent keys are stored in both levels, too. If the
//!   remote `get` returns `Ok(None)`, there is no entry, and so no result. If a
//!   level has a result, the levels below it are not asked.
//! - *Fill.* A result of the origin is stored in the remote level, by `set`, and
//!   then in the local one. A result of the remote level is stored in the local
//!   one. `get` makes its calls one after the other, in the order of these
//!   rules, and returns when the last one has ended. It makes no other calls.
//!   Concurrent calls of `get` may each make their own, or share them. The
//!   future of `get` is `Send`, so hold no `MutexGuard` across an `await`.
//! - *Life.* The life of a result of the origin is `remote_ttl`, or
//!   `negative_ttl` if the key is absent, with jitter. It counts from the
//!   moment when `load` was **called**. `set` gets the part of the life that is
//!   left when `set` is called. If nothing is left, `set` is not called.
//! - The life of a result of the remote level is `Stored::ttl`, without jitter.
//!   It counts from the moment when the remote `get` was called.
//! - The life of a local entry is `local_ttl`, with jitter, but at most the life
//!   of the result that it is a copy of. It counts from the same moment as the
//!   life of this result. An entry whose age has reached its life is not
//!   returned. Each life, also `Stored::ttl`, may be `Duration::ZERO` or
//!   `Duration::MAX`.
//! - *Jitter.* A time with jitter is `time - time × jitter × rand`, with
//!   `Config::jitter` and the `rand` that `get` was given.
//! - *Remote failures.* A call of `Remote` fails if it returns an error, or if
//!   it takes longer than `remote_timeout`: then its future is dropped before
//!   the next call. If the remote `get` fails, the load is limited: at most
//!   `loads_without_remote` such loads run at once. Other loads do not count. If
//!   the load would be one too many, `load` is not called, and `get` returns
//!   `GetError::Refused` at once. A load counts from its call until it ends by a
//!   result, error or panic, or is dropped. After a remote `get` that has
//!   failed, there is no `set`. If `set`, or the `delete` in the next rule,
//!   fails, `get` goes on as if it had not.
//! - *Bad entries.* If the bytes of a remote entry cannot be decoded, the entry
//!   is deleted (`Remote::delete`), and counts as missing.
//! - *Origin failures.* If `load` fails, `get` returns `GetError::Origin`, and
//!   nothing is stored.
//! - *Filter.* `channel_restored` gets a Bloom filter. If the local level has no
//!   result for a key, and the key is not in the filter, `get` returns `None`
//!   without any call, and stores nothing. `on_invalidation` inserts its key,
//!   for it may have been created. There is no filter while the channel is lost.
//! - *Invalidation.* `invalidate` calls the remote `delete`. After that, it does
//!   once what `on_invalidation` does. Then it calls `publish`, so that other
//!   processes call `on_invalidation`. It does all three even if calls fail, and
//!   returns the first failure. If its future is dropped during `delete`, or
//!   `delete` panics, when it is called or when it is polled, the local entry is
//!   removed all the same.
//! - `on_invalidation` removes the local entry of its key. A `get` of this key
//!   whose first poll came before that does not store its result in the local
//!   level any more. A call of `get` of another key may be affected in the same
//!   way, but only for at most one key in ten. In all other cases, a `get` that
//!   has got a result from a lower level stores it in the local level, also if
//!   another `get` of the key runs at the same time, or has stored its own
//!   result.
//! - *Channel.* `channel_lost` and `channel_restored` remove all local entries.
//!   A `get` whose first poll came before that does not store its result in the
//!   local level any more. While the channel is lost, `local_ttl` counts as the
//!   smaller of `local_ttl` and `unsynced_ttl`. A new cache begins with a lost
//!   channel.
//! - All this holds on several threads. The last rung (group of tests) runs two
//!   caches with a real `redis-server`.
//!
//! A `get` may store an old result in the **remote** level after an
//! invalidation: the exercise `lease` prevents this.
//!
//! Given: `Local`, the local level, with `local` and `replace_local`; `encode`
//! and `decode` for the bytes of remote entries; `jittered`; and `in_time`, which
//! calls the remote level with a time limit. You may change everything that is
//! private. `Semaphore` has `try_acquire`. A filter has `contains(key)` and
//! `insert(key)`, both with `&self`.

#![allow(dead_code, unused_imports, reason = "you will use it")]

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
        _key: &str,
        _rand: f64,
    ) -> Result<Option<O::Value>, GetError<O::Error>> {
        todo!("which level has a result, and what if it becomes old meanwhile?")
    }

    /// Reads the remote level, or the origin. The entry that is returned has
    /// the rest of the remote entry's life.
    async fn fetch(
        &self,
        _key: &str,
        _rand: f64,
    ) -> Result<Entry<O::Value>, GetError<O::Error>> {
        todo!("when does the life of this result begin, and when does it end?")
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
        _key: &str,
    ) -> Result<(), RemoteError<R::Error>> {
        todo!("which level first, and what if that fails, or is dropped?")
    }

    /// Forgets `key`, for which this process has got a message.
    pub fn on_invalidation(&self, _key: &str) {
        todo!("what else must be known of a key that was created?")
    }

    /// Forgets all keys: from now on, messages may be missed.
    pub fn channel_lost(&self) {
        todo!("which of the things you know can be old now?")
    }

    /// Forgets all keys: messages may have been missed until now. `keys` are the
    /// keys of the origin, read after the channel was subscribed to. Messages
    /// that have come since the subscription are handled after this call.
    pub fn channel_restored(&self, _keys: AtomicBloomFilter) {
        todo!("what may have been missed?")
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
