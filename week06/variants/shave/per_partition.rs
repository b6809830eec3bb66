//! A queue for each partition. The records in flight stay in their queues.
//!
//! Each record has a number that the job never uses again. A write in flight is
//! a list of such numbers. An answer finds its records by them, and if the
//! assignment has ended, it finds none. So no record needs to know its
//! assignment, a failed batch has nothing to put back, and a revoked partition
//! is removed with all its records. But each write sorts what waits, because
//! the order of reading is spread over the queues.

use std::collections::{BTreeMap, VecDeque};
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
    owned: BTreeMap<Partition, Assignment<T>>,
    /// The number of the next record or assignment.
    next_number: u64,
    /// The records of the write or dead letter that has no answer yet.
    in_flight: Vec<(Partition, u64)>,
    write_failed: Option<Instant>,
    /// The assignments and offsets of the commit that has no answer yet.
    committing: Vec<(Partition, u64, Offset)>,
    commit_failed: Option<Instant>,
    pauses: bool,
    stopping: bool,
}

/// The time from when a partition is assigned to when it is revoked or lost.
#[derive(Debug)]
struct Assignment<T> {
    number: u64,
    next: Offset,
    done: Offset,
    committed: Offset,
    /// The records that are not processed.
    queue: VecDeque<Queued<T>>,
}

