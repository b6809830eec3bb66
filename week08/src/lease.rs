//! Cache leases: a late reader cannot store an old value.
//!
//! *Question.* A slow reader has loaded the old row. The writer changes the row
//! and deletes the cache entry. Then the reader stores the old value, for a
//! day. How is this **stale set** prevented?
//!
//! *Idea.* A miss gives the reader a **lease**: a number that is bound to the
//! key. The cache stores a value only with the lease that is still valid, and a
//! delete ends the lease. So a value whose load began before the delete is
//! refused. A key has one valid lease at a time, so one reader loads while the
//! others wait: the lease merges the herd, too.
//!
//! *Guarantee.* When all clients have ended, the cache has the value of the
//! database or none, in every order of their steps: a delete comes after its
//! commit, so a load that missed the commit has a lease that the delete ends.
//! If a writer crashes between commit and delete, an old value stays for at
//! most `ttl`.
//!
//! *Cost.* A refused value was loaded in vain. A reader that crashes delays the
//! others until its lease ends. Cache and clients have to support leases; the
//! cache keeps one entry for each key that is being loaded.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use week08::lease::{Cache, Config, Lookup, Refused};
//!
//! let config = Config {
//!     lease: Duration::from_secs(10),
//!     retry_after: Duration::from_millis(50),
//!     ttl: Duration::from_secs(86_400),
//! };
//! let now = Instant::now();
//! let mut cache = Cache::new(config, now);
//! let Lookup::Miss(slow) = cache.get(&"price", now) else { panic!() };
//! assert!(matches!(cache.get(&"price", now), Lookup::Busy { .. }));
//! // The slow reader loads 10. A writer commits 11, and deletes the entry.
//! cache.delete(&"price", now);
//! assert_eq!(cache.fill(&"price", slow, 10, now), Err(Refused));
//!
//! let Lookup::Miss(lease) = cache.get(&"price", now) else { panic!() };
//! assert_eq!(cache.fill(&"price", lease, 11, now), Ok(()));
//! assert_eq!(cache.get(&"price", now), Lookup::Hit(11));
//! ```

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

use thiserror::Error;

/// A cache that stores a value only with a valid lease.
#[derive(Debug)]
pub struct Cache<K, V> {
    config: Config,
    /// The latest time that a call has got.
    latest: Instant,
    /// The number of the latest lease. It belongs to the whole cache: a counter
    /// for each key would begin again when the entry of the key is removed.
    latest_lease: u64,
    entries: HashMap<K, Entry<V>>,
    /// The keys of all entries, by the end of the entry and by its lease.
    ends: BTreeMap<(Instant, u64), K>,
}

/// The settings of a [`Cache`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The time after which a lease ends. Choose it above the time of a load.
    pub lease: Duration,
    /// The longest time that a reader waits before it asks again.
    pub retry_after: Duration,
    /// The time for which a value is stored.
    pub ttl: Duration,
}

/// The permission to fill one key once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease(pub u64);

/// The result of [`Cache::get`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<V> {
    /// The cache has this value.
    Hit(V),
    /// There is no value. The caller loads it, and fills the cache.
    Miss(Lease),
    /// There is no value, and another caller has the lease.
    Busy {
        /// The time after which it is worth asking again.
        retry_after: Duration,
    },
}

/// The value was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the lease is not valid: it was used, it has ended, or a delete ended it"
)]
pub struct Refused;

/// A value, or the lease of a reader that loads it.
#[derive(Debug)]
struct Entry<V> {
    lease: u64,
    until: Instant,
    value: Option<V>,
}

/// A client that reads one key.
#[derive(Debug)]
pub struct Reader<V> {
    waits_left: u32,
    lease: Option<Lease>,
    loaded: Option<V>,
}

/// A client that writes one key.
#[derive(Debug)]
pub struct Writer<V> {
    value: V,
}

/// The next action of a client. The caller of `step` performs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<V> {
    /// Get the key from the cache.
    Get,
    /// Wait for this time.
    Wait(Duration),
    /// Load the value from the database.
    Load,
    /// Fill the cache with this value.
    Fill(Lease, V),
    /// Commit this value to the database.
    Commit(V),
    /// Delete the key from the cache.
    Delete,
    /// Nothing: the client has read or written this value.
    Done(V),
}

/// The event that a client gets: it starts, or its action was performed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<V> {
    /// The client starts.
    Started,
    /// The result of [`Action::Get`].
    Found(Lookup<V>),
    /// The time of [`Action::Wait`] has passed.
    Waited,
    /// The result of [`Action::Load`].
    Loaded(V),
    /// The result of [`Action::Fill`].
    Filled(Result<(), Refused>),
    /// The value of [`Action::Commit`] is in the database.
    Committed,
    /// The key of [`Action::Delete`] is not in the cache.
    Deleted,
}

