use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{Debug, Display};
use std::mem::replace;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use week08::poller::aggregate;
use week08::replication::{
    Change, Column, LogicalMessage, Lsn, Relation, ReplicaIdentity, Row,
    Transaction, Value,
};
use week08::tailer::{BadRow, Config, Effect, Event, Lag, Message, Tailer};

mod rows {
    use super::*;

    #[test]
    fn the_inserts_of_the_outbox_are_published() {
        let texts =
            || select(vec!["", "a", "a/1", "a/2", "é/'\"", "b//1", " a/1\n"]);
        let tables = vec![
            ("public", "outbox"),
            ("audit", "outbox"),
            ("public", "Outbox"),
            ("public", "audit.outbox"),
            ("public.audit", "outbox"),
            ("Public", "outbox"),
            ("public", "outbox2"),
        ];
        let own = select(tables[..5].to_vec());
        let table = select(tables);
        let change =
            (0..8_u8, table, any::<bool>(), texts(), texts(), columns());
        let changes = vec(vec(change, 0..12), 0..4);
        for_all(300, (own, changes), |(own, transactions)| {
            let (schema, table) = (own.0.to_owned(), own.1.to_owned());
            let config = Config { schema, table, ..config() };
            let mut session = Session::new(config, 0, 0);
            let (mut expected, mut seen) = (Vec::new(), Vec::new());
            for changes in transactions {
                let mut given = Vec::new();
                for (kind, table, is_own, key, value, columns) in changes {
                    let table = if is_own { own } else { table };
                    let row = row(table, &columns, key, &text(value));
                    if kind > 3 && table == own {
                        expected.push((key.to_owned(), value.to_owned()));
                    }
                    given.push(change_of(kind, row));
                }
                let event = session.transaction(given, 7);
                let effects = session.tailer.step(event, 0);
                let mut left = VecDeque::from(effects.expect("good rows"));
                while let Some(effect) = left.pop_front() {
                    let Effect::Publish(m) = effect else { continue };
                    let done = Event::Published(m.id);
                    left.extend(session.tailer.step(done, 0).unwrap());
                    seen.push((m.key, m.value));
                }
            }
            let of = |all: &[(String, String)], name: &str| {
                let all = all.iter().filter(|(k, _)| aggregate(k) == name);
                all.cloned().collect::<Vec<_>>()
            };
            for name in ["", "a", "é", "b/", " a"] {
                let what = format_args!("messages of aggregate {name:?}");
                check(of(&expected, name), of(&seen, name), what);
            }
            check(expected.len(), seen.len(), "messages");
        });
    }

    #[test]
    fn a_row_without_a_text_is_an_error() {
        let bad = [
            None,
            Some(Value::Null),
            Some(Value::Unchanged),
            Some(Value::Binary(b"a/1".into())),
        ];
        for (column, bad) in ["key", "value"]
            .into_iter()
            .flat_map(|c| bad.clone().map(|b| (c, b)))
        {
            let own = ("public", "outbox");
            let others = [("public", "other"), ("audit", "outbox")];
            for (place, table) in
                [(0, own), (3, own), (3, others[0]), (3, others[1])]
            {
                let mut session = Session::new(config(), 0, 0);
                let mut rows = vec![insert("a/1", "1"); 5];
                let mut new = row(table, &[], "a/1", &text("1"));
                let index = usize::from(column == "value");
                if let Some(value) = &bad {
                    new.values[index] = Some(value.clone());
                } else {
                    new.values.remove(index);
                    let mut relation = Relation::clone(&new.relation);
                    relation.columns.remove(index);
                    new.relation = Arc::new(relation);
                }
                rows.insert(place, Change::Insert { new });
                let event = session.transaction(rows, 40);
                let seen = session.tailer.step(event, 0);
                let is_publish =
                    |effect: &&Effect| matches!(effect, Effect::Publish(_));
                let seen = seen.map(|e| e.iter().filter(is_publish).count());
                let is_own = table == own;
                let expected =
                    if is_own { Err(BadRow(Lsn(40))) } else { Ok(1) };
                let what = format_args!(
                    "{column} of row {place} is {bad:?}, in table {table:?}"
                );
                check(expected, seen, what);
            }
        }
    }

