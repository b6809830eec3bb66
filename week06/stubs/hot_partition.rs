//! Hot partition: spread a hot key over sub-keys, and merge its increments.
//! Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! `Spreader`
//!
//! - `new` creates a `HotKeys` with the settings `Config::hot` and the start
//!   `now`. Each call of `route` records its subject there once. The subject
//!   is *hot* if `HotKeys::record` returns true for this record.
//! - A record is *unprocessed* from its `route` until the first `done` with
//!   its `Route`, or with a clone of it. Records are done in any order. A
//!   second `done` of a record changes nothing, whichever records were routed
//!   in between.
//! - If the author has an unprocessed record of this subject, then `route`
//!   returns the sub-key of that record. This holds even if the subject has
//!   become hot or has cooled since then, or if `ways` has changed.
//! - If the author has no such record, the sub-key is 0 for a subject that is
//!   not hot, and `sub_key(author, ways)` for a hot one. `sub_key` is given.
//!   `set_ways` sets `ways` for the calls of `route` that follow.
//! - Two subjects are the same if they are equal (`==`), and so are two
//!   authors. Equal hashes or bytes are not enough. Records of one subject do
//!   not influence another.
//! - A `Route` has the subject and the author that were passed to this call,
//!   not stored ones that are equal to them.
//! - For each unprocessed record, at most two clones of its author and two of
//!   its subject are stored. The `HotKeys` stores subjects, too. A record that
//!   is done leaves nothing behind: the output of `{:?}` does not grow with
//!   the number of records that are done, even while another record is
//!   unprocessed.
//! - The time of `route` and `done` does not depend, on average, on the number
//!   of unprocessed records.
//!
//! `Counters` and `Batch`
//!
//! - Any threads may call `add` and `take`, while any number of batches are
//!   open. Any thread may own a batch, which may live longer than its counters.
//! - `take` takes the sums of all increments since the last `take`, and the
//!   sums of all batches that were given back since then. Two calls never take
//!   the same increment.
//! - `entries` returns each subject once, with its sum, in ascending order of
//!   subjects (`Ord`). A sum of zero is left out. A sum is exact: no sequence
//!   of increments overflows or saturates it.
//! - A batch that is dropped without `commit` gives its sums back, also if a
//!   panic or a cancelled future drops it. A batch that is committed does not.
//! - At most one clone of each subject is stored, however many increments the
//!   subject has. After `take`, no clones are stored, except those in the
//!   entries of open batches.
//!
//! Help: `HashMap::entry` inserts or finds an element, and can also remove it.
//! `std::mem::take` moves a value out of a lock. `sub_key` is given below.

use std::hash::Hash;
use std::marker::PhantomData;
use std::num::NonZero;
use std::time::Instant;

use crate::hot;

/// Chooses the sub-key of each record.
#[derive(Debug)]
pub struct Spreader<S, A> {
    // What do you have to know of the records that are unprocessed?
    _records: PhantomData<(S, A)>,
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
    // Which record of this author is it?
}

/// Adds up increments, so that a writer writes each subject once.
#[derive(Debug)]
pub struct Counters<S> {
    // Where are the sums, if a batch may outlive the counters?
    _sums: PhantomData<S>,
}

/// The sums that were taken from [`Counters`]. A batch that is dropped without
/// [`commit`](Batch::commit) gives them back.
#[derive(Debug)]
#[must_use = "a batch that is dropped gives its sums back"]
pub struct Batch<S: Ord> {
    // What does `drop` need?
    _entries: PhantomData<S>,
}

impl<S, A> Spreader<S, A>
where
    S: Clone + Eq + Hash,
    A: AsRef<[u8]> + Clone + Eq + Hash,
{
    /// Creates a spreader without records. Its `HotKeys` begins at `now`.
    pub fn new(_config: Config, _now: Instant) -> Self {
        todo!("what do you need before the first record?")
    }

    /// Sets the number of sub-keys of hot subjects, from the next record on.
    pub fn set_ways(&mut self, _ways: NonZero<u32>) {
        todo!("and which authors keep their sub-key?")
    }

    /// Returns the partition key of the next record of `author`. Send records
    /// in the order of these calls.
    pub fn route(
        &mut self,
        _subject: S,
        _author: A,
        _now: Instant,
    ) -> Route<S, A> {
        todo!("is the subject hot, and may this author change its sub-key?")
    }

    /// Called when a record will not be processed any more: its offset is
    /// committed, or it was not sent. `route` is of this spreader.
    pub fn done(&mut self, _route: &Route<S, A>) {
        todo!("was this the author's last unprocessed record?")
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
        todo!("which lock do the counters share with their batches?")
    }
}

impl<S: Ord> Counters<S> {
    /// Adds `delta` to the sum of `subject`.
    pub fn add(&self, _subject: S, _delta: i64) {
        todo!("which type holds any sum?")
    }

    /// Takes all sums, to be written in one transaction.
    pub fn take(&self) -> Batch<S> {
        todo!("which sums need no write, and in which order are the others?")
    }
}

impl<S: Ord> Batch<S> {
    /// Returns the sums that are not zero, ordered by subject. Writers that
    /// lock rows in one order do not deadlock.
    pub fn entries(&self) -> &[(S, i128)] {
        todo!("where are the entries?")
    }

    /// Called when the sums are written: they will not come back.
    pub fn commit(self) {
        todo!("how does `drop` learn that nothing is to be given back?")
    }
}

impl<S: Ord> Drop for Batch<S> {
    fn drop(&mut self) {
        todo!("what if increments came meanwhile?")
    }
}
