//! Variant: each author has the set of its unprocessed records, and the sums
//! are a sorted array.
//!
//! The maps are nested, so a call looks up a subject once and clones nothing
//! for it. A subject whose last record is done must be removed as well as the
//! author. The ids of a new author are a set of their own, which allocates. In
//! the sorted array, a new subject moves all subjects after it: fine for some
//! thousand, and faster to read than a tree.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::hot::{self, HotKeys};

/// Chooses the sub-key of each record.
#[derive(Debug)]
pub struct Spreader<S, A> {
    config: Config,
    hot: HotKeys<S>,
    routed: u64,
    subjects: HashMap<S, HashMap<A, Author>>,
}

/// The settings of a [`Spreader`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Decides which subjects are hot.
    pub hot: hot::Config,
    /// The number of sub-keys of a hot subject.
    pub ways: NonZero<u32>,
}

/// The partition key of a record: its subject and sub-key.
#[derive(Debug, Clone)]
pub struct Route<S, A> {
    /// The subject that was passed to `route`.
    pub subject: S,
    /// The author that was passed to `route`.
    pub author: A,
    /// The sub-key.
    pub sub: u32,
    number: u64,
}

#[derive(Debug)]
struct Author {
    sub: u32,
    unprocessed: HashSet<u64>,
}

impl<S, A> Spreader<S, A>
where
    S: Clone + Eq + Hash,
    A: AsRef<[u8]> + Clone + Eq + Hash,
{
    /// Creates a spreader without records. Its [`HotKeys`] begins at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        let hot = HotKeys::new(config.hot, now);
        Self { config, hot, routed: 0, subjects: HashMap::new() }
    }

    /// Sets the number of sub-keys of hot subjects, from the next record on.
    pub fn set_ways(&mut self, ways: NonZero<u32>) {
        self.config.ways = ways;
    }

    /// Returns the partition key of the next record of `author`. Send records
    /// in the order of these calls.
    pub fn route(
        &mut self,
        subject: S,
        author: A,
        now: Instant,
    ) -> Route<S, A> {
        let is_hot = self.hot.record(&subject, now);
        let number = self.routed;
        self.routed += 1;
        let authors = self.subjects.entry(subject.clone()).or_default();
        let stored = authors.entry(author.clone()).or_insert_with(|| {
            let spread = sub_key(author.as_ref(), self.config.ways);
            let sub = if is_hot { spread } else { 0 };
            Author { sub, unprocessed: HashSet::new() }
        });
        stored.unprocessed.insert(number);
        Route { sub: stored.sub, subject, author, number }
    }

    /// Called when a record will not be processed any more: its offset is
    /// committed, or it was not sent. `route` is of this spreader.
    pub fn done(&mut self, route: &Route<S, A>) {
        let Some(authors) = self.subjects.get_mut(&route.subject) else {
            return;
        };
        let Some(author) = authors.get_mut(&route.author) else {
            return;
        };
        author.unprocessed.remove(&route.number);
        if author.unprocessed.is_empty() {
            authors.remove(&route.author);
        }
        if authors.is_empty() {
            self.subjects.remove(&route.subject);
        }
    }
}

/// Returns the sub-key of an author, below `ways`. It is the same in each
/// process and each release, unlike a hash of the standard library.
pub fn sub_key(author: &[u8], ways: NonZero<u32>) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in author {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    let mixed = hash ^ hash >> 32;
    (mixed % u64::from(ways.get())) as u32
}

type Sums<S> = Vec<(S, i128)>;

/// Adds up increments, so that a writer writes each subject once.
#[derive(Debug)]
pub struct Counters<S> {
    sums: Arc<Mutex<Sums<S>>>,
}

impl<S: Ord> Default for Counters<S> {
    fn default() -> Self {
        Self { sums: Arc::new(Mutex::new(Vec::new())) }
    }
}

impl<S: Ord> Counters<S> {
    /// Adds `delta` to the sum of `subject`.
    pub fn add(&self, subject: S, delta: i64) {
        with(&self.sums, |sums| add(sums, subject, i128::from(delta)));
    }

    /// Takes all sums, to be written in one transaction.
    pub fn take(&self) -> Batch<S> {
        let mut entries = with(&self.sums, std::mem::take);
        entries.retain(|(_, sum)| *sum != 0);
        Batch { entries, home: Some(Arc::clone(&self.sums)) }
    }
}

/// The sums that were taken from [`Counters`]. A batch that is dropped without
/// [`commit`](Batch::commit) gives them back.
#[derive(Debug)]
#[must_use = "a batch that is dropped gives its sums back"]
pub struct Batch<S: Ord> {
    entries: Sums<S>,
    home: Option<Arc<Mutex<Sums<S>>>>,
}

impl<S: Ord> Batch<S> {
    /// Returns the sums that are not zero, ordered by subject. Writers that
    /// lock rows in one order do not deadlock.
    pub fn entries(&self) -> &[(S, i128)] {
        &self.entries
    }

    /// Called when the sums are written: they will not come back.
    pub fn commit(mut self) {
        self.home = None;
    }
}

impl<S: Ord> Drop for Batch<S> {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        let entries = std::mem::take(&mut self.entries);
        with(home, |sums| {
            entries.into_iter().for_each(|(s, sum)| add(sums, s, sum));
        });
    }
}

fn add<S: Ord>(sums: &mut Sums<S>, subject: S, delta: i128) {
    match sums.binary_search_by(|(s, _)| s.cmp(&subject)) {
        Ok(i) => sums[i].1 += delta,
        Err(i) => sums.insert(i, (subject, delta)),
    }
}

fn with<S, T>(sums: &Mutex<S>, f: impl FnOnce(&mut S) -> T) -> T {
    f(&mut sums.lock().unwrap_or_else(PoisonError::into_inner))
}