#[derive(Debug)]
struct Queued<T> {
    number: u64,
    record: Record<T>,
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
            next_number: 0,
            in_flight: Vec::new(),
            write_failed: None,
            committing: Vec::new(),
            commit_failed: None,
            pauses: false,
            stopping: false,
        }
    }

    /// Handles `event`, and returns what the caller has to do now.
    pub fn step(&mut self, event: Event<T>, now: Instant) -> Vec<Effect<T>> {
        let mut effects = Vec::new();
        let is_assigned = matches!(event, Event::Assigned { .. });
        self.next_number += 1;
        match event {
            Event::Assigned { partition, next } => {
                let number = self.next_number;
                let (done, committed, queue) = (next, next, VecDeque::new());
                let new = Assignment { number, next, done, committed, queue };
                self.owned.insert(partition, new);
            }
            Event::Revoked(partition) => {
                let owned = self.owned.remove(&partition);
                let owned = owned.filter(|o| o.done > o.committed);
                let last = owned.map(|o| Effect::LastCommit(partition, o.done));
                effects.extend(last);
            }
            Event::Lost(partition) => _ = self.owned.remove(&partition),
            Event::Polled(record) if !self.stopping => {
                self.receive(record, now);
            }
            Event::Polled(_) | Event::Tick => {}
            Event::Written | Event::DeadLettered => {
                for (partition, number) in std::mem::take(&mut self.in_flight) {
                    if let Some(owned) = self.owned.get_mut(&partition)
                        && let Some(first) =
                            owned.queue.pop_front_if(|q| q.number == number)
                    {
                        owned.done = first.record.offset + 1;
                    }
                }
            }
            Event::WriteFailed | Event::DeadLetterFailed => {
                self.in_flight.clear();
                self.write_failed = Some(now);
            }
            Event::Rejected(index) => {
                let (partition, number) = self.in_flight[index];
                let owned = self.owned.get_mut(&partition).into_iter();
                let rejected = owned
                    .flat_map(|owned| &mut owned.queue)
                    .filter(|queued| queued.number == number);
                rejected.for_each(|queued| queued.is_rejected = true);
                self.in_flight.clear();
            }
            Event::Committed => {
                for (p, number, offset) in self.committing.drain(..) {
                    let owned = self.owned.get_mut(&p);
                    let owned = owned.filter(|o| o.number == number);
                    owned.into_iter().for_each(|o| o.committed = offset);
                }
            }
            Event::CommitFailed => {
                self.committing.clear();
                self.commit_failed = Some(now);
            }
            Event::Stop => self.stopping = true,
        }
        if self.write_at().is_some_and(|at| at <= now) {
            effects.extend(self.write());
        }
        if self.commit_at(now).is_some_and(|at| at <= now) {
            self.commit_failed = None;
            self.committing = self.uncommitted();
            let offsets = self.committing.iter().map(|c| (c.0, c.2));
            effects.push(Effect::Commit(offsets.collect()));
        }
        effects.extend(self.pause_or_resume(is_assigned));
        effects
    }

    /// Returns the earliest time at which a [`Tick`](Event::Tick) has an effect,
    /// if no other event comes before it.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        let failed = self.commit_failed;
        let commit = failed.and_then(|failed| self.commit_at(failed));
        self.write_at().into_iter().chain(commit).min()
    }

    /// Returns whether the job was stopped, all its records are processed, and
    /// their offsets are committed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.stopping
            && self.in_flight.is_empty()
            && self.owned.values().all(|owned| owned.queue.is_empty())
            && self.uncommitted().is_empty()
    }

    fn receive(&mut self, record: Record<T>, since: Instant) {
        let owned = self.owned.get_mut(&record.partition);
        if let Some(owned) = owned.filter(|o| o.next <= record.offset) {
            owned.next = record.offset + 1;
            let (number, is_rejected) = (self.next_number, false);
            let queued = Queued { number, record, since, is_rejected };
            owned.queue.push_back(queued);
        }
    }

    /// Returns the records that wait, if nothing is in flight.
    fn waiting(&self) -> impl Iterator<Item = &Queued<T>> {
        let is_idle = self.in_flight.is_empty();
        let owned = self.owned.values().filter(move |_| is_idle);
        owned.flat_map(|owned| &owned.queue)
    }

    fn write_at(&self) -> Option<Instant> {
        let first = self.waiting().min_by_key(|queued| queued.number)?;
        let is_full = self.waiting().count() >= self.config.max_batch.get();
        let is_due = is_full || self.stopping || first.is_rejected;
        let linger = if is_due { Duration::ZERO } else { self.config.linger };
        let at = first.since.checked_add(linger)?;
        let failed = self.write_failed.unwrap_or(at);
        let retry = failed.checked_add(self.config.retry_after);
        if self.write_failed.is_some() {
            Some(at.max(retry?))
        } else {
            Some(at)
        }
    }

    fn write(&mut self) -> Option<Effect<T>> {
        self.write_failed = None;
        let mut waiting: Vec<_> = self.waiting().collect();
        waiting.sort_unstable_by_key(|queued| queued.number);
        let len = waiting.iter().take_while(|q| !q.is_rejected).count();
        waiting.truncate(len.clamp(1, self.config.max_batch.get()));
        let is_letter = waiting[0].is_rejected;
        let ids = waiting.iter().map(|q| (q.record.partition, q.number));
        let ids = ids.collect();
        let records = waiting.iter().map(|q| q.record.clone());
        let mut records: Vec<_> = records.collect();
        self.in_flight = ids;
        if is_letter {
            return records.pop().map(Effect::DeadLetter);
        }
        Some(Effect::Write(records))
    }

    fn uncommitted(&self) -> Vec<(Partition, u64, Offset)> {
        let owned = self.owned.iter().filter(|(_, o)| o.done > o.committed);
        owned.map(|(p, o)| (*p, o.number, o.done)).collect()
    }

    /// Returns when the next commit is due, which is `now` without a failure.
    fn commit_at(&self, now: Instant) -> Option<Instant> {
        if !self.committing.is_empty() || self.uncommitted().is_empty() {
            return None;
        }
        let retry_after = self.config.retry_after;
        self.commit_failed.map_or(Some(now), |at| at.checked_add(retry_after))
    }

    fn pause_or_resume(&mut self, is_assigned: bool) -> Option<Effect<T>> {
        let ended = self.in_flight.iter().filter(|(partition, number)| {
            let owned = self.owned.get(partition);
            owned.is_none_or(|owned| owned.number > *number)
        });
        let queues = self.owned.values().map(|owned| owned.queue.len());
        let stored = ended.count() + queues.sum::<usize>();
        let limit = self.config.max_waiting.get();
        let before = self.pauses;
        self.pauses = stored >= limit || before && stored > limit / 2;
        match (before, self.pauses) {
            (false, true) => Some(Effect::Pause),
            (true, true) if is_assigned => Some(Effect::Pause),
            (true, false) => Some(Effect::Resume),
            _ => None,
        }
    }
}
