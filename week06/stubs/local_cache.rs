//! Local cache: hot values in the memory of each process. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - *Heat.* A call of `get` records its key in the `HotKeys` once, with `now`,
//!   in the first poll of its future. A future that is not polled does nothing.
//! - *Loading.* If a call finds no usable entry (see *Fresh* and *Stale*), and
//!   a load of an equal key is running, the call joins this load. If no such
//!   load is running, the call starts one. This load begins with the call of
//!   its own `load`. Each call that waits for a load gets the result of the
//!   load, as from `Group::run` of `singleflight`: the value, `None`,
//!   `Failed::Error`, or `Failed::Panicked`.
//! - *Storing.* When a load ends with a value or with `None`, this result is
//!   stored as the entry of the key, if the key is hot at that moment. If the
//!   key is not hot, its old entry is removed. So `None`, too, is stored only
//!   for hot keys. An error and a panic change nothing.
//! - *Age.* The age of an entry counts from the `now` of the call that has
//!   started the load. If the `now` of a call is earlier, the age is zero.
//! - *Time to live.* The time to live of an entry is
//!   `ttl × (1 − jitter × rand)`, with the `rand` of the call that has started
//!   the load. For `None`, `negative_ttl` takes the place of `ttl`. The result
//!   is exact if `jitter × rand` is 0, and otherwise exact to the microsecond.
//!   No `Duration` up to `Duration::MAX` causes a panic or an overflow.
//! - *Fresh.* An entry is fresh as long as its age is less than its time to
//!   live. The first poll of a call returns a fresh entry, whether the key is
//!   hot or not. While a fresh entry is stored, no load of its key begins. This
//!   holds also for a call that looked for the entry just before it was stored.
//! - *Stale.* A value (not `None`) that is no longer fresh is stale as long as
//!   its age is less than its time to live plus `stale_for`. If the key is hot
//!   after this call has recorded it, the first poll returns the stale value,
//!   and a load of the key runs in the background. This is the load that is
//!   running already, or else a new load with the arguments of this call. It
//!   runs to its end, even if all futures are dropped. If it fails, the value
//!   stays, and the next call starts a load again. If the key is not hot, the
//!   call waits for a load, as if there were no entry.
//! - *Invalidation.* `invalidate` removes the entry of the key. A load of the
//!   key that has begun earlier is an old load. An old load stores nothing and
//!   removes nothing, even if another load has stored an entry since. A `get`
//!   that is first polled after `invalidate` does not join an old load. The
//!   calls that wait for an old load get its result. All this holds for this
//!   key only. However many other keys are invalidated, even keys with equal
//!   hashes, the loads of this key are stored.
//! - *Dropping.* A load is cancelled as by `Group::run`, and stores nothing, if
//!   all calls that wait for it are dropped, and it is not the load in the
//!   background (see *Stale*) of a call that has got a stale value.
//! - *Capacity.* There are at most `capacity + capacity / 16` entries: the
//!   shards of `quick_cache` are rounded up. As long as the number of keys that
//!   have been stored is at most a quarter of `capacity` (rounded up), no entry
//!   is removed to make room.
//! - *Memory.* When no load runs, only these entries and the `HotKeys` are
//!   kept. Nothing is kept of a load that has ended, or of a key that was
//!   invalidated.
//! - All these rules hold for concurrent tasks: the last rung (group of tests)
//!   runs your file under shuttle, a model checker. Shuttle does not see the
//!   locks of `std` and the tasks of tokio. So import their replacements from
//!   `crate::model_checked::shuttle_tasks`. It has `Mutex`, `Arc`, `Weak`,
//!   `spawn`, `AbortHandle` and `JoinHandle`, and, for those of `tokio::sync`,
//!   `Notify`, `OnceCell`, `Semaphore`, `oneshot` and `watch`. Two loads of a
//!   key can run at once, if one of them was cancelled or invalidated before it
//!   began. Then only the later load has to be stored.
//!
//! Help: `quick_cache::sync::Cache` has `get`, `insert` and `remove`, but its
//! entries do not expire. `Group::run` merges loads, and `Group::forget` makes
//! the next call start a new load.

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
    /// The time for which an expired value is still returned, while it is
    /// renewed.
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
    /// If the future is dropped, its call no longer waits for the load. The
    /// load is cancelled if no other call waits for it. A refresh in the
    /// background is not cancelled.
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