    #[test]
    fn one_message_of_an_aggregate_is_in_flight_at_a_time() {
        for_all(200, schedule(false), |schedule| {
            schedule.run(|session, event, effects| {
                session.check_published(event, effects);
            });
        });
        // Sizes above the constants of an attempt.
        for len in [17, 130, 1_500] {
            let mut session = Session::new(config(), 0, 0);
            for names in [vec![1; len.min(750)], (0..len as u16).collect()] {
                let (event, effects) = session.insert(&names, 5);
                session.check_published(&event, &effects);
            }
            for number in 0.. {
                let Some(event) = session.acknowledge(number) else { break };
                let effects = session.step(event.clone());
                session.check_published(&event, &effects);
            }
            let all = session.messages.len();
            check(all, session.acknowledged(), "acknowledged messages");
        }
    }

    #[test]
    fn a_failed_message_is_published_again_before_later_ones() {
        for_all(400, schedule(true), |schedule| {
            schedule.run(|session, event, effects| {
                session.check_published(event, effects);
            });
        });
        // All those that are due, however many.
        let mut session = Session::new(config(), 0, 0);
        session.insert(&(0..1_500).collect::<Vec<_>>(), 5);
        while let Some(event) = session.fail(0) {
            session.step(event);
        }
        session.now += config().retry_ms;
        let effects = session.step(Event::Tick);
        session.check_published(&Event::Tick, &effects);
        // No number of failures is enough to give up.
        let mut session = Session::new(config(), 0, 0);
        session.insert(&[1, 1], 5);
        for _ in 0..130 {
            for event in [session.fail(0), Some(Event::Tick)] {
                let event = event.expect("a message is in flight");
                let effects = session.step(event.clone());
                session.check_published(&event, &effects);
                session.now += config().retry_ms;
            }
        }
        check(1, session.in_flight.len(), "messages in flight at the end");
    }
}

mod positions {
    use super::*;

    #[test]
    fn a_transaction_is_confirmed_after_its_last_message() {
        let sizes = [1, 2, 3, 17, 130, 1_500];
        let sizes = sizes.map(|len| (if len > 200 { 1 } else { 3 }, len));
        for (count, len) in sizes.into_iter().chain([(1_500, 1)]) {
            let mut session = Session::new(config(), 500, 0);
            let names: Vec<_> = (0..len).collect();
            let ends: Vec<_> = (0..count)
                .map(|_| {
                    session.insert(&names, 9);
                    [Lsn(session.end)]
                })
                .collect();
            for (n, end) in ends.iter().enumerate() {
                for number in 1..=len {
                    let event = session.acknowledge(0);
                    let event = event.expect("a message is in flight");
                    let effects = session.step(event);
                    let what = format_args!(
                        "after message {number} of {len}, transaction {n}"
                    );
                    let expected = if number == len { &end[..] } else { &[] };
                    check(expected, &confirms(&effects), what);
                }
            }
        }
    }

    #[test]
    fn a_keepalive_waits_for_the_messages_before_it() {
        for_all(100, vec((0..60_u64, any::<bool>()), 1..6), |keepalives| {
            let mut session = Session::new(config(), 100, 0);
            session.insert(&[1], 9);
            let first = Lsn(session.end);
            session.insert(&[2], 9);
            for (ahead, reply_requested) in keepalives {
                let end = session.advance(ahead);
                let event = Event::KeepAlive { end, reply_requested };
                let effects = session.step(event);
                let expected =
                    if reply_requested { vec![Lsn(100)] } else { vec![] };
                check(expected, confirms(&effects), "while messages are left");
            }
            for end in [first, Lsn(session.end)] {
                let event = session.acknowledge(0).expect("it is in flight");
                let seen = confirms(&session.step(event));
                check(vec![end], seen, "after an acknowledgment");
            }
        });
    }

