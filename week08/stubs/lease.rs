//! Cache leases: a late reader cannot store an old value. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! The cache:
//!
//! - If a key has a value, `get` returns `Hit` with it. If it has neither a
//!   value nor a lease, `get` creates a lease and returns `Miss` with it. If it
//!   has a lease, `get` returns `Busy`. The `retry_after` of `Busy` is the time
//!   until the lease ends, or `Config::retry_after` if that is less.
//! - A key has at most one lease. No two leases of a cache are equal, whatever
//!   their keys are, and however many leases were created before.
//! - `fill` stores the value if `lease` is the lease that `key` has. Then the
//!   key has a value, and no lease any more. In all other cases, also if the
//!   lease belongs to another key, `fill` returns `Refused` and changes
//!   nothing.
//! - `delete` removes the value and the lease of the key.
//! - Keys are the same if they are equal (`==`). Equal hashes are not enough.
//! - A lease ends when `Config::lease` has passed since the `get` that created
//!   it. A value ends when `Config::ttl` has passed since its `fill`. From
//!   exactly that time on, the key does not have the lease or the value. No
//!   other call makes a lease or a value last longer. Every duration up to
//!   `Duration::MAX` is allowed: no call panics, and a lease or value that
//!   lasts for more than a century does not end within a century.
//! - If a `now` is earlier than the latest `now` that was passed to `new` or to
//!   another call, it counts as that latest time.
//! - Let `m` be the largest number of keys that have had a lease or a value at
//!   the same time. After each call, at most `4 m + 50` clones of keys are
//!   stored, and at most as many values. So unused leases do not pile up, and
//!   neither do keys that are deleted often.
//! - On average, the time of a call grows at most with the logarithm of `m`.
//!
//! The clients: the first event of `step` is `Started`. Each later event is the
//! result of the action that `step` has returned. After `Done`, `step` is not
//! called again.
//!
//! - The first action of a reader is `Get`. After a `Hit`, the reader returns
//!   the value with `Done`. After a `Miss`, the reader loads, fills with the
//!   lease of the `Miss` and the loaded value, and then returns this value with
//!   `Done`, even if the fill was refused. It does not fill twice.
//! - If the result of `Get` is `Busy`, the reader waits for its `retry_after`,
//!   and then repeats the `Get`. A reader waits at most `max_waits` times. If
//!   it has waited that often and the result is `Busy`, it loads, and returns
//!   the value without a fill.
//! - A writer does two things: it commits its value, and it deletes the key.
//!   Then it is `Done` with its value. In which order?
//!
//! The cache and all clients together, in every order of the actions:
//!
//! - When all clients have ended, and no writer of the key has crashed between
//!   its commit and its end, then the cache has the value of the database, or
//!   no value.
//! - A reader that starts after a writer is `Done` returns the value of this
//!   writer, or a newer one.
//! - If any client crashes, no key stays `Busy` for longer than the time of a
//!   lease, or keeps its value for longer than the ttl.
//!
//! Help: a `BTreeMap` with the key `(Instant, u64)` has `first_entry`, which
//! returns the entry that ends first.

use std::hash::Hash;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use thiserror::Error;

/// A cache that stores a value only with a valid lease.
#[derive(Debug)]
pub struct Cache<K, V> {
    // What is stored for a key, and how do you find what has ended?
    _entries: PhantomData<(K, V)>,
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

/// A client that reads one key.
#[derive(Debug)]
pub struct Reader<V> {
    // What does a reader remember between two actions?
    _loaded: PhantomData<V>,
}

/// A client that writes one key.
#[derive(Debug)]
pub struct Writer<V> {
    _value: PhantomData<V>,
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

impl<K: Clone + Eq + Hash, V: Clone> Cache<K, V> {
    /// Creates an empty cache.
    pub fn new(_config: Config, _now: Instant) -> Self {
        todo!("what does an empty cache remember?")
    }

    /// Returns the value of `key`. If there is none, one caller gets a lease.
    pub fn get(&mut self, _key: &K, _now: Instant) -> Lookup<V> {
        todo!("does the key have a value, or has somebody its lease?")
    }

    /// Stores `value`, and uses up `lease`.
    ///
    /// # Errors
    ///
    /// Returns [`Refused`] if `lease` is not the valid lease of `key`. Then
    /// nothing changes.
    pub fn fill(
        &mut self,
        _key: &K,
        _lease: Lease,
        _value: V,
        _now: Instant,
    ) -> Result<(), Refused> {
        todo!("was the key deleted, or the lease used, since the `get`?")
    }

    /// Removes the value of `key`, and ends its lease.
    pub fn delete(&mut self, _key: &K, _now: Instant) {
        todo!("what could a slow reader still have?")
    }
}

impl<V: Clone> Reader<V> {
    /// Creates a reader that waits at most `max_waits` times for another
    /// reader.
    pub fn new(_max_waits: u32) -> Self {
        todo!("what does a reader know when it starts?")
    }

    /// Returns the next action.
    pub fn step(&mut self, _event: Event<V>) -> Action<V> {
        todo!("what comes after this event?")
    }
}

impl<V: Clone> Writer<V> {
    /// Creates a writer of `value`.
    pub fn new(_value: V) -> Self {
        todo!("what does a writer know when it starts?")
    }

    /// Returns the next action.
    pub fn step(&mut self, _event: Event<V>) -> Action<V> {
        todo!("delete first, or commit first?")
    }
}
