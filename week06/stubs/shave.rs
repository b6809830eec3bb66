//! Peak shaving: write a Kafka log to a database in batches. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - *Assignments.* `Assigned` starts an assignment of a partition. It ends
//!   with `Revoked`, `Lost`, or the next `Assigned` of the same partition.
//! - *Reading.* A record that comes with `Polled` is ignored if its partition
//!   is not assigned, if its offset is below the `next` of the assignment, if
//!   this or a later offset was already read in the same assignment, or if the
//!   job was stopped. Otherwise, the job reads the record. Offsets can have
//!   gaps.
//! - *Waiting.* After a record was read, it waits. The waiting records are in
//!   the order of reading. A waiting record is forgotten when its assignment
//!   ends.
//! - *In flight.* A write or a dead letter is in flight from its start until
//!   its answer. At any time, at most one write or dead letter is in flight.
//!   Its records do not wait. They stay in flight when their assignment ends.
//! - *Batches.* If nothing is in flight, a write is due when `max_batch`
//!   records wait, when the first waiting record was read `linger` ago, or when
//!   the job was stopped. The write takes the records that wait longest, at
//!   most `max_batch`. It stops before the first rejected record (see
//!   *Poison*), and takes no record behind that one.
//! - *Failures.* After `WriteFailed`, `Rejected` or `DeadLetterFailed`, the
//!   records that were in flight wait again. They come before all other waiting
//!   records, in the same order, and keep their time of reading. But if the
//!   assignment of such a record has ended, the record is forgotten. After
//!   `WriteFailed` and `DeadLetterFailed`, no write and no dead letter is due
//!   before `retry_after` has passed.
//! - *Poison.* `Rejected(index)` says that the database never accepts the
//!   record at this index of the batch: it is a rejected record. As soon as a
//!   rejected record is the first waiting record, and nothing is in flight, a
//!   dead letter with this record is due.
//! - *Processed.* After `Written` or `DeadLettered`, the records that were in
//!   flight are processed. The offset to commit of an assignment is the offset
//!   of its last processed record, plus 1. As long as the assignment has no
//!   processed record, it has no offset to commit.
//! - *Commits.* If no commit is in flight, a commit is due when an assignment
//!   has an offset to commit that the broker has not yet accepted. The commit
//!   has this offset for each such assignment, and no other offset. `Committed`
//!   says that the broker has accepted these offsets. After `CommitFailed`, no
//!   commit is due before `retry_after` has passed. The next commit has the
//!   offsets to commit of the time at which it starts, not the offsets of the
//!   failed commit.
//! - *Rebalance.* If an assignment ends while a write or a commit is in flight,
//!   the answer changes nothing for a later assignment of the same partition.
//!   `Revoked` returns a `LastCommit` if the assignment has an offset to commit
//!   that the broker has not yet accepted, even if a commit is in flight.
//!   `Lost` returns no `LastCommit`.
//! - *Back-pressure.* `Pause` is returned when the number of records that wait
//!   or are in flight reaches `max_waiting`. `Resume` is returned when this
//!   number falls to half of `max_waiting` (rounded down). If the job is still
//!   paused after an `Assigned`, another `Pause` is returned.
//! - *Time.* Each effect is returned in the first step in which it is due,
//!   whatever the event is. A time that an `Instant` cannot represent never
//!   comes. `wake_at` is the earliest time at which a `Tick` has an effect, if
//!   no other event comes before this `Tick`.
//! - *Stop.* After `Stop`, the job writes the waiting records, and commits.
//!   `is_finished` is true if the job was stopped, no record waits or is in
//!   flight, and the broker has accepted all offsets to commit.
//! - The job stores at most two copies of a record, and only as long as the
//!   record waits or is in flight.
//! - The effects of a step can be in any order, and so can the partitions in a
//!   commit.
//! - Your file can rely on this: `now` never goes back, each effect that needs
//!   an answer gets it once, the index of a `Rejected` is in the batch, and
//!   offsets are less than `Offset::MAX`.
//!
//! `step`, `write_at` (when is a write due?) and `pause_or_resume` are given.
//! For the first rung (group of tests), `commit` can return `None`.

use std::collections::{BTreeMap, VecDeque};
use std::mem::replace;
use std::num::NonZero;
use std::time::{Duration, Instant};

/// The number of a partition.
pub type Partition = i32;

/// The position of a record in its partition.
pub type Offset = i64;

/// What a [`Job`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<T> {
    /// The partition that the record is in.
    pub partition: Partition,
    /// The record's position. Numbers can be missing between two records.
    pub offset: Offset,
    /// The message. Each write clones it, so an `Arc` is a good choice.
    pub value: T,
}