    #[test]
    fn the_position_follows_the_log_of_other_tables() {
        let step = (0..3_u8, 0..2_000_u64, any::<bool>());
        for_all(200, (extreme(), vec(step, 1..40)), |(start, steps)| {
            let mut session = Session::new(config(), start, 0);
            for (kind, ahead, reply_requested) in steps {
                let before = session.end;
                let (event, what) = if kind == 0 {
                    let row = row(("public", "t"), &[], "a/1", &text("1"));
                    let insert = Change::Insert { new: row };
                    let event = session.transaction(vec![insert], 3);
                    (event, "a transaction without messages")
                } else {
                    // Some are less than the confirmed position.
                    let back = if kind == 2 { ahead } else { 0 };
                    let end = Lsn(session.advance(ahead).0 - back);
                    (Event::KeepAlive { end, reply_requested }, "a keepalive")
                };
                let is_due = kind > 0 && reply_requested;
                let effects = session.step(event);
                let end = session.confirmed();
                let is_sent = is_due || end != before;
                let expected = if is_sent { vec![Lsn(end)] } else { vec![] };
                session.end = end;
                check(
                    expected,
                    confirms(&effects),
                    format_args!("after {what}"),
                );
            }
        });
    }

    #[test]
    fn the_end_of_the_log_is_not_confirmed_before_it_is_received() {
        for_all(50, (extreme(), vec(0..2_000_u64, 1..9)), |(start, ends)| {
            let mut session = Session::new(config(), start, 0);
            for ahead in ends {
                let end = session.advance(ahead);
                for event in [Event::LogEnd(end), Event::Tick] {
                    let effects = session.step(event.clone());
                    check(
                        vec![],
                        confirms(&effects),
                        format_args!("{event:?}"),
                    );
                }
            }
            let end = Lsn(session.end);
            let event = Event::KeepAlive { end, reply_requested: true };
            check(vec![end], confirms(&session.step(event)), "a keepalive");
        });
    }

    #[test]
    fn the_position_is_the_end_of_the_acknowledged_prefix() {
        for_all(400, schedule(true), |schedule| {
            let mut last = schedule.start;
            schedule.run(|session, event, effects| {
                let confirmed = session.confirmed();
                let seen = confirms(effects);
                let expected = vec![
                    Lsn(confirmed);
                    seen.len()
                        .max(usize::from(confirmed > last),)
                ];
                check(
                    expected,
                    seen,
                    format_args!("confirmed after {event:?}"),
                );
                last = confirmed;
            });
        });
    }
}

mod session {
    use super::*;

    #[test]
    fn a_requested_reply_is_sent_at_once() {
        for_all(200, schedule(true), |schedule| {
            schedule.run(|session, event, effects| {
                if let Event::KeepAlive { reply_requested: true, .. } = event {
                    let what = format_args!(
                        "replies, with {} messages left",
                        session.messages.len() - session.acknowledged()
                    );
                    check(1, confirms(effects).len(), what);
                }
            });
        });
    }

    #[test]
    fn a_status_update_is_sent_at_each_interval_and_no_other_one() {
        for_all(400, schedule(true), |schedule| {
            let interval = schedule.config.status_interval_ms;
            let (mut sent, mut last) = (schedule.now, schedule.start);
            schedule.run(|session, event, effects| {
                let waited = session.now - sent;
                let is_due = match event {
                    Event::Tick => waited >= interval,
                    Event::KeepAlive { reply_requested, .. } => {
                        *reply_requested
                    }
                    _ => false,
                };
                let is_risen = session.confirmed() > last;
                let expected = usize::from(is_due || is_risen);
                let what = format_args!(
                    "status updates at {event:?}, {waited} of {interval} ms \
                     after the last one"
                );
                check(expected, confirms(effects).len(), what);
                last = session.confirmed();
                if expected == 1 {
                    sent = session.now;
                }
            });
        });
    }

    #[test]
    fn too_many_unacknowledged_messages_stop_the_input() {
        for_all(200, schedule(true), |schedule| {
            let most = schedule.config.max_unacknowledged.get();
            schedule.run(|session, event, _| {
                let left = session.messages.len() - session.acknowledged();
                let what =
                    format_args!("{left} of {most} messages after {event:?}");
                check(left < most, session.tailer.wants_input(), what);
            });
        });
        for most in [1, 2, 17, 130, 1_500, usize::MAX] {
            let config = Config {
                max_unacknowledged: most.try_into().unwrap(),
                ..config()
            };
            let mut session = Session::new(config, 0, 0);
            let first = most.min(1_600) - 1;
            session.insert(&vec![7; first], 1);
            for left in first..first + 3 {
                let seen = session.tailer.wants_input();
                let what = format_args!("{left} of {most} messages");
                check(left < most, seen, what);
                session.insert(&[7], 1);
            }
        }
    }

