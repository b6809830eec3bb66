//! A simulated Kafka topic with its consumer group, and a database.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use proptest::{array::uniform3, collection::vec};
use week06::shave::{Config, Effect, Event, Offset, Partition};

use super::model::*;

/// A topic, its consumer group, and a database that is idempotent by id.
pub(super) struct World {
    /// 1 adds refused commits and stops, 2 failed writes and poison, and 3
    /// rebalances, stalls and crashes.
    level: usize,
    now: Instant,
    config: Config,
    logs: BTreeMap<Partition, Log>,
    members: Vec<Member>,
    /// What the broker has done with the commit of each member that has no
    /// answer yet.
    is_accepted: Vec<Option<bool>>,
    /// The records that are in the table or in the dead-letter topic.
    processed: BTreeSet<Id>,
    steps: usize,
}

struct Log {
    offsets: Vec<Offset>,
    committed: Offset,
    /// Commits of any other assignment are refused.
    assignment: usize,
}

impl World {
    pub(super) fn run(level: usize, histories: usize) {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Default::default(), rng);
        let choices = vec(uniform3(0.0..1.0), 0..400);
        for i in 0..histories {
            let linger = TIMES[[0, 1, 2, 2, 3, 4][i % 6]];
            let sizes = [[1, 3, 5, 9, 17][i % 5], [2, 9, 40, 1][i / 2 % 4]];
            let retry_after = [0, 10, 3_000][i / 3 % 3] * MS;
            let config = Config { retry_after, ..config(sizes, linger) };
            let log = || Log { offsets: vec![], committed: 0, assignment: 0 };
            let members = 0..if level == 3 { 2 } else { 1 };
            let mut world = Self {
                level,
                now: *START,
                config,
                logs: PARTITIONS.map(|p| (p, log())).into(),
                is_accepted: members.clone().map(|_| None).collect(),
                members: members.map(|_| Member::new(config)).collect(),
                processed: BTreeSet::new(),
                steps: 0,
            };
            world.restart(0, 0.0);
            for choice in choices.new_tree(&mut runner).unwrap().current() {
                world.advance(choice);
            }
            world.end();
        }
    }

    fn advance(&mut self, [what, which, luck]: [f64; 3]) {
        let members = self.members.len();
        let n = (which * members as f64) as usize;
        let p = PARTITIONS[(which * 99.0) as usize % 3];
        if self.members[n].job.is_finished() {
            self.restart(n, luck);
        }
        match (what * [50.0, 51.0, 51.0, 58.0][self.level]) as u32 {
            0..5 => {
                let log = &mut self.logs.get_mut(&p).unwrap().offsets;
                for i in 0..(luck * 9.0) as Offset {
                    // Compaction and transactions leave gaps.
                    let next = log.last().map_or(0, |o| o + 1);
                    log.push(next + i * i % 3);
                }
            }
            5..20 => {
                let owner = self.owner(p).filter(|_| luck < 0.9);
                self.poll(owner.unwrap_or(n), p, (luck * 5.0) as usize);
            }
            20..29 => (0..members).for_each(|n| self.answer(n, luck)),
            29..38 => {
                (0..members).for_each(|n| self.answer_commit(n, luck));
            }
            38..40 => self.now += (200 * MS).mul_f64(luck * luck),
            40..50 => {
                let at = self.members[n].job.wake_at().unwrap_or(self.now);
                let at =
                    if luck < 0.5 { at } else { at - Duration::from_nanos(1) };
                self.now = self.now.max(at);
                self.step(n, Event::Tick, luck);
            }
            50 => self.step(n, Event::Stop, luck),
            51 => self.restart(n, luck),
            52..55 => self.tell(n, luck),
            // The owner stalls, so the broker gives its partition away.
            55 => self.assign(p, n),
            _ => {
                let owner = self.owner(p).expect("an owner");
                self.step(owner, Event::Revoked(p), luck);
                self.assign(p, n);
            }
        }
    }

    fn owner(&self, p: Partition) -> Option<usize> {
        let assignment = self.logs[&p].assignment;
        self.members.iter().position(|m| {
            m.owned.get(&p).is_some_and(|o| o.assignment == assignment)
        })
    }

    fn assign(&mut self, partition: Partition, n: usize) {
        let next = self.logs[&partition].committed;
        self.step(n, Event::Assigned { partition, next }, 0.0);
        let assignment = self.members[n].owned[&partition].assignment;
        self.logs.get_mut(&partition).unwrap().assignment = assignment;
    }

    /// Ends the process, whatever it does, and starts another one.
    fn restart(&mut self, n: usize, luck: f64) {
        // The database and the broker may get what was sent.
        if luck < 0.5 {
            self.write(n);
            self.receive_commit(n);
        }
        self.is_accepted[n] = None;
        self.members[n] = Member::new(self.config);
        self.members[n].checks_commits = self.level > 0;
        for p in PARTITIONS {
            if self.owner(p).is_none() {
                let other = (luck * 99.0) as usize % self.members.len();
                self.assign(p, other);
            }
        }
    }

    /// Tells a member about the partitions that it has lost in a stall.
    fn tell(&mut self, n: usize, luck: f64) {
        for p in PARTITIONS {
            if self.members[n].owned.contains_key(&p)
                && self.owner(p) != Some(n)
            {
                // Some clients do not know the difference.
                let is_known = luck < 0.5;
                let lost = if is_known { Event::Lost } else { Event::Revoked };
                self.step(n, lost(p), luck);
            }
        }
    }

    fn step(&mut self, n: usize, event: Event<Value>, luck: f64) {
        self.steps += 1;
        self.members[n].now = self.now;
        let effects = self.members[n].job.step(event.clone(), self.now);
        for effect in &effects {
            match effect {
                Effect::Write(batch) => {
                    batch.iter().for_each(|r| self.check_write(n, r.value.0));
                }
                Effect::Commit(offsets) => {
                    offsets.iter().for_each(|o| self.check_commit(n, *o));
                }
                Effect::LastCommit(p, o) => self.check_commit(n, (*p, *o)),
                _ => {}
            }
        }
        let owned = self.members[n].owned.clone();
        for effect in self.members[n].compare(event, effects) {
            // A group that rebalances can refuse it.
            if let Effect::LastCommit(p, _) = effect
                && luck < 0.7
            {
                self.commit(&[(p, owned[&p])]);
            }
        }
    }

    fn check_write(&self, n: usize, (p, offset): Id) {
        let committed = self.logs[&p].committed;
        let is_right = self.owner(p) != Some(n) || offset >= committed;
        assert!(is_right, "{p}: {offset} again after a commit of {committed}");
    }

    fn check_commit(&self, n: usize, (p, offset): Id) {
        let Log { offsets, committed, .. } = &self.logs[&p];
        let is_right = self.owner(p) != Some(n) || offset >= *committed;
        assert!(is_right, "{p}: a commit of {offset} after {committed}");
        let is_lost = |o: &&_| !self.processed.contains(&(p, **o));
        let lost = offsets.iter().take_while(|o| **o < offset).find(is_lost);
        assert_eq!(lost, None, "{p}: lost by a commit of {offset} (left)");
    }

    /// Handles a commit as the broker does. Returns whether it is accepted.
    fn commit(&mut self, offsets: &[(Partition, Owned)]) -> bool {
        let is_owner =
            |(p, o): &(_, Owned)| self.logs[p].assignment == o.assignment;
        let is_accepted = offsets.iter().all(is_owner);
        for (p, owned) in offsets.iter().filter(|_| is_accepted) {
            self.logs.get_mut(p).unwrap().committed = owned.done;
        }
        is_accepted
    }

    fn poll(&mut self, n: usize, p: Partition, max: usize) {
        let (member, log) = (&self.members[n], &self.logs[&p].offsets);
        // Some records come twice, or after the end of the assignment.
        let is_late = max % 4 == 3;
        let mut offsets = log.clone();
        if let Some(owned) = member.owned.get(&p) {
            offsets.retain(|o| *o >= owned.next && !member.is_paused);
            offsets.truncate(max);
            offsets.extend(is_late.then_some(owned.next - 1));
        } else {
            offsets.retain(|_| is_late);
        }
        for offset in offsets {
            let record = record((p, offset), &self.members[n].stored);
            self.step(n, Event::Polled(record), 0.0);
        }
    }

    /// Performs the write or the dead letter of a member. Returns the poison.
    fn write(&mut self, n: usize) -> Vec<usize> {
        let member = &self.members[n];
        let batch = &member.queue[..member.in_flight];
        let is_poison = |i: &usize| {
            let Queued { id, is_rejected, .. } = batch[*i];
            self.level > 1 && !is_rejected && [3, 4].contains(&(id.1 % 20))
        };
        let poison: Vec<_> = (0..batch.len()).filter(is_poison).collect();
        if poison.is_empty() {
            self.processed.extend(batch.iter().map(|q| q.id));
        }
        poison
    }

    fn answer(&mut self, n: usize, luck: f64) {
        let member = &self.members[n];
        if member.in_flight == 0 {
            return;
        }
        let is_letter = member.queue[0].is_rejected;
        let fails = self.level > 1 && luck < 0.3;
        // Half of the failures come after the records were stored.
        let poison = if fails && luck < 0.15 { vec![] } else { self.write(n) };
        let event = match (is_letter, fails) {
            (true, true) => Event::DeadLetterFailed,
            (true, false) => Event::DeadLettered,
            (false, true) => Event::WriteFailed,
            (false, false) if poison.is_empty() => Event::Written,
            _ => Event::Rejected(poison[(luck * 99.0) as usize % poison.len()]),
        };
        self.step(n, event, luck);
    }

    fn receive_commit(&mut self, n: usize) -> bool {
        let commit = self.members[n].committing.clone();
        let is_accepted = self.is_accepted[n];
        let is_accepted = is_accepted.unwrap_or_else(|| self.commit(&commit));
        self.is_accepted[n] = Some(is_accepted);
        is_accepted
    }

    fn answer_commit(&mut self, n: usize, luck: f64) {
        if self.members[n].committing.is_empty() || self.level == 0 {
            return;
        }
        // The request is lost, or only the answer is late or lost.
        let is_accepted = luck >= 0.1 && self.receive_commit(n);
        if (0.1..0.4).contains(&luck) {
            return;
        }
        let is_known = is_accepted && luck >= 0.5;
        self.is_accepted[n] = None;
        let event =
            if is_known { Event::Committed } else { Event::CommitFailed };
        self.step(n, event, luck);
    }

    /// Lets everything succeed until all jobs are idle.
    fn settle(&mut self) {
        let mut before = usize::MAX;
        while before != self.steps {
            before = self.steps;
            assert!(before < 20_000, "the jobs do not become idle");
            for n in 0..self.members.len() {
                self.answer(n, 1.0);
                self.answer_commit(n, 1.0);
                if !self.members[n].is_stopped {
                    PARTITIONS.iter().for_each(|p| self.poll(n, *p, 5));
                }
                if let Some(at) = self.members[n].job.wake_at() {
                    self.now = self.now.max(at);
                    self.step(n, Event::Tick, 1.0);
                }
            }
        }
    }

    fn end(mut self) {
        let members = 0..self.members.len();
        members.clone().for_each(|n| self.tell(n, 0.0));
        members.clone().for_each(|n| self.step(n, Event::Stop, 1.0));
        self.settle();
        // Each job has committed what it has read. New ones read the rest.
        let stored = self.members.iter().map(|m| m.queue.len()).sum::<usize>();
        assert_eq!(stored, 0, "records of stopped jobs (left)");
        self.config.linger = Duration::ZERO;
        members.for_each(|n| self.restart(n, 1.0));
        self.settle();
        for (p, log) in &self.logs {
            let end = log.offsets.last().map_or(0, |o| o + 1);
            self.check_commit(usize::MAX, (*p, end));
            let seen = if self.level > 0 { log.committed } else { end };
            assert_eq!(seen, end, "{p}: committed at the end (left)");
        }
    }
}
