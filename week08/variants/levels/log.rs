//! Entries that stay, and a log of the invalidations.
//!
//! One lock has a log: the number of the latest invalidation of each key. A fill
//! remembers how many invalidations there were when it began, and stores its
//! value only if its key has none since. So no invalidation of another key
//! matters to it. The log is cleared when no fill is running. As long as one
//! hangs, it grows.
//!
//! A change of the channel clears the entries and gets a number, too. An entry
//! has its end instead of its life, and the loads are counted by hand.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use fastbloom::AtomicBloomFilter;
use quick_cache::sync::Cache;
use tokio::time::{Instant, timeout};

/// The cache of one process. Share it in an `Arc`.
#[derive(Debug)]
pub struct Levels<R, O: Origin> {
    config: Config,
    remote: R,
    origin: O,
    entries: Cache<String, Entry<O::Value>>,
    log: Mutex<Log>,
    /// The loads that run without the remote level.
    loads: AtomicUsize,
}

#[derive(Debug)]
struct Log {
    /// The keys that may exist, or `None` if the channel is lost.
    keys: Option<AtomicBloomFilter>,
    /// The number of the latest event.
    events: u64,
    /// The latest invalidation of each key, while fills are running.
    invalidated: HashMap<String, u64>,
    /// The latest change of the channel.
    channel_changed: u64,
    /// The fills that are running.
    fills: usize,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    value: Option<V>,
    /// `None` if it never expires.
    end: Option<Instant>,
}

/// A running fill of `key`.
struct Fill<'a, R: Remote, O: Origin> {
    levels: &'a Levels<R, O>,
    key: &'a str,
    began: u64,
}

/// A load without the remote level.
struct Load<'a>(&'a AtomicUsize);

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
        let log = Log {
            keys: None,
            events: 0,
            invalidated: HashMap::new(),
            channel_changed: 0,
            fills: 0,
        };
        Self {
            entries: Cache::new(config.capacity.get()),
            log: Mutex::new(log),
            loads: AtomicUsize::new(0),
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
    pub async fn get(
        &self,
        key: &str,
        rand: f64,
    ) -> Result<Option<O::Value>, GetError<O::Error>> {
        if let Some(Entry { value, end }) = self.entries.get(key)
            && end.is_none_or(|end| Instant::now() < end)
        {
            return Ok(value);
        }
        let (fill, local_ttl) = {
            let mut log = self.log();
            let local_ttl = match &log.keys {
                Some(keys) if !keys.contains(key) => return Ok(None),
                Some(_) => self.config.local_ttl,
                None => self.config.local_ttl.min(self.config.unsynced_ttl),
            };
            log.fills += 1;
            (Fill { levels: self, key, began: log.events }, local_ttl)
        };

        let mut asked = Instant::now();
        let found = self.in_time(self.remote.get(key)).await;
        let (value, ttl) = match self.found(key, &found).await {
            Some(result) => result,
            None => {
                let _load = match found {
                    Ok(_) => None,
                    Err(_) => Some(self.begin_load()?),
                };
                asked = Instant::now();
                let loaded = self.origin.load(key).await;
                let value = loaded.map_err(GetError::Origin)?;
                let ttl = match value {
                    Some(_) => self.config.remote_ttl,
                    None => self.config.negative_ttl,
                };
                let ttl = self.jittered(ttl, rand);
                let elapsed = asked.elapsed();
                if found.is_ok() && elapsed < ttl {
                    let bytes = encode(value.as_ref());
                    let set = self.remote.set(key, bytes, ttl - elapsed);
                    let _ = self.in_time(set).await;
                }
                (value, ttl)
            }
        };
        let ttl = self.jittered(local_ttl, rand).min(ttl);
        fill.store(value.clone(), asked.checked_add(ttl));
        Ok(value)
    }

    /// Returns the remote entry with its life, and deletes a bad one.
    async fn found(
        &self,
        key: &str,
        found: &Result<Option<Stored>, RemoteError<R::Error>>,
    ) -> Option<(Option<O::Value>, Duration)> {
        let stored = found.as_ref().ok()?.as_ref()?;
        if let Some(value) = decode(&stored.bytes) {
            return Some((value, stored.ttl));
        }
        let _ = self.in_time(self.remote.delete(key)).await;
        None
    }

    fn begin_load(&self) -> Result<Load<'_>, GetError<O::Error>> {
        let load = Load(&self.loads);
        // The drop of a load that was refused subtracts it again.
        if self.loads.fetch_add(1, SeqCst) >= self.config.loads_without_remote {
            return Err(GetError::Refused);
        }
        Ok(load)
    }

    /// Makes all processes forget `key`.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError`] if the remote entry could not be deleted, or if
    /// the message could not be sent.
    pub async fn invalidate(
        &self,
        key: &str,
    ) -> Result<(), RemoteError<R::Error>> {
        struct Forget<F: FnMut()>(F);
        impl<F: FnMut()> Drop for Forget<F> {
            fn drop(&mut self) {
                (self.0)();
            }
        }
        let deleted = {
            let _forget = Forget(|| self.on_invalidation(key));
            self.in_time(self.remote.delete(key)).await
        };
        let published = self.in_time(self.remote.publish(key)).await;
        match deleted {
            Ok(()) => published,
            failed => failed,
        }
    }

    /// Forgets `key`, for which this process has got a message.
    pub fn on_invalidation(&self, key: &str) {
        let mut log = self.log();
        if let Some(keys) = &log.keys {
            keys.insert(key);
        }
        log.events += 1;
        if log.fills > 0 {
            let event = log.events;
            log.invalidated.insert(key.to_owned(), event);
        }
        self.entries.remove(key);
    }

    /// Forgets all keys: from now on, messages may be missed.
    pub fn channel_lost(&self) {
        self.change_channel(None);
    }

    /// Forgets all keys: messages may have been missed until now. `keys` are the
    /// keys of the origin, read after the channel was subscribed to.
    pub fn channel_restored(&self, keys: AtomicBloomFilter) {
        self.change_channel(Some(keys));
    }

    fn change_channel(&self, keys: Option<AtomicBloomFilter>) {
        let mut log = self.log();
        log.events += 1;
        log.channel_changed = log.events;
        log.keys = keys;
        self.entries.clear();
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no panic under the lock")
    }

    fn jittered(&self, ttl: Duration, rand: f64) -> Duration {
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

impl<R: Remote, O: Origin> Fill<'_, R, O> {
    fn store(&self, value: Option<O::Value>, end: Option<Instant>) {
        let log = self.levels.log();
        let invalidated = log.invalidated.get(self.key).copied();
        let latest = invalidated.unwrap_or(0).max(log.channel_changed);
        if latest <= self.began {
            let key = self.key.to_owned();
            self.levels.entries.insert(key, Entry { value, end });
        }
    }
}

impl<R: Remote, O: Origin> Drop for Fill<'_, R, O> {
    fn drop(&mut self) {
        let mut log = self.levels.log();
        log.fills -= 1;
        if log.fills == 0 {
            log.invalidated = HashMap::new();
        }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
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