    #[test]
    fn a_lag_is_reported_once_per_crossing() {
        for_all(400, schedule(true), |schedule| {
            let limit = schedule.config.lag_limit;
            let (mut is_behind, mut end) = (false, schedule.start);
            schedule.run(|session, event, effects| {
                end = end.max(match event {
                    Event::Transaction(t) => t.end_lsn.0,
                    Event::KeepAlive { end, .. } | Event::LogEnd(end) => end.0,
                    _ => 0,
                });
                let lag = end - session.confirmed();
                let expected = if is_behind && lag <= limit / 2 {
                    Some(Lag::CaughtUp(lag))
                } else if !is_behind && lag > limit {
                    Some(Lag::Behind(lag))
                } else {
                    None
                };
                is_behind ^= expected.is_some();
                let reports =
                    effects.iter().filter_map(|effect| match effect {
                        Effect::Report(lag) => Some(*lag),
                        _ => None,
                    });
                let what = format_args!(
                    "reports after {event:?} with a lag of {lag}, limit {limit}"
                );
                let expected: Vec<_> = expected.into_iter().collect();
                check(expected, reports.collect(), what);
            });
        });
    }

    #[test]
    fn a_lag_is_reported_while_the_input_is_stopped() {
        for (start, limit) in [(0, 0), (0, 500), (1 << 40, 1 << 50)] {
            let config = Config { lag_limit: limit, ..config() };
            let mut session = Session::new(config, start, 0);
            for ahead in [limit / 2, limit - limit / 2, 1] {
                let end = session.advance(ahead);
                let effects = session.step(Event::LogEnd(end));
                let lag = end.0 - start;
                let report = Effect::Report(Lag::Behind(lag));
                let expected = if lag > limit { vec![report] } else { vec![] };
                let what = format_args!("a lag of {lag}, limit {limit}");
                check(expected, effects, what);
            }
        }
    }

    #[test]
    fn crashes_lose_no_message_and_keep_the_order() {
        for seed in 0..300 {
            let mut world = World::new(seed);
            for _ in 0..250 {
                world.act();
            }
            world.settle();
        }
    }

    /// A server, a broker, and a tailer that crashes.
    struct World {
        random: fastrand::Rng,
        session: Session,
        /// Each transaction: its end, and the number of messages before it.
        log: Vec<(Event, u64, usize)>,
        keys: Vec<String>,
        /// The confirmed position that the server has stored.
        slot: u64,
        /// Status updates on their way.
        updates: VecDeque<u64>,
        next: usize,
        /// Publications of earlier sessions, which may still arrive.
        late: Vec<String>,
        broker: Vec<String>,
    }

    impl World {
        fn new(seed: u64) -> Self {
            let mut random = fastrand::Rng::with_seed(seed);
            let config = Config {
                max_unacknowledged: random.usize(1..20).try_into().unwrap(),
                ..config()
            };
            Self {
                session: Session::new(config, 1_000, 0),
                random,
                log: Vec::new(),
                keys: Vec::new(),
                slot: 1_000,
                updates: VecDeque::new(),
                next: 0,
                late: Vec::new(),
                broker: Vec::new(),
            }
        }

        fn act(&mut self) {
            match self.random.u32(..24) {
                0..5 => self.commit(),
                5..10 => self.send(),
                10..12 => self.keep_alive(),
                12..18 => self.publish(true),
                18 => self.publish(false),
                19 => {
                    let end = Event::LogEnd(Lsn(self.session.end));
                    self.step(end);
                }
                20..22 => {
                    self.session.now += self.random.u64(..100);
                    self.step(Event::Tick);
                }
                22 => self.update(),
                _ if self.random.bool() => self.crash(),
                _ if self.late.is_empty() => {}
                _ => {
                    let index = self.random.usize(..self.late.len());
                    self.broker.push(self.late.swap_remove(index));
                }
            }
        }

        fn commit(&mut self) {
            let len = self.random.usize(..4);
            let mut rows = Vec::new();
            for number in self.keys.len()..self.keys.len() + len {
                let key = format!("{}/{number}", self.random.u32(..5));
                rows.push(insert(&key, &key));
                self.keys.push(key);
            }
            let gap = self.random.u64(..3) * 20;
            let event = self.session.transaction(rows, gap);
            self.log.push((event, self.session.end, self.keys.len()));
        }

