//! Hot partition: spread a hot key over sub-keys, and merge its increments.
//!
//! *Question.* Comments are partitioned by subject, so one celebrity floods one
//! partition and one consumer. How is a subject spread over several partitions
//! without breaking the order that readers rely on, and how does it go back?
//! How are a thousand increments of its counter merged into one write?
//!
//! *Idea.* A hot subject gets a **sub-key** for each hash of an author, as only
//! the records of one author must stay in order. The sub-key changes when the
//! subject heats or cools. So an author stays on it until all records are done.
//! Increments are added up in process, and taken as a batch: a guard that gives
//! them back unless it is committed.
//!
//! *Guarantee.* All unprocessed records of an author and a subject have one
//! sub-key. So they are processed in order, at any speed of each consumer, also
//! while the subject heats or cools and when `ways` changes. All other authors
//! of a subject that is not hot use sub-key 0. While the process lives, no
//! increment is lost or committed twice.
//!
//! *Cost.* An entry for each unprocessed record. While a subject is hot, and
//! until its records are done, different authors have no order. One author is
//! not spread. The order holds for the records of one `Spreader`, so the
//! requests of an author must reach one process. A crash loses the sums in
//! memory. If a write has an unknown outcome, its batch may be written twice.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use week05::window;
//! use week06::hot;
//! use week06::hot_partition::{Config, Counters, Spreader, sub_key};
//!
//! let (bucket, buckets) = (Duration::from_secs(1), 10.try_into().unwrap());
//! let hot = hot::Config {
//!     capacity: 1_000.try_into().unwrap(),
//!     window: window::Config { bucket, buckets },
//!     hot_at: 3.try_into().unwrap(), // 500 in a real service
//!     cool_below: 2.try_into().unwrap(),
//! };
//! let (ways, start) = (8.try_into().unwrap(), Instant::now());
//! let mut spreader = Spreader::new(Config { hot, ways }, start);
//! let comment = spreader.route("song", "ann", start);
//! let edit = spreader.route("song", "ann", start);
//! assert_eq!((comment.sub, edit.sub), (0, 0));
//! // Now the song is hot. But the first record of Ann may still wait.
//! let other = spreader.route("song", "bob", start);
//! assert_eq!(other.sub, sub_key(b"bob", ways));
//! spreader.done(&comment);
//! assert_eq!(spreader.route("song", "ann", start).sub, 0);
//!
//! let counters = Counters::default();
//! (0..1_000).for_each(|_| counters.add("song", 1));
//! drop(counters.take()); // the write has failed
//! assert_eq!(counters.take().entries(), [("song", 1_000)]);
//! ```

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::mem;
use std::num::NonZero;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::hot::{self, HotKeys};

/// Chooses the sub-key of each record.
#[derive(Debug)]
pub struct Spreader<S, A> {
    hot: HotKeys<S>,
    ways: NonZero<u32>,
    next_id: u64,
    /// The ids of records that are not done. With a count alone, a second
    /// `done` of one record would end another.
    unprocessed: HashSet<u64>,
    /// The authors that have an unprocessed record of a subject.
    assigned: HashMap<(S, A), Assignment>,
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
    id: u64,
}

#[derive(Debug)]
struct Assignment {
    sub: u32,
    /// The number of unprocessed records.
    records: u64,
}

/// Adds up increments, so that a writer writes each subject once.
#[derive(Debug)]
pub struct Counters<S> {
    sums: Arc<Mutex<Sums<S>>>,
}

/// The sums that were taken from [`Counters`]. A batch that is dropped without
/// [`commit`](Batch::commit) gives them back.
#[derive(Debug)]
#[must_use = "a batch that is dropped gives its sums back"]
pub struct Batch<S: Ord> {
    entries: Vec<(S, i128)>,
    sums: Arc<Mutex<Sums<S>>>,
}

