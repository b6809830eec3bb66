//! A model of a job: what the rules say.

use std::collections::BTreeMap;
use std::mem::take;
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use week06::shave::{Config, Effect, Event, Job, Offset, Partition, Record};

pub(super) const MS: Duration = Duration::from_millis(1);
const NANO: Duration = Duration::from_nanos(1);
pub(super) const CENTURY: Duration = Duration::from_secs(3_155_760_000);
pub(super) const TIMES: [Duration; 5] =
    [Duration::ZERO, NANO, Duration::from_millis(5), CENTURY, Duration::MAX];
pub(super) const PARTITIONS: [Partition; 3] = [0, 7, Partition::MAX];
pub(super) static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static ASSIGNMENTS: AtomicUsize = AtomicUsize::new(1);

pub(super) fn config(
    [max_batch, max_waiting]: [usize; 2],
    linger: Duration,
) -> Config {
    let of = |n| NonZero::new(n).unwrap();
    let (max_batch, max_waiting) = (of(max_batch), of(max_waiting));
    Config { max_batch, linger, max_waiting, retry_after: 100 * MS }
}

pub(super) type Id = (Partition, Offset);

/// The clones of the `Arc` are the records that are stored.
pub(super) type Value = (Id, Arc<()>);

pub(super) fn record(id: Id, stored: &Arc<()>) -> Record<Value> {
    let (partition, offset) = id;
    Record { partition, offset, value: (id, Arc::clone(stored)) }
}

pub(super) fn letter(id: Id) -> Effect<Value> {
    Effect::DeadLetter(record(id, &Arc::default()))
}

pub(super) fn write(ids: &[Id]) -> Effect<Value> {
    let stored = Arc::default();
    Effect::Write(ids.iter().map(|id| record(*id, &stored)).collect())
}

/// A job, and a model of it: what the rules say.
pub(super) struct Member {
    pub(super) job: Job<Value>,
    pub(super) config: Config,
    pub(super) now: Instant,
    pub(super) stored: Arc<()>,
    pub(super) checks_commits: bool,
    /// The records that are not processed, in the order of reading.
    pub(super) queue: Vec<Queued>,
    /// This many records at the front of the queue are in flight.
    pub(super) in_flight: usize,
    pub(super) owned: BTreeMap<Partition, Owned>,
    pub(super) committing: Vec<(Partition, Owned)>,
    pub(super) write_failed: Option<Instant>,
    pub(super) commit_failed: Option<Instant>,
    pub(super) is_paused: bool,
    pub(super) is_stopped: bool,
}

pub(super) struct Queued {
    pub(super) id: Id,
    pub(super) assignment: usize,
    pub(super) since: Instant,
    pub(super) is_rejected: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Owned {
    pub(super) assignment: usize,
    pub(super) next: Offset,
    pub(super) done: Offset,
    pub(super) committed: Offset,
}

impl Member {
    pub(super) fn new(config: Config) -> Self {
        Self {
            job: Job::new(config),
            config,
            now: *START,
            stored: Arc::default(),
            checks_commits: true,
            queue: vec![],
            in_flight: 0,
            owned: BTreeMap::new(),
            committing: vec![],
            write_failed: None,
            commit_failed: None,
            is_paused: false,
            is_stopped: false,
        }
    }

    pub(super) fn assign(&mut self, partition: Partition, next: Offset) {
        self.step(Event::Assigned { partition, next });
    }

    pub(super) fn read(&mut self, p: Partition, offsets: Range<Offset>) {
        self.assign(p, offsets.start);
        offsets.for_each(|o| _ = self.poll(p, o));
    }

    pub(super) fn poll(
        &mut self,
        p: Partition,
        offset: Offset,
    ) -> Vec<Effect<Value>> {
        self.step(Event::Polled(record((p, offset), &self.stored)))
    }

    /// Checks that a tick has an effect at `at`, and none directly before.
    pub(super) fn tick_around(&mut self, at: Option<Instant>) {
        let never = self.now + CENTURY;
        // If it is now, there was an effect without a tick.
        if at.is_none_or(|at| at > self.now) {
            self.now = at.map_or(never, |at| at - NANO);
            assert_eq!(self.step(Event::Tick), [], "effects before {at:?}");
            self.now = at.unwrap_or(never);
            let is_due = !self.step(Event::Tick).is_empty();
            assert_eq!(is_due, at.is_some(), "has an effect at {at:?}");
        }
    }

    pub(super) fn step(&mut self, event: Event<Value>) -> Vec<Effect<Value>> {
        let seen = self.job.step(event.clone(), self.now);
        self.compare(event, seen)
    }

    /// Compares what the job does after `event` with the rules. Returns it.
    pub(super) fn compare(
        &mut self,
        event: Event<Value>,
        mut seen: Vec<Effect<Value>>,
    ) -> Vec<Effect<Value>> {
        let mut expected = self.expect(&event);
        for effects in [&mut seen, &mut expected] {
            for effect in &mut *effects {
                if let Effect::Commit(offsets) = effect {
                    offsets.sort_unstable();
                }
            }
            let is_commit = |e: &_| matches!(e, Effect::Commit(_));
            effects.retain(|e| self.checks_commits || !is_commit(e));
            // Their order is free.
            effects.sort_by_key(|e| format!("{e:?}"));
        }
        let wake_at = [self.write_at(), self.commit_at()];
        let wake_at = wake_at.into_iter().flatten().min();
        let is_done = self.queue.is_empty() && self.uncommitted().is_empty();
        let is_finished = self.job.is_finished();
        let is_right = is_finished == (self.is_stopped && is_done);
        let config = &self.config;
        let results = (&seen, self.job.wake_at());
        assert_eq!(
            results,
            (&expected, wake_at),
            "effects and `wake_at` (seen, expected) of {event:?}, {config:?}"
        );
        assert!(
            is_right || !self.checks_commits,
            "`is_finished` is {is_finished} after {event:?}, {config:?}"
        );
        drop((event, seen));
        let clones = Arc::strong_count(&self.stored) - 1;
        let len = self.queue.len();
        assert!(clones <= 2 * len, "{clones} clones of {len} records");
        expected
    }