        fn send(&mut self) {
            if self.next < self.log.len() && self.session.tailer.wants_input() {
                self.next += 1;
                self.step(self.log[self.next - 1].0.clone());
            }
        }

        fn keep_alive(&mut self) {
            // What is before it was sent. It may be an earlier position.
            let end = match self.log.get(self.next) {
                Some((Event::Transaction(t), ..)) => t.commit_lsn.0,
                _ => self.session.advance(self.random.u64(..30)).0,
            };
            let end = Lsn(end - self.random.u64(..2) * self.random.u64(..90));
            let reply_requested = self.random.bool();
            self.step(Event::KeepAlive { end, reply_requested });
        }

        /// The broker stores a message, or fails. Then it may have stored it.
        fn publish(&mut self, is_stored: bool) {
            let in_flight = &mut self.session.in_flight;
            if in_flight.is_empty() {
                return;
            }
            let index = self.random.usize(..in_flight.len());
            let message = in_flight.swap_remove(index);
            if is_stored {
                self.broker.push(message.key);
                return self.step(Event::Published(message.id));
            }
            match self.random.u32(..3) {
                0 => self.broker.push(message.key),
                1 => self.late.push(message.key),
                _ => {}
            }
            self.step(Event::PublishFailed(message.id));
        }

        fn update(&mut self) {
            self.slot = self.updates.pop_front().unwrap_or(self.slot);
        }

        fn crash(&mut self) {
            let lost = self.random.usize(..=self.updates.len());
            for _ in 0..lost {
                self.update();
            }
            self.updates.clear();
            let Session { config, end, now, in_flight, .. } = &mut self.session;
            self.late.extend(in_flight.drain(..).map(|m| m.key));
            let mut next = Session::new(config.clone(), self.slot, *now);
            next.end = *end;
            self.session = next;
            let is_done = |(event, ..): &(Event, u64, usize)| {
                let Event::Transaction(t) = event else { unreachable!() };
                t.commit_lsn.0 < self.slot
            };
            self.next = self.log.iter().take_while(|t| is_done(t)).count();
        }

        fn step(&mut self, event: Event) {
            let effects = self.session.tailer.step(event, self.session.now);
            for effect in effects.expect("all rows are good") {
                match effect {
                    Effect::Publish(m) => self.session.in_flight.push(m),
                    Effect::Confirm(Lsn(position)) => {
                        let last = self.updates.back().unwrap_or(&self.slot);
                        assert!(
                            position >= *last,
                            "expected no position before {last}, seen {position}"
                        );
                        self.updates.push_back(position);
                        // What the server will not send again.
                        let before = |t: &&(Event, u64, usize)| {
                            let Event::Transaction(t) = &t.0 else {
                                unreachable!()
                            };
                            t.commit_lsn.0 < position
                        };
                        let last = self.log.iter().take_while(before).last();
                        let before = last.map_or(0, |(_, _, before)| *before);
                        for key in &self.keys[..before] {
                            assert!(
                                self.broker.contains(key),
                                "{position} is confirmed, and message {key} \
                                 before it is not published"
                            );
                        }
                    }
                    Effect::Report(_) => {}
                }
            }
        }

        fn settle(&mut self) {
            for _ in 0..200 + 20 * self.log.len() {
                self.session.now += 10;
                self.step(Event::Tick);
                self.publish(true);
                self.send();
                self.update();
            }
            self.keep_alive();
            self.step(Event::KeepAlive {
                end: Lsn(self.session.end),
                reply_requested: false,
            });
            let mut first = BTreeMap::<_, Vec<_>>::new();
            let mut seen = BTreeSet::new();
            for key in self.broker.iter().filter(|key| seen.insert(*key)) {
                first.entry(aggregate(key)).or_default().push(key);
            }
            let mut expected = BTreeMap::<_, Vec<_>>::new();
            for key in &self.keys {
                expected.entry(aggregate(key)).or_default().push(key);
            }
            check(expected, first, "the first publications");
            let confirmed = self.updates.back().unwrap_or(&self.slot);
            check(&self.session.end, confirmed, "confirmed at the end");
        }
    }
}

#[derive(Debug, Clone)]
struct Schedule {
    config: Config,
    start: u64,
    now: u64,
    /// What happens, and the time since the last event.
    ops: Vec<(Op, u64)>,
}