/// An `i128` holds the sum of more `i64` than can be added in an age.
type Sums<S> = BTreeMap<S, i128>;

impl<S, A> Spreader<S, A>
where
    S: Clone + Eq + Hash,
    A: AsRef<[u8]> + Clone + Eq + Hash,
{
    /// Creates a spreader without records. Its [`HotKeys`] begins at `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            hot: HotKeys::new(config.hot, now),
            ways: config.ways,
            next_id: 0,
            unprocessed: HashSet::new(),
            assigned: HashMap::new(),
        }
    }

    /// Sets the number of sub-keys of hot subjects, from the next record on.
    pub fn set_ways(&mut self, ways: NonZero<u32>) {
        self.ways = ways;
    }

    /// Returns the partition key of the next record of `author`. Send records
    /// in the order of these calls.
    pub fn route(
        &mut self,
        subject: S,
        author: A,
        now: Instant,
    ) -> Route<S, A> {
        // A record of an assigned author counts, too: a subject would cool
        // while its backlog grows.
        let is_hot = self.hot.record(&subject, now);
        let sub = if is_hot { sub_key(author.as_ref(), self.ways) } else { 0 };
        let key = (subject.clone(), author.clone());
        let assignment = self.assigned.entry(key);
        let assignment = assignment.or_insert(Assignment { sub, records: 0 });
        assignment.records += 1;
        let id = self.next_id;
        self.next_id += 1;
        self.unprocessed.insert(id);
        Route { subject, author, sub: assignment.sub, id }
    }

    /// Called when a record will not be processed any more: its offset is
    /// committed, or it was not sent. `route` is of this spreader.
    pub fn done(&mut self, route: &Route<S, A>) {
        if !self.unprocessed.remove(&route.id) {
            return;
        }
        let key = (route.subject.clone(), route.author.clone());
        if let Entry::Occupied(mut assignment) = self.assigned.entry(key) {
            assignment.get_mut().records -= 1;
            if assignment.get().records == 0 {
                assignment.remove();
            }
        }
    }
}

/// Returns the sub-key of an author, below `ways`. It is the same in each
/// process and each release, unlike a hash of the standard library.
pub fn sub_key(author: &[u8], ways: NonZero<u32>) -> u32 {
    // FNV-1a. Its last step mixes the high half into the low half.
    let hash = author.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    ((hash ^ hash >> 32) % u64::from(ways.get())) as u32
}

impl<S: Ord> Default for Counters<S> {
    fn default() -> Self {
        Self { sums: Arc::default() }
    }
}

impl<S: Ord> Counters<S> {
    /// Adds `delta` to the sum of `subject`.
    pub fn add(&self, subject: S, delta: i64) {
        *lock(&self.sums).entry(subject).or_default() += i128::from(delta);
    }

    /// Takes all sums, to be written in one transaction.
    pub fn take(&self) -> Batch<S> {
        let sums = mem::take(&mut *lock(&self.sums));
        let entries = sums.into_iter().filter(|(_, sum)| *sum != 0).collect();
        Batch { entries, sums: Arc::clone(&self.sums) }
    }
}

impl<S: Ord> Batch<S> {
    /// Returns the sums that are not zero, ordered by subject. Writers that
    /// lock rows in one order do not deadlock.
    pub fn entries(&self) -> &[(S, i128)] {
        &self.entries
    }

    /// Called when the sums are written: they will not come back.
    pub fn commit(mut self) {
        self.entries.clear();
    }
}

impl<S: Ord> Drop for Batch<S> {
    fn drop(&mut self) {
        let mut sums = lock(&self.sums);
        for (subject, sum) in self.entries.drain(..) {
            // There may be a sum already: increments came meanwhile.
            *sums.entry(subject).or_default() += sum;
        }
    }
}

fn lock<S>(sums: &Mutex<Sums<S>>) -> MutexGuard<'_, Sums<S>> {
    // No call leaves half of a change behind.
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}
