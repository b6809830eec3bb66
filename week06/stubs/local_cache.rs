//! Local cache: hot values in the memory of each process. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - *Heat.* The first poll of the future that `get` returns records the key in
//!   the `HotKeys`, with `now`, once. A future that is not polled does nothing.
//! - *Loading.* A call that finds no usable entry joins the load of an equal key
//!   that is running. If there is none, it starts one, which begins with the call
//!   of its own `load`. Each call that waits gets the result: the value, `None`,
//!   `Failed::Error`, or `Failed::Panicked`, as `Group::run` of `singleflight`
//!   does it.
//! - *Storing.* When a load ends with a value or with `None`, this is stored as
//!   the entry of the key if the key is hot at that moment. If the key is not
//!   hot, its old entry is removed. So `None` is stored only for hot keys, too.
//!   An error and a panic change nothing.
//! - *Age.* The age of an entry counts from the `now` of the call that has
//!   started the load. If the `now` of a call is earlier, the age is zero.
//! - *Time to live.* This is `ttl × (1 − jitter × rand)`, with the `rand` of the
//!   call that has started the load. For `None`, `negative_ttl` takes the place
//!   of `ttl`. It is exact if `jitter × rand` is 0, and otherwise exact to the
//!   microsecond. No `Duration` panics or overflows, up to `Duration::MAX`.
//! - *Fresh.* An entry is fresh as long as its age is less than its time to live.
//!   The first poll returns it, whether the key is hot or not. While a fresh
//!   entry is stored, no load begins, not even for a call that looked for the
//!   entry just before it was stored.
//! - *Stale.* A value (not `None`) that is no longer fresh is stale as long as
//!   its age is less than its time to live plus `stale_for`. If the key is hot
//!   with the record of this call, the first poll returns the stale value, and
//!   a load of the key runs in the background: the one that is running, or one
//!   that begins, with the arguments of this call. It runs to its end, even if
//!   all futures are dropped. If it fails, the value stays, and the next call
//!   starts a load again. If the key is not hot, the call waits for a load, as
//!   if there were no entry.
//! - *Invalidation.* `invalidate` removes the entry of the key. If a load of the
//!   key has begun before, it stores nothing and removes nothing, also if another
//!   load has stored an entry since. A `get` that is first polled after
//!   `invalidate` does not join this load. The calls that wait for it get its
//!   result. All this holds for this key only: however many other keys are
//!   invalidated, also with equal hashes, its loads are stored.
//! - *Dropping.* If all calls that wait for a load are dropped, and no call has
//!   got a stale value for it, the load is cancelled as by `Group::run`, and
//!   stores nothing.
//! - *Capacity.* There are at most `capacity + capacity / 16` entries: the shards
//!   of `quick_cache` are rounded up. As long as no more keys than a quarter of
//!   `capacity` (rounded up) have been stored, no entry is removed to make room.
//! - *Memory.* When no load runs, nothing is kept but these entries and the
//!   `HotKeys`: nothing of a load that has ended, or of a key that was
//!   invalidated.
//! - All these rules hold for concurrent tasks: the last rung (group of tests)
//!   runs your file under shuttle. It does not see the locks of `std` and the
//!   tasks of tokio. So import them from `crate::model_checked::shuttle_tasks`:
//!   `Mutex`, `Arc`, `Weak`, `spawn`, `AbortHandle`, `JoinHandle`, and of
//!   `tokio::sync` `Notify`, `OnceCell`, `Semaphore`, `oneshot` and `watch`. If
//!   two loads of a key run at once, because one of them was cancelled or
//!   invalidated before it began, only the later one has to be stored.
//!
//! Help: `quick_cache::sync::Cache` has `get`, `insert` and `remove`, and no
//! times. `Group::run` merges loads, and `Group::forget` makes the next call
//! start a new one.

use std::hash::Hash;
use std::marker::PhantomData;
use std::num::NonZero;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use crate::hot::HotKeys;
use crate::model_checked::shuttle_tasks::{Arc, Mutex, MutexGuard};
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
    /// For how much longer a value is returned while it is renewed.
    pub stale_for: Duration,
}

#[derive(Debug)]
#[allow(dead_code, reason = "you will use them")]
struct Shared<K, V, E> {
    config: Config,
    hot: Mutex<HotKeys<K>>,
    entries: Cache<K, Entry<V>>,
    flights: Group<K, Option<V>, E>,
    // How does a load find out that its key was invalidated since it began? How
    // long is that remembered, and under which lock?
}

#[derive(Debug, Clone)]
struct Entry<V> {
    // What do the rules need, besides the value? Which instant would overflow?
    _types: PhantomData<fn() -> V>,
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
    /// Dropping the future leaves the load, which is cancelled if no other call
    /// waits for it. A refresh in the background is not cancelled.
    #[expect(clippy::unused_async, reason = "you will need it")]
    pub async fn get<F, Fut>(
        &self,
        key: &K,
        now: Instant,
        _rand: f64,
        _load: F,
    ) -> Result<Option<V>, Failed<E>>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
    {
        let _is_hot = lock(&self.shared.hot).record(key, now);
        todo!("is the entry fresh, is it stale, or is a load needed?")
    }

    /// Removes the value of `key`. A load that is running does not store its
    /// value any more, and later calls do not join it.
    ///
    /// Call it after each write to the source.
    pub fn invalidate(&self, _key: &K) {
        todo!("what is removed, so that no running load can undo it?")
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