#[derive(Debug, Clone)]
enum Op {
    Insert(Vec<u16>, u64),
    KeepAlive(u64, u64, bool),
    LogEnd(u64, u64),
    Acknowledge(usize),
    Fail(usize),
    Tick,
}

fn schedule(has_failures: bool) -> impl Strategy<Value = Schedule> {
    let back = || prop_oneof![3 => Just(0), 1 => 0..300_u64];
    let op = prop_oneof![
        4 => (vec(0..7_u16, 0..6), 0..50_u64).prop_map(|(n, a)| Op::Insert(n, a)),
        2 => (0..300_u64, back(), any::<bool>())
            .prop_map(|(ahead, back, reply)| Op::KeepAlive(ahead, back, reply)),
        1 => (0..900_u64, 0..2_000_u64).prop_map(|(a, b)| Op::LogEnd(a, b * (b % 2))),
        8 => (0..20_usize).prop_map(Op::Acknowledge),
        u32::from(has_failures) * 2 => (0..20_usize).prop_map(Op::Fail),
        3 => Just(Op::Tick),
    ];
    let time =
        || prop_oneof![8 => 0..120_u64, 1 => Just(0), 1 => Just(u64::MAX)];
    let limits = (1..20_usize, time(), time());
    let lag = prop_oneof![0..9_u64, 50..900_u64, Just(u64::MAX)];
    let start = (extreme(), extreme());
    let op = (op, prop_oneof![Just(0), 0..40_u64]);
    (limits, lag, start, vec(op, 0..60)).prop_map(
        |(
            (most, retry_ms, status_interval_ms),
            lag_limit,
            (start, now),
            ops,
        )| {
            let config = Config {
                max_unacknowledged: most.try_into().unwrap(),
                retry_ms,
                status_interval_ms,
                lag_limit,
                ..config()
            };
            Schedule { config, start, now, ops }
        },
    )
}

/// Positions and times: small ones, and those near the greatest one.
fn extreme() -> impl Strategy<Value = u64> {
    select(vec![2_000, 1 << 40, u64::MAX - (1 << 24)])
}