/// The settings of a [`Job`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The largest number of records in one write.
    pub max_batch: NonZero<usize>,
    /// The longest time for which a record waits for others to fill its batch.
    pub linger: Duration,
    /// When this number of records wait or are in flight, fetching pauses.
    pub max_waiting: NonZero<usize>,
    /// The time between a failure and the next try.
    pub retry_after: Duration,
}

/// An event that a job handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// The group has given a partition to this job. `next` is its committed
    /// offset, the first one to read.
    Assigned {
        /// The new partition.
        partition: Partition,
        /// The first offset to read.
        next: Offset,
    },
    /// The group takes a partition from this job. Until this step returns, the
    /// job still owns it.
    Revoked(Partition),
    /// The job has lost a partition some time ago, for instance because it did
    /// not poll for too long. Another member may have read from it since.
    Lost(Partition),
    /// A record was read.
    Polled(Record<T>),
    /// The batch is in the database.
    Written,
    /// The batch is not in the database, or this is unknown. A later try can
    /// succeed.
    WriteFailed,
    /// Nothing of the batch is in the database, because the database never
    /// accepts the record at this index of the batch.
    Rejected(usize),
    /// The dead letter is in its topic.
    DeadLettered,
    /// The dead letter is not in its topic, or this is unknown.
    DeadLetterFailed,
    /// The broker has accepted the commit.
    Committed,
    /// The broker has refused the commit, or this is unknown.
    CommitFailed,
    /// The time [`wake_at`](Job::wake_at) has come.
    Tick,
    /// The process shuts down: write the waiting records, and read no more.
    Stop,
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<T> {
    /// Write these records in one transaction. Answer with `Written`,
    /// `WriteFailed` or `Rejected`.
    Write(Vec<Record<T>>),
    /// Send this record to the dead-letter topic. Answer with `DeadLettered` or
    /// `DeadLetterFailed`.
    DeadLetter(Record<T>),
    /// Commit these offsets. Each is the next offset to read of its partition.
    /// Answer with `Committed` or `CommitFailed`.
    Commit(Vec<(Partition, Offset)>),
    /// Commit this offset before the partition is given back. This effect gets
    /// no answer.
    LastCommit(Partition, Offset),
    /// Stop fetching from all partitions that are assigned now. But keep
    /// polling: a member that does not poll loses its partitions.
    Pause,
    /// Fetch records of all partitions again.
    Resume,
}

/// A member of a consumer group that writes records to a database.
#[derive(Debug)]
pub struct Job<T> {
    config: Config,
    owned: BTreeMap<Partition, Assignment>,
    /// The number of assignments so far.
    assignments: u64,
    /// Records to write, in the order in which they were read.
    waiting: VecDeque<Waiting<T>>,
    /// The batch or the dead letter that has no answer yet.
    in_flight: Vec<Waiting<T>>,
    /// The time of the last failure of a write or a dead letter.
    write_failed: Option<Instant>,
    /// The commit that has no answer yet.
    committing: Vec<(Partition, Assignment)>,
    /// The time at which the last commit failed, if none has started since.
    commit_failed: Option<Instant>,
    /// The number of assignments at the last `Pause`. `None` after a `Resume`.
    paused_at: Option<u64>,
    stopping: bool,
}

/// The time from when a partition is assigned to when it is revoked or lost.
#[derive(Debug, Clone, Copy)]
struct Assignment {
    id: u64,
    /// The next offset to read.
    next: Offset,
    /// All records below this offset are processed.
    done: Offset,
    /// The broker has accepted this offset.
    committed: Offset,
}

#[derive(Debug)]
struct Waiting<T> {
    record: Record<T>,
    assignment: u64,
    since: Instant,
    is_rejected: bool,
}

