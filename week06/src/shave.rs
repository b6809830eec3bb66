//! Peak shaving: write a Kafka log to a database in batches, and lose nothing.
//!
//! *Question.* A hundred thousand comments arrive at once, and are in Kafka. A
//! job writes them to the database at the database's pace. Which offset does it
//! commit, and when? What happens to a record that the database never accepts,
//! and to a partition that is revoked in the middle of a batch?
//!
//! *Idea.* The job is a **state machine**: [`step`](Job::step) takes an event
//! and returns effects, which the caller performs. One batch is written at a
//! time, and records leave the queue in the order in which they came. So all
//! records of a partition below its **done** offset are processed, and this is
//! the offset to commit. A commit belongs to an **assignment** of a partition:
//! after a rebalance, nothing of an earlier assignment is committed.
//!
//! *Guarantee.* **At least once**: an offset is committed only after all records
//! before it were written or are in the dead-letter topic, so a crash at any
//! point loses none. Only records after the last accepted commit can be written
//! twice, so the write must be idempotent, for instance by the comment's id.
//! Records of a partition are written in the order of their offsets, also after
//! a failed write. At most `max_waiting` records are stored, and what was
//! fetched before the pause took effect.
//!
//! *Cost.* While the database is down, or a dead letter cannot be sent, all
//! partitions of the job wait. One batch in flight limits the throughput to
//! `max_batch` records for each round trip.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use week06::shave::{Config, Effect, Event, Job, Record};
//!
//! let config = Config {
//!     max_batch: 2.try_into().unwrap(),
//!     linger: Duration::from_millis(5),
//!     max_waiting: 1_000.try_into().unwrap(),
//!     retry_after: Duration::from_millis(100),
//! };
//! let now = Instant::now();
//! let mut job = Job::new(config);
//! let comment = |offset| Record { partition: 0, offset, value: "comment" };
//!
//! job.step(Event::Assigned { partition: 0, next: 7 }, now);
//! assert_eq!(job.step(Event::Polled(comment(7)), now), []);
//! let effects = job.step(Event::Polled(comment(8)), now);
//! assert_eq!(effects, [Effect::Write(vec![comment(7), comment(8)])]);
//! // Only now, and the offset is the next one to read.
//! let effects = job.step(Event::Written, now);
//! assert_eq!(effects, [Effect::Commit(vec![(0, 9)])]);
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::mem::{replace, take};
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
    fn assign(&mut self, partition: Partition, next: Offset) {
        self.remove(partition);
        self.assignments += 1;
        let id = self.assignments;
        let assignment = Assignment { id, next, done: next, committed: next };
        self.owned.insert(partition, assignment);
    }

    /// Ends the assignment, and returns its last commit, if it needs one.
    fn revoke(&mut self, partition: Partition) -> Option<Effect<T>> {
        let owned = self.remove(partition)?;
        let last = Effect::LastCommit(partition, owned.done);
        (owned.done > owned.committed).then_some(last)
    }

    /// Ends the assignment, and forgets its waiting records. The new owner reads
    /// them again.
    fn remove(&mut self, partition: Partition) -> Option<Assignment> {
        self.waiting.retain(|waiting| waiting.record.partition != partition);
        self.owned.remove(&partition)
    }

    /// Adds a record to the queue, if it is new and its partition is assigned.
    fn receive(&mut self, record: Record<T>, since: Instant) {
        let Some(owned) = self.owned.get_mut(&record.partition) else { return };
        if self.stopping || record.offset < owned.next {
            return;
        }
        owned.next = record.offset + 1;
        let assignment = owned.id;
        let waiting = Waiting { record, assignment, since, is_rejected: false };
        self.waiting.push_back(waiting);
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
    fn write(&mut self, now: Instant) -> Option<Effect<T>> {
        self.write_at().filter(|at| *at <= now)?;
        if self.waiting[0].is_rejected {
            self.in_flight.extend(self.waiting.pop_front());
            return Some(Effect::DeadLetter(self.in_flight[0].record.clone()));
        }
        // A batch ends before a rejected record, which must not be overtaken.
        let batch = self.waiting.iter().take(self.config.max_batch.get());
        let len = batch.take_while(|waiting| !waiting.is_rejected).count();
        self.in_flight.extend(self.waiting.drain(..len));
        let records = self.in_flight.iter().map(|w| w.record.clone());
        Some(Effect::Write(records.collect()))
    }

    /// Notes that all records in flight are processed.
    fn complete(&mut self) {
        for Waiting { record, assignment, .. } in take(&mut self.in_flight) {
            if let Some(owned) = self.current(record.partition, assignment) {
                owned.done = record.offset + 1;
            }
        }
    }

    /// Moves the records in flight back to the front of the queue, but forgets
    /// the records of an assignment that has ended.
    fn put_back(&mut self) {
        for waiting in take(&mut self.in_flight).into_iter().rev() {
            let partition = waiting.record.partition;
            if self.current(partition, waiting.assignment).is_some() {
                self.waiting.push_front(waiting);
            }
        }
    }

    /// Returns the assignment with this id, unless it has ended.
    fn current(&mut self, p: Partition, id: u64) -> Option<&mut Assignment> {
        self.owned.get_mut(&p).filter(|owned| owned.id == id)
    }

    /// Returns the assignments with an offset to commit.
    fn uncommitted(&self) -> Vec<(Partition, Assignment)> {
        let owned = self.owned.iter().map(|(&p, &owned)| (p, owned));
        owned.filter(|(_, owned)| owned.done > owned.committed).collect()
    }

    /// Starts a commit, if it is time and none is in flight.
    fn commit(&mut self, now: Instant) -> Option<Effect<T>> {
        let retry_after = self.config.retry_after;
        let failed = self.commit_failed;
        let is_too_early = failed.is_some_and(|at| now - at < retry_after);
        if is_too_early || !self.committing.is_empty() {
            return None;
        }
        self.commit_failed = None;
        self.committing = self.uncommitted();
        let offsets = self.committing.iter().map(|&(p, owned)| (p, owned.done));
        let offsets: Vec<_> = offsets.collect();
        (!offsets.is_empty()).then_some(Effect::Commit(offsets))
    }

    /// Notes what the broker has accepted.
    fn committed(&mut self) {
        for (partition, sent) in take(&mut self.committing) {
            if let Some(owned) = self.current(partition, sent.id) {
                owned.committed = sent.done;
            }
        }
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
