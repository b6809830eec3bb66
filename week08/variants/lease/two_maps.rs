//! Values and leases are in two maps. No call looks for what has ended: an
//! entry that has ended counts as missing, and each map is swept when it has
//! doubled since its last sweep. A reader is an enum: its state has exactly
//! what the next event needs.
//!
//! Compared with the answer: no second index, and less code for each entry. But
//! some calls visit all entries, and memory that has ended is used for longer.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use thiserror::Error;

/// A cache that stores a value only with a valid lease.
#[derive(Debug)]
pub struct Cache<K, V> {
    config: Config,
    latest: Instant,
    next: u64,
    values: Expiring<K, V>,
    leases: Expiring<K, Lease>,
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
#[error("the lease was used, has ended, or was ended by a delete")]
pub struct Refused;

/// A map whose entries end.
#[derive(Debug)]
struct Expiring<K, T> {
    entries: HashMap<K, (T, Option<Instant>)>,
    sweep_at: usize,
}

/// A client that reads one key.
#[derive(Debug)]
pub struct Reader<V> {
    waits: u32,
    state: State<V>,
}

#[derive(Debug)]
enum State<V> {
    /// Starts, waits or gets.
    Asks,
    Loads(Option<Lease>),
    Fills(V),
    IsDone,
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

impl<K: Clone + Eq + Hash, T> Expiring<K, T> {
    fn new() -> Self {
        Self { entries: HashMap::new(), sweep_at: 16 }
    }

    /// Returns the entry of `key`, if it has not ended.
    fn get(&self, key: &K, now: Instant) -> Option<&(T, Option<Instant>)> {
        let entry = self.entries.get(key)?;
        entry.1.is_none_or(|end| end > now).then_some(entry)
    }

    fn insert(&mut self, key: &K, value: T, now: Instant, life: Duration) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, e| e.1.is_none_or(|end| end > now));
            self.sweep_at = 2 * self.entries.len() + 16;
        }
        // An end that cannot be represented is never reached.
        self.entries.insert(key.clone(), (value, now.checked_add(life)));
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    /// Creates an empty cache.
    pub fn new(config: Config, now: Instant) -> Self {
        let (values, leases) = (Expiring::new(), Expiring::new());
        Self { config, latest: now, next: 0, values, leases }
    }

    /// Returns the value of `key`. If there is none, one caller gets a lease.
    pub fn get(&mut self, key: &K, now: Instant) -> Lookup<V> {
        self.latest = self.latest.max(now);
        if let Some((value, _)) = self.values.get(key, self.latest) {
            return Lookup::Hit(value.clone());
        }
        let Config { lease: life, retry_after, .. } = self.config;
        if let Some((_, end)) = self.leases.get(key, self.latest) {
            let rest = end.map(|end| end - self.latest);
            let rest = rest.unwrap_or(Duration::MAX);
            return Lookup::Busy { retry_after: retry_after.min(rest) };
        }
        let lease = Lease(self.next);
        self.next += 1;
        self.leases.insert(key, lease, self.latest, life);
        Lookup::Miss(lease)
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
        self.latest = self.latest.max(now);
        let valid = self.leases.get(key, self.latest);
        if valid.is_none_or(|(valid, _)| *valid != lease) {
            return Err(Refused);
        }
        self.leases.entries.remove(key);
        self.values.insert(key, value, self.latest, self.config.ttl);
        Ok(())
    }

    /// Removes the value of `key`, and ends its lease.
    pub fn delete(&mut self, key: &K, now: Instant) {
        self.latest = self.latest.max(now);
        self.values.entries.remove(key);
        self.leases.entries.remove(key);
    }
}

impl<V: Clone> Reader<V> {
    /// Creates a reader that waits at most `max_waits` times for another
    /// reader.
    pub fn new(max_waits: u32) -> Self {
        Self { waits: max_waits, state: State::Asks }
    }

    /// Returns the next action.
    pub fn step(&mut self, event: Event<V>) -> Action<V> {
        let state = std::mem::replace(&mut self.state, State::IsDone);
        let (state, action) = match (state, event) {
            (State::Asks, Event::Started | Event::Waited) => {
                (State::Asks, Action::Get)
            }
            (State::Asks, Event::Found(Lookup::Hit(value))) => {
                (State::IsDone, Action::Done(value))
            }
            (State::Asks, Event::Found(Lookup::Miss(lease))) => {
                (State::Loads(Some(lease)), Action::Load)
            }
            (State::Asks, Event::Found(Lookup::Busy { retry_after })) => {
                match self.waits.checked_sub(1) {
                    None => (State::Loads(None), Action::Load),
                    Some(waits) => {
                        self.waits = waits;
                        (State::Asks, Action::Wait(retry_after))
                    }
                }
            }
            (State::Loads(None), Event::Loaded(value)) => {
                (State::IsDone, Action::Done(value))
            }
            (State::Loads(Some(lease)), Event::Loaded(value)) => {
                (State::Fills(value.clone()), Action::Fill(lease, value))
            }
            (State::Fills(value), Event::Filled(_)) => {
                (State::IsDone, Action::Done(value))
            }
            _ => unreachable!("an event that does not follow the action"),
        };
        self.state = state;
        action
    }
}

impl<V: Clone> Writer<V> {
    /// Creates a writer of `value`.
    pub fn new(value: V) -> Self {
        Self { value }
    }

    /// Returns the next action.
    pub fn step(&mut self, event: Event<V>) -> Action<V> {
        match event {
            Event::Started => Action::Commit(self.value.clone()),
            Event::Committed => Action::Delete,
            Event::Deleted => Action::Done(self.value.clone()),
            _ => unreachable!("a writer does not read"),
        }
    }
}