impl<T: Clone> Job<T> {
    /// Creates a job that owns no partition.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            owned: BTreeMap::new(),
            assignments: 0,
            waiting: VecDeque::new(),
            in_flight: Vec::new(),
            write_failed: None,
            committing: Vec::new(),
            commit_failed: None,
            paused_at: None,
            stopping: false,
        }
    }

    /// Handles `event`, and returns what the caller has to do now.
    ///
    /// `now` never goes back. An answer comes once for each effect that needs
    /// one.
    ///
    /// # Panics
    ///
    /// Panics if the index of a [`Rejected`](Event::Rejected) is not in the
    /// batch.
    pub fn step(&mut self, event: Event<T>, now: Instant) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        match event {
            Event::Assigned { partition, next } => self.assign(partition, next),
            Event::Revoked(partition) => effects.extend(self.revoke(partition)),
            Event::Lost(partition) => _ = self.remove(partition),
            Event::Polled(record) => self.receive(record, now),
            Event::Written | Event::DeadLettered => self.complete(),
            Event::WriteFailed | Event::DeadLetterFailed => {
                self.put_back();
                self.write_failed = Some(now);
            }
            Event::Rejected(index) => {
                self.in_flight[index].is_rejected = true;
                self.put_back();
            }
            Event::Committed => self.committed(),
            Event::CommitFailed => {
                self.committing.clear();
                self.commit_failed = Some(now);
            }
            Event::Tick => {}
            Event::Stop => self.stopping = true,
        }
        effects.extend(self.write(now));
        effects.extend(self.commit(now));
        effects.extend(self.pause_or_resume());
        effects
    }

    /// Returns the earliest time at which a [`Tick`](Event::Tick) has an effect,
    /// if no other event comes before it.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        let failed = self.commit_failed;
        let failed = failed.filter(|_| !self.uncommitted().is_empty());
        let commit = failed.and_then(|at| self.retry_at(at));
        self.write_at().into_iter().chain(commit).min()
    }

    /// Returns whether the job was stopped, all its records are processed, and
    /// their offsets are committed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.stopping
            && self.waiting.is_empty()
            && self.in_flight.is_empty()
            && self.uncommitted().is_empty()
    }

    /// Starts an assignment, and ends an earlier one of the same partition.
    fn assign(&mut self, _partition: Partition, _next: Offset) {
        todo!("what does the job know about a new partition?")
    }

    /// Ends the assignment, and returns its last commit, if it needs one.
    fn revoke(&mut self, _partition: Partition) -> Option<Effect<T>> {
        todo!("which records may the new owner skip?")
    }

    /// Ends the assignment, and forgets its waiting records. The new owner reads
    /// them again.
    fn remove(&mut self, _partition: Partition) -> Option<Assignment> {
        todo!("what belongs to the assignment that ends here?")
    }

    /// Adds a record to the queue, if it is new and its partition is assigned.
    fn receive(&mut self, _record: Record<T>, _since: Instant) {
        todo!("is this record new, and is its partition assigned?")
    }

    /// Returns when the next write or dead letter starts.
    fn write_at(&self) -> Option<Instant> {
        let first = self.waiting.front();
        let first = first.filter(|_| self.in_flight.is_empty())?;
        let is_due = first.is_rejected
            || self.stopping
            || self.waiting.len() >= self.config.max_batch.get();
        let linger = if is_due { Duration::ZERO } else { self.config.linger };
        let due = first.since.checked_add(linger)?;
        match self.write_failed {
            Some(failed) => Some(due.max(self.retry_at(failed)?)),
            None => Some(due),
        }
    }

    /// Returns the time of the next try after a failure, or `None` if it never
    /// comes.
    fn retry_at(&self, failed: Instant) -> Option<Instant> {
        failed.checked_add(self.config.retry_after)
    }

    /// Starts a write or a dead letter, if it is time.
    fn write(&mut self, _now: Instant) -> Option<Effect<T>> {
        todo!("is it time, and which records are in the batch?")
    }

    /// Notes that all records in flight are processed.
    fn complete(&mut self) {
        todo!("which offset can be committed now?")
    }

    /// Moves the records in flight back to the front of the queue, but forgets
    /// the records of an assignment that has ended.
    fn put_back(&mut self) {
        todo!("in which order do they come back, and which do not?")
    }

    /// Returns the assignment with this id, unless it has ended.
    fn current(&mut self, _p: Partition, _id: u64) -> Option<&mut Assignment> {
        todo!("is it still the same assignment?")
    }

    /// Returns the assignments with an offset to commit.
    fn uncommitted(&self) -> Vec<(Partition, Assignment)> {
        let owned = self.owned.iter().map(|(&p, &owned)| (p, owned));
        owned.filter(|(_, owned)| owned.done > owned.committed).collect()
    }

    /// Starts a commit, if it is time and none is in flight.
    fn commit(&mut self, _now: Instant) -> Option<Effect<T>> {
        todo!("is it time, and is no other commit in flight?")
    }

    /// Notes what the broker has accepted.
    fn committed(&mut self) {
        todo!("which offset has the broker accepted?")
    }

    /// Pauses at `max_waiting` records, and resumes at half of it.
    fn pause_or_resume(&mut self) -> Option<Effect<T>> {
        let stored = self.waiting.len() + self.in_flight.len();
        let limit = self.config.max_waiting.get();
        let limit =
            if self.paused_at.is_some() { limit / 2 + 1 } else { limit };
        let paused_at = (stored >= limit).then_some(self.assignments);
        // A client fetches a new partition, even if it has paused the others.
        // So a new assignment needs a new `Pause`.
        let before = replace(&mut self.paused_at, paused_at);
        let effect = paused_at.map_or(Effect::Resume, |_| Effect::Pause);
        (before != paused_at).then_some(effect)
    }
}