impl Schedule {
    fn run(self, mut check: impl FnMut(&Session, &Event, &[Effect])) {
        let mut session = Session::new(self.config, self.start, self.now);
        for (op, ms) in self.ops {
            session.now += ms;
            let event = match op {
                Op::Insert(names, gap) => {
                    let (event, effects) = session.insert(&names, gap);
                    check(&session, &event, &effects);
                    continue;
                }
                Op::KeepAlive(ahead, back, reply_requested) => {
                    let end = Lsn(session.advance(ahead).0 - back);
                    Event::KeepAlive { end, reply_requested }
                }
                Op::LogEnd(ahead, back) => {
                    Event::LogEnd(Lsn(session.advance(ahead).0 - back))
                }
                Op::Acknowledge(index) => {
                    let Some(event) = session.acknowledge(index) else {
                        continue;
                    };
                    event
                }
                Op::Fail(index) => {
                    let Some(event) = session.fail(index) else { continue };
                    event
                }
                Op::Tick => Event::Tick,
            };
            let effects = session.step(event.clone());
            check(&session, &event, &effects);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Waiting,
    InFlight,
    Failed(u64),
    Acknowledged,
}

/// A tailer, and what is expected of it.
struct Session {
    tailer: Tailer,
    config: Config,
    now: u64,
    start: u64,
    /// The end of the log.
    end: u64,
    /// The messages in the order of the log, by aggregate.
    messages: Vec<(u16, State)>,
    /// Positions, and the number of messages before them.
    received: Vec<(usize, u64)>,
    in_flight: Vec<Message>,
    ids: BTreeMap<u64, usize>,
    /// The messages that the last step had to publish.
    expected: Vec<usize>,
}

impl Session {
    fn new(config: Config, start: u64, now: u64) -> Self {
        Self {
            tailer: Tailer::new(config.clone(), Lsn(start), now),
            config,
            now,
            start,
            end: start,
            messages: Vec::new(),
            received: Vec::new(),
            in_flight: Vec::new(),
            ids: BTreeMap::new(),
            expected: Vec::new(),
        }
    }

    fn advance(&mut self, ahead: u64) -> Lsn {
        self.end += ahead;
        Lsn(self.end)
    }

    /// Returns a transaction. Its commit is `gap` bytes after the log.
    fn transaction(&mut self, changes: Vec<Change>, gap: u64) -> Event {
        let commit_lsn = self.advance(gap);
        Event::Transaction(Transaction {
            xid: self.end as u32,
            commit_lsn,
            end_lsn: self.advance(48),
            commit_time: UNIX_EPOCH,
            origin: self.end.is_multiple_of(3).then(|| "eu".to_owned()),
            changes,
        })
    }

    /// Inserts a message of each of the aggregates in one transaction.
    fn insert(&mut self, names: &[u16], gap: u64) -> (Event, Vec<Effect>) {
        let first = self.messages.len();
        self.messages.extend(names.iter().map(|n| (*n, State::Waiting)));
        let rows = (first..self.messages.len()).flat_map(|number| {
            // The other changes of the table are ignored.
            let earlier = self.key(number - number.min(6));
            let row =
                row(("public", "outbox"), &[], &earlier, &Value::Unchanged);
            let new = insert(&self.key(number), &number.to_string());
            [change_of((number % 4) as u8, row), new]
        });
        let rows = rows.collect();
        let event = self.transaction(rows, gap);
        let effects = self.step(event.clone());
        (event, effects)
    }

    /// Returns the key of a message: `aggregate/number`, or the aggregate.
    fn key(&self, number: usize) -> String {
        let names = ["", "a", "a/b", "é", "A", "a/", " a"];
        let name = match self.messages[number].0 {
            name @ 0..7 => names[usize::from(name)],
            // Far apart, so that hashes of few bits collide.
            name => &(u32::from(name) * 31).to_string(),
        };
        if number.is_multiple_of(3) && !name.contains('/') {
            return name.to_owned();
        }
        format!("{name}/{number}")
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        match &event {
            Event::Transaction(Transaction { end_lsn: end, .. })
            | Event::KeepAlive { end, .. } => {
                self.received.push((self.messages.len(), end.0));
            }
            _ => {}
        }
        self.expected = self.expected_publications(&event);
        let effects = self.tailer.step(event, self.now);
        let effects = effects.expect("all rows are good");
        for effect in &effects {
            if let Effect::Publish(message) = effect {
                let number = Self::number(message);
                let is_new = self.messages[number].1 == State::Waiting;
                let known = self.ids.insert(message.id, number);
                let expected = if is_new { None } else { Some(number) };
                check(expected, known, "the message that had this id before");
                check(&self.key(number), &message.key, "the key");
                self.set(message, State::InFlight);
                self.in_flight.push(message.clone());
            }
        }
        effects
    }

    fn expected_publications(&self, event: &Event) -> Vec<usize> {
        let most = self.messages.iter().map(|(name, _)| usize::from(*name));
        let mut seen = vec![false; most.max().map_or(0, |most| most + 1)];
        let left = self.messages.iter().enumerate();
        let left = left.filter(|(_, (_, s))| *s != State::Acknowledged);
        let first = left
            .filter(|(_, (name, _))| !replace(&mut seen[*name as usize], true));
        let is_due = |state: State| match state {
            State::Waiting => true,
            State::Failed(at) => {
                let waited = self.now - at;
                *event == Event::Tick && waited >= self.config.retry_ms
            }
            State::InFlight | State::Acknowledged => false,
        };
        let due = first.filter(|(_, (_, state))| is_due(*state));
        due.map(|(number, _)| number).collect()
    }

    fn check_published(&self, event: &Event, effects: &[Effect]) {
        let number = |effect: &Effect| match effect {
            Effect::Publish(message) => message.value.parse().ok(),
            _ => None,
        };
        let mut seen: Vec<usize> = effects.iter().filter_map(number).collect();
        seen.sort_unstable();
        let what = format_args!(
            "published after {event:?}, of these aggregates and states: {:?}",
            self.messages
        );
        check(&self.expected, &seen, what);
    }

    fn take(&mut self, index: usize) -> Option<Message> {
        let len = self.in_flight.len();
        (len > 0).then(|| self.in_flight.remove(index % len))
    }

    fn acknowledge(&mut self, index: usize) -> Option<Event> {
        let message = self.take(index)?;
        self.set(&message, State::Acknowledged);
        Some(Event::Published(message.id))
    }

    fn fail(&mut self, index: usize) -> Option<Event> {
        let message = self.take(index)?;
        self.set(&message, State::Failed(self.now));
        Some(Event::PublishFailed(message.id))
    }

    fn set(&mut self, message: &Message, state: State) {
        self.messages[Self::number(message)].1 = state;
    }

    fn number(message: &Message) -> usize {
        message.value.parse().expect("a number")
    }

    fn acknowledged(&self) -> usize {
        let is_one = |(_, state): &&(u16, State)| *state == State::Acknowledged;
        self.messages.iter().filter(is_one).count()
    }

    /// Returns the expected confirmed position.
    fn confirmed(&self) -> u64 {
        let is_left = |(_, state): &(u16, State)| *state != State::Acknowledged;
        let first = self.messages.iter().position(is_left);
        let first = first.unwrap_or(self.messages.len());
        let ends = self.received.iter().filter(|(before, _)| *before <= first);
        ends.map(|(_, end)| *end).fold(self.start, u64::max)
    }
}

fn config() -> Config {
    Config {
        schema: "public".to_owned(),
        table: "outbox".to_owned(),
        max_unacknowledged: 100.try_into().unwrap(),
        retry_ms: 50,
        status_interval_ms: 1_000,
        lag_limit: 500,
    }
}

fn text(text: &str) -> Value<'static> {
    Value::Text(text.to_owned().into())
}

fn insert(key: &str, value: &str) -> Change {
    Change::Insert { new: row(("public", "outbox"), &[], key, &text(value)) }
}

/// Columns of an outbox, in some order.
fn columns() -> impl Strategy<Value = Vec<&'static str>> {
    select(vec![
        vec!["key", "value"],
        vec!["value", "key"],
        vec!["seq", "key", "at", "value"],
        vec!["value", "keys", "at", "key", "values"],
    ])
}