/// Longer durations count as this one, so that no sum overflows.
const LONGEST: Duration = Duration::from_secs(200 * 31_557_600);

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    /// Creates an empty cache.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            latest: now,
            latest_lease: 0,
            entries: HashMap::new(),
            ends: BTreeMap::new(),
        }
    }

    /// Returns the value of `key`. If there is none, one caller gets a lease.
    pub fn get(&mut self, key: &K, now: Instant) -> Lookup<V> {
        let now = self.advance(now);
        if let Some(Entry { until, value, .. }) = self.entries.get(key) {
            let rest = until.duration_since(now);
            let retry_after = rest.min(self.config.retry_after);
            return match value {
                Some(value) => Lookup::Hit(value.clone()),
                None => Lookup::Busy { retry_after },
            };
        }
        self.latest_lease += 1;
        let until = now + self.config.lease.min(LONGEST);
        let lease = self.latest_lease;
        self.insert(key, Entry { lease, until, value: None });
        Lookup::Miss(Lease(lease))
    }

    /// Stores `value`, and uses up `lease`.
    ///
    /// # Errors
    ///
    /// Returns [`Refused`] if `lease` is not the valid lease of `key`. Then
    /// nothing changes.
    pub fn fill(
        &mut self,
        key: &K,
        lease: Lease,
        value: V,
        now: Instant,
    ) -> Result<(), Refused> {
        let now = self.advance(now);
        let entry = self.entries.get(key).ok_or(Refused)?;
        if entry.lease != lease.0 || entry.value.is_some() {
            return Err(Refused);
        }
        self.remove(key);
        let until = now + self.config.ttl.min(LONGEST);
        self.insert(key, Entry { lease: lease.0, until, value: Some(value) });
        Ok(())
    }

    /// Removes the value of `key`, and ends its lease.
    pub fn delete(&mut self, key: &K, now: Instant) {
        self.advance(now);
        self.remove(key);
    }

    /// Removes the entries that have ended, and returns the latest time.
    fn advance(&mut self, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        while let Some(first) = self.ends.first_entry()
            && first.key().0 <= self.latest
        {
            self.entries.remove(&first.remove());
        }
        self.latest
    }

    fn insert(&mut self, key: &K, entry: Entry<V>) {
        self.ends.insert((entry.until, entry.lease), key.clone());
        self.entries.insert(key.clone(), entry);
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.ends.remove(&(entry.until, entry.lease));
        }
    }
}

impl<V: Clone> Reader<V> {
    /// Creates a reader that waits at most `max_waits` times for another
    /// reader.
    pub fn new(max_waits: u32) -> Self {
        Self { waits_left: max_waits, lease: None, loaded: None }
    }

    /// Returns the next action: get, load, fill.
    ///
    /// # Panics
    ///
    /// When `event` does not follow the last action.
    pub fn step(&mut self, event: Event<V>) -> Action<V> {
        match event {
            Event::Started | Event::Waited => Action::Get,
            Event::Found(Lookup::Hit(value)) => Action::Done(value),
            Event::Found(Lookup::Miss(lease)) => {
                // It is tempting to load first, and to ask for the lease with
                // the value in hand. Then a delete in between ends no lease.
                self.lease = Some(lease);
                Action::Load
            }
            Event::Found(Lookup::Busy { retry_after }) => {
                if self.waits_left == 0 {
                    return Action::Load;
                }
                self.waits_left -= 1;
                Action::Wait(retry_after)
            }
            Event::Loaded(value) => match self.lease {
                Some(lease) => {
                    self.loaded = Some(value.clone());
                    Action::Fill(lease, value)
                }
                None => Action::Done(value),
            },
            // A value that is refused was right when the read began.
            Event::Filled(_) => {
                Action::Done(self.loaded.take().expect("loaded before a fill"))
            }
            _ => unreachable!("a reader does not write"),
        }
    }
}

impl<V: Clone> Writer<V> {
    /// Creates a writer of `value`.
    pub fn new(value: V) -> Self {
        Self { value }
    }

    /// Returns the next action: commit, delete.
    ///
    /// # Panics
    ///
    /// When `event` does not follow the last action.
    #[allow(clippy::needless_pass_by_value, reason = "as for a reader")]
    pub fn step(&mut self, event: Event<V>) -> Action<V> {
        match event {
            Event::Started => Action::Commit(self.value.clone()),
            // Not earlier: a reader could fill the old value before the commit.
            Event::Committed => Action::Delete,
            Event::Deleted => Action::Done(self.value.clone()),
            _ => unreachable!("a writer does not read"),
        }
    }
}