    /// Returns the effects of `event`, as the rules say.
    fn expect(&mut self, event: &Event<Value>) -> Vec<Effect<Value>> {
        let (mut effects, mut is_assigned) = (vec![], false);
        match *event {
            Event::Assigned { partition: p, next } => {
                self.end(p);
                let assignment = ASSIGNMENTS.fetch_add(1, Ordering::Relaxed);
                let (done, committed) = (next, next);
                let new = Owned { assignment, next, done, committed };
                self.owned.insert(p, new);
                is_assigned = true;
            }
            Event::Revoked(p) => {
                let owned = self.end(p).filter(|o| o.done > o.committed);
                effects.extend(owned.map(|o| Effect::LastCommit(p, o.done)));
            }
            Event::Lost(p) => _ = self.end(p),
            Event::Polled(Record { partition: p, offset, .. }) => {
                let owned = self.owned.get_mut(&p).filter(|_| !self.is_stopped);
                for owned in owned.into_iter().filter(|o| o.next <= offset) {
                    owned.next = offset + 1;
                    let (id, since) = ((p, offset), self.now);
                    let (assignment, is_rejected) = (owned.assignment, false);
                    let new = Queued { id, assignment, since, is_rejected };
                    self.queue.push(new);
                }
            }
            Event::Written | Event::DeadLettered => {
                for q in self.queue.drain(..take(&mut self.in_flight)) {
                    let owned = current(&mut self.owned, q.id.0, q.assignment);
                    owned.into_iter().for_each(|o| o.done = q.id.1 + 1);
                }
            }
            Event::WriteFailed | Event::DeadLetterFailed => {
                self.write_failed = Some(self.now);
                self.wait_again();
            }
            Event::Rejected(index) => {
                self.queue[index].is_rejected = true;
                self.wait_again();
            }
            Event::Committed => {
                for (p, sent) in take(&mut self.committing) {
                    let owned = current(&mut self.owned, p, sent.assignment);
                    owned.into_iter().for_each(|o| o.committed = sent.done);
                }
            }
            Event::CommitFailed => {
                self.commit_failed = Some(self.now);
                self.committing.clear();
            }
            Event::Tick => {}
            Event::Stop => self.is_stopped = true,
        }
        if self.write_at().is_some_and(|at| at <= self.now) {
            self.write_failed = None;
            let batch = self.queue.iter().take(self.config.max_batch.get());
            let batch = batch.take_while(|q| !q.is_rejected).map(|q| q.id);
            let batch: Vec<_> = batch.collect();
            self.in_flight = batch.len().max(1);
            let letter = || letter(self.queue[0].id);
            let is_letter = batch.is_empty();
            effects.push(if is_letter { letter() } else { write(&batch) });
        }
        if self.commit_at().is_some_and(|at| at <= self.now) {
            self.commit_failed = None;
            self.committing = self.uncommitted();
            let offsets = self.committing.iter().map(|(p, o)| (*p, o.done));
            effects.push(Effect::Commit(offsets.collect()));
        }
        let (len, limit) = (self.queue.len(), self.config.max_waiting.get());
        let was_paused = self.is_paused;
        self.is_paused = len >= limit || was_paused && len > limit / 2;
        if self.is_paused && (is_assigned || !was_paused) {
            effects.push(Effect::Pause);
        } else if was_paused && !self.is_paused {
            effects.push(Effect::Resume);
        }
        effects
    }

    fn end(&mut self, partition: Partition) -> Option<Owned> {
        let waiting = self.queue.split_off(self.in_flight).into_iter();
        self.queue.extend(waiting.filter(|q| q.id.0 != partition));
        self.owned.remove(&partition)
    }

    fn wait_again(&mut self) {
        self.in_flight = 0;
        let owned = &mut self.owned;
        self.queue.retain(|q| current(owned, q.id.0, q.assignment).is_some());
    }

    pub(super) fn uncommitted(&self) -> Vec<(Partition, Owned)> {
        let owned = self.owned.iter().filter(|(_, o)| o.done > o.committed);
        owned.map(|(p, owned)| (*p, *owned)).collect()
    }

    fn write_at(&self) -> Option<Instant> {
        let first = self.queue.first().filter(|_| self.in_flight == 0)?;
        let is_full = self.queue.len() >= self.config.max_batch.get();
        let waits = !is_full && !first.is_rejected && !self.is_stopped;
        let linger = if waits { self.config.linger } else { Duration::ZERO };
        let due = first.since.checked_add(linger)?;
        Some(due.max(self.retry_at(self.write_failed)?))
    }

    fn commit_at(&self) -> Option<Instant> {
        let is_idle = self.committing.is_empty();
        let is_due = is_idle && !self.uncommitted().is_empty();
        is_due.then(|| self.retry_at(self.commit_failed)).flatten()
    }

    fn retry_at(&self, failed: Option<Instant>) -> Option<Instant> {
        let retry_after = self.config.retry_after;
        failed.map_or(Some(*START), |at| at.checked_add(retry_after))
    }
}

fn current(
    owned: &mut BTreeMap<Partition, Owned>,
    p: Partition,
    assignment: usize,
) -> Option<&mut Owned> {
    owned.get_mut(&p).filter(|o| o.assignment == assignment)
}