fn row(
    (schema, name): (&str, &str),
    columns: &[&str],
    key: &str,
    value: &Value<'static>,
) -> Row {
    let columns = if columns.is_empty() { &["key", "value"] } else { columns };
    let column = |name: &&str| Column {
        is_key: *name == "seq",
        name: (*name).to_owned(),
        // Text, varchar, uuid or jsonb: all of them are sent as texts.
        type_oid: [25, 1_043, 2_950, 3_802][key.len() % 4],
        type_modifier: -1,
    };
    let relation = Arc::new(Relation {
        oid: 7,
        schema: schema.to_owned(),
        name: name.to_owned(),
        identity: ReplicaIdentity::Default,
        columns: columns.iter().map(column).collect(),
    });
    let value = |name: &&str| match *name {
        "key" => Some(text(key)),
        "value" => Some(value.clone()),
        "at" => Some(text("noon")),
        _ => Some(Value::Null),
    };
    Row { relation, values: columns.iter().map(value).collect() }
}

fn change_of(kind: u8, row: Row) -> Change {
    match kind {
        0 => Change::Update { old: Some(row.clone()), new: row },
        1 => Change::Delete { old: row },
        2 => Change::Truncate {
            relations: vec![row.relation],
            cascade: false,
            restart_identity: false,
        },
        3 => Change::Message(LogicalMessage {
            transactional: true,
            lsn: Lsn(1),
            prefix: "outbox".into(),
            content: b"a/1".into(),
        }),
        _ => Change::Insert { new: row },
    }
}

fn confirms(effects: &[Effect]) -> Vec<Lsn> {
    let position = |effect: &Effect| match effect {
        Effect::Confirm(position) => Some(*position),
        _ => None,
    };
    effects.iter().filter_map(position).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "the calls are shorter")]
fn check<T: PartialEq + Debug>(expected: T, seen: T, what: impl Display) {
    assert!(
        expected == seen,
        "{what}:\nexpected {expected:?}\n    seen {seen:?}"
    );
}

fn for_all<S: Strategy>(cases: u32, strategy: S, check: impl Fn(S::Value)) {
    let config = test_runner::Config {
        cases,
        failure_persistence: None,
        ..test_runner::Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let test = |value| {
        check(value);
        Ok(())
    };
    TestRunner::new_with_rng(config, rng).run(&strategy, test).unwrap();
}
