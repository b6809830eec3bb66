//! A model of a job: what the rules say.

use std::collections::BTreeMap;
use std::mem::take;
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use proptest::{array::uniform3, collection::vec};
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

/// Each record's clones share one `Token`.
pub(super) type Value = (Id, Arc<Token>);

/// The clones of the member's `stored` are in the tokens of its records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Token(Arc<()>);

pub(super) fn record(id: Id, stored: &Arc<()>) -> Record<Value> {
    let (partition, offset) = id;
    Record { partition, offset, value: (id, Arc::new(Token(stored.clone()))) }
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
    job: Job<Value>,
    config: Config,
    pub(super) now: Instant,
    pub(super) stored: Arc<()>,
    pub(super) checks_commits: bool,
    /// The records that are not processed, in the order of reading.
    pub(super) queue: Vec<Queued>,
    /// This many records at the front of the queue are in flight.
    pub(super) in_flight: usize,
    owned: BTreeMap<Partition, Owned>,
    committing: Vec<(Partition, Owned)>,
    write_failed: Option<Instant>,
    commit_failed: Option<Instant>,
    is_paused: bool,
    is_stopped: bool,
}

pub(super) struct Queued {
    id: Id,
    assignment: usize,
    since: Instant,
    is_rejected: bool,
    token: Arc<Token>,
}

#[derive(Clone, Copy)]
pub(super) struct Owned {
    assignment: usize,
    next: Offset,
    done: Offset,
    committed: Offset,
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

    /// Sends any events that can come: at level 0, records, ticks and answers to
    /// writes. Level 1 adds answers to commits and stops, 2 failures of writes and
    /// poison, and 3 rebalances.
    pub(super) fn run(level: usize, histories: usize) {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Default::default(), rng);
        let choices = vec(uniform3(0.0..1.0), 0..400);
        for i in 0..histories {
            let sizes = [
                [1, 3, 5, 9, 17, usize::MAX][i / 2 % 6],
                [1, 2, 9, 40, usize::MAX][i % 5],
            ];
            let linger = TIMES[[0, 1, 2, 2, 2, 3, 4][i % 7]];
            let retry_after =
                [Duration::ZERO, 10 * MS, 3_000 * MS, Duration::MAX][i / 3 % 4];
            let config = Config { retry_after, ..config(sizes, linger) };
            let mut ends = [0, 3, 5_000_000_000];
            let mut member: Option<Self> = None;
            for choice in choices.new_tree(&mut runner).unwrap().current() {
                member.take_if(|m| m.job.is_finished() && choice[1] < 0.2);
                let member = member.get_or_insert_with(|| {
                    let mut member = Self::new(config);
                    member.checks_commits = level > 0;
                    let all = PARTITIONS.into_iter().zip(ends);
                    all.for_each(|(p, next)| member.assign(p, next));
                    member
                });
                member.advance(level, choice, &mut ends);
            }
        }
    }

    /// Sends the event of these choices. `ends` has the offset to commit of each
    /// partition's last assignment.
    fn advance(
        &mut self,
        level: usize,
        [what, which, luck]: [f64; 3],
        ends: &mut [Offset; 3],
    ) {
        let n = (which * 999.0) as usize;
        let (p, end) = (PARTITIONS[n % 3], &mut ends[n % 3]);
        let owned = self.owned.get(&p).copied();
        *end = owned.map_or(*end, |o| o.done);
        let fails = level > 1 && luck < 0.4;
        let is_letter = self.queue.first().is_some_and(|q| q.is_rejected);
        let event = match (what * [40.0, 51.0, 51.0, 60.0][level]) as u32 {
            0..14 => {
                let next = owned.map_or(*end, |o| o.next);
                // Some records come twice, or too late.
                let back = if luck < 0.2 { (luck * 20.0) as Offset } else { 0 };
                let mut next = (next - back).max(0);
                for i in 0..n as Offset % 5 {
                    // Compaction and transactions leave gaps.
                    next += i * i % 3;
                    self.poll(p, next);
                    next += 1;
                }
                return;
            }
            14..18 => {
                self.now += (200 * MS).mul_f64(luck * luck);
                return;
            }
            18..26 => {
                let at = self.job.wake_at().unwrap_or(self.now);
                self.now =
                    self.now.max(if luck < 0.5 { at } else { at - NANO });
                Event::Tick
            }
            26..40 if self.in_flight == 0 => Event::Tick,
            26..40 if is_letter && fails => Event::DeadLetterFailed,
            26..40 if is_letter => Event::DeadLettered,
            26..40 if fails && luck < 0.2 => Event::WriteFailed,
            26..40 if fails => Event::Rejected(n % self.in_flight),
            26..40 => Event::Written,
            40..50 if self.committing.is_empty() => Event::Tick,
            40..50 if luck < 0.4 => Event::CommitFailed,
            40..50 => Event::Committed,
            50 => Event::Stop,
            51..55 if luck < 0.5 => Event::Revoked(p),
            51..55 => Event::Lost(p),
            _ => {
                // The broker has accepted the last commits, or some, or none.
                let next = (*end - (luck * 6.0) as Offset).max(0);
                Event::Assigned { partition: p, next }
            }
        };
        self.step(event);
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

    /// Compares what the job does after `event` with the rules. Returns it.
    pub(super) fn step(&mut self, event: Event<Value>) -> Vec<Effect<Value>> {
        let mut seen = self.job.step(event.clone(), self.now);
        let mut expected = self.expect(&event);
        for effects in [&mut seen, &mut expected] {
            for effect in &mut *effects {
                if let Effect::Commit(offsets) = effect {
                    offsets.sort_unstable();
                    let of = |p| self.owned.get(p).map_or(0, |o| o.done);
                    let early = offsets.iter().find(|(p, o)| *o > of(p));
                    assert_eq!(early, None, "more than is processed (left)");
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
        let stored = Arc::strong_count(&self.stored) - 1;
        assert_eq!(stored, self.queue.len(), "records that are stored (left)");
        let clones = self.queue.iter().map(|q| Arc::strong_count(&q.token));
        let clones = clones.max().unwrap_or(1) - 1;
        assert!(clones <= 2, "a record is stored {clones} times");
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
            Event::Polled(Record { partition: p, offset, ref value }) => {
                let owned = self.owned.get_mut(&p).filter(|_| !self.is_stopped);
                for owned in owned.into_iter().filter(|o| o.next <= offset) {
                    owned.next = offset + 1;
                    self.queue.push(Queued {
                        id: (p, offset),
                        assignment: owned.assignment,
                        since: self.now,
                        is_rejected: false,
                        token: value.1.clone(),
                    });
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

    fn uncommitted(&self) -> Vec<(Partition, Owned)> {
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
