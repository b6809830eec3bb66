use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Debug, Display};
use std::mem::replace;
use std::num::NonZero;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use lab::alloc::bytes_in_use;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{self, RngAlgorithm, TestRng, TestRunner};
use week08::poller::{self, aggregate};
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
                    assert!(
                        seen.len() < expected.len(),
                        "expected {} publications, seen one more, of {:?}",
                        expected.len(),
                        m.key
                    );
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
            Bad::NoColumn,
            Bad::Value(None),
            Bad::Value(Some(Value::Null)),
            Bad::Value(Some(Value::Unchanged)),
            Bad::Value(Some(Value::Binary(b"a/1".into()))),
        ];
        let mut gap = 0;
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
                if let Bad::Value(value) = &bad {
                    new.values[index].clone_from(value);
                } else {
                    new.values.remove(index);
                    let mut relation = Relation::clone(&new.relation);
                    relation.columns.remove(index);
                    new.relation = Arc::new(relation);
                }
                rows.insert(place, Change::Insert { new });
                gap += 1;
                let event = session.transaction(rows, gap);
                // The other tests count the publications.
                let seen = session.tailer.step(event, 0).map(|_| ());
                let bad_row = Err(BadRow(Lsn(gap)));
                let expected = if table == own { bad_row } else { Ok(()) };
                let what = format_args!(
                    "{column} of row {place} is {bad:?}, in table {table:?}"
                );
                check(expected, seen, what);
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Bad {
        NoColumn,
        Value(Option<Value<'static>>),
    }

    #[test]
    fn one_message_of_an_aggregate_is_in_flight_at_a_time() {
        for_all(200, schedule(Broker::Stores), |schedule| {
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
            let acknowledged = all - session.unacknowledged();
            check(all, acknowledged, "acknowledged messages");
        }
    }

    #[test]
    fn a_failed_message_is_published_again_before_later_ones() {
        for_all(300, schedule(Broker::Fails), |schedule| {
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

    #[test]
    fn a_late_acknowledgment_of_a_failed_message_counts() {
        for_all(150, schedule(Broker::IsLate), |schedule| {
            let most = schedule.config.max_unacknowledged.get();
            schedule.run(|session, event, effects| {
                session.check_published(event, effects);
                let left = session.unacknowledged();
                let what = format_args!(
                    "wants input, with {left} of {most} messages left"
                );
                check(left < most, session.tailer.wants_input(), what);
            });
        });
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
                        "confirmed after the acknowledgment of message \
                         {number} of {len} in transaction {n}"
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
                let what = "confirmed while messages are left";
                check(expected, confirms(&effects), what);
            }
            for end in [first, Lsn(session.end)] {
                let event = session.acknowledge(0).expect("it is in flight");
                let seen = confirms(&session.step(event));
                check(vec![end], seen, "confirmed after an acknowledgment");
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
                    format_args!("confirmed after {what}"),
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
                    let what = format_args!("confirmed after {event:?}");
                    check(Vec::new(), confirms(&effects), what);
                }
            }
            let end = Lsn(session.end);
            let event = Event::KeepAlive { end, reply_requested: true };
            let seen = confirms(&session.step(event));
            check(vec![end], seen, "confirmed after a keepalive");
        });
    }

    #[test]
    fn the_position_is_the_end_of_the_acknowledged_prefix() {
        for broker in [Broker::Fails, Broker::IsLate] {
            for_all(150, schedule(broker), |schedule| {
                let mut last = schedule.start;
                schedule.run(|session, event, effects| {
                    session.check_confirmed(event, effects, &mut last);
                });
            });
        }
        // In a mixed order, and more than an attempt may have room for.
        for len in [17, 130, 1_500] {
            let mut session = Session::new(config(), 500, 0);
            for name in 0..len {
                session.insert(&[name], 9);
            }
            let mut last = session.start;
            // The first of them is acknowledged last.
            for number in (1..usize::from(len)).rev() {
                let event =
                    session.acknowledge(number * number / 7 % number + 1);
                let event = event.expect("a message is in flight");
                let effects = session.step(event.clone());
                if number % 50 == 0 {
                    session.check_confirmed(&event, &effects, &mut last);
                }
            }
            let event = session.acknowledge(0).expect("one is in flight");
            let effects = session.step(event.clone());
            session.check_confirmed(&event, &effects, &mut last);
            check(session.end, last, "confirmed at the end");
        }
    }
}

mod session {
    use super::*;

    #[test]
    fn a_requested_reply_is_sent_at_once() {
        for_all(200, schedule(Broker::Fails), |schedule| {
            schedule.run(|session, event, effects| {
                if let Event::KeepAlive { reply_requested: true, .. } = event {
                    let what = format_args!(
                        "replies, with {} messages left",
                        session.unacknowledged()
                    );
                    check(1, confirms(effects).len(), what);
                }
            });
        });
    }

    #[test]
    fn a_status_update_is_sent_at_each_interval_and_no_other_one() {
        for_all(300, schedule(Broker::Fails), |schedule| {
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
                    "status updates at {}, {waited} of {interval} ms after \
                     the last one",
                    session.shown(event)
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
        for_all(200, schedule(Broker::Fails), |schedule| {
            let most = schedule.config.max_unacknowledged.get();
            schedule.run(|session, event, _| {
                let event = session.shown(event);
                let left = session.unacknowledged();
                let what =
                    format_args!("{left} of {most} messages after {event}");
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
        for_all(300, schedule(Broker::Fails), |schedule| {
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
                    "reports after {} with a lag of {lag}, limit {limit}",
                    session.shown(event)
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
    fn a_long_session_needs_no_more_memory() {
        let mut session = Session::new(config(), 0, 0);
        let mut before = 0;
        for round in 0..3_000 {
            if round == 500 {
                before = bytes_in_use();
            }
            // Other aggregates in each round.
            let keys = ["a/1", "a/2", "b/3", "c/4"];
            let keys = keys.map(|key| format!("{round} {key}"));
            let rows = keys.iter().map(|key| insert(key, "1")).collect();
            let mut events = VecDeque::from([
                session.transaction(rows, 9),
                Event::LogEnd(Lsn(session.end + 100)),
            ]);
            let mut number = 0;
            while let Some(event) = events.pop_front() {
                session.now += 10;
                let effects = session.tailer.step(event, session.now);
                for effect in effects.expect("all rows are good") {
                    let Effect::Publish(Message { id, .. }) = effect else {
                        continue;
                    };
                    number += 1;
                    assert!(number < 100, "expected 5 publications in a round");
                    let (stored, failed) =
                        (Event::Published(id), Event::PublishFailed(id));
                    match number % 5 {
                        3 => events.extend([failed, stored]),
                        4 => events.extend(
                            [failed].into_iter().chain(vec![Event::Tick; 6]),
                        ),
                        _ => events.push_back(stored),
                    }
                }
            }
            let end = session.advance(50);
            let event = Event::KeepAlive { end, reply_requested: false };
            session.tailer.step(event, session.now).unwrap();
        }
        let grown = bytes_in_use() - before;
        assert!(
            grown < 4_096,
            "expected the memory of 500 rounds after 3,000 rounds, seen {grown} \
             bytes more"
        );
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
        /// What the broker has stored, in the order of the first publications.
        broker: Vec<String>,
        stored: BTreeSet<String>,
        /// The first messages of the log: as many as must be stored.
        checked: usize,
        /// The ids of the messages that are in flight or have failed.
        left: BTreeSet<u64>,
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
                stored: BTreeSet::new(),
                checked: 0,
                left: BTreeSet::new(),
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
                    let key = self.late.swap_remove(index);
                    self.store(key);
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
                self.left.remove(&message.id);
                self.store(message.key);
                return self.step(Event::Published(message.id));
            }
            match self.random.u32(..3) {
                0 => self.store(message.key),
                1 => self.late.push(message.key),
                _ => {}
            }
            self.step(Event::PublishFailed(message.id));
        }

        fn store(&mut self, key: String) {
            if self.stored.insert(key.clone()) {
                self.broker.push(key);
            }
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
            self.left.clear();
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
                    Effect::Publish(m) => {
                        self.left.insert(m.id);
                        self.session.in_flight.push(m);
                    }
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
                        let unchecked = self.checked.min(before)..before;
                        self.checked = self.checked.max(before);
                        for key in &self.keys[unchecked] {
                            assert!(
                                self.stored.contains(key),
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
                if self.next == self.log.len() && self.left.is_empty() {
                    break;
                }
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
            for key in &self.broker {
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
    AcknowledgeLate(usize),
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Broker {
    /// Each message, and acknowledges it.
    Stores,
    /// Some messages are not acknowledged.
    Fails,
    /// And some of these are acknowledged after all.
    IsLate,
}

fn schedule(broker: Broker) -> impl Strategy<Value = Schedule> {
    let (failures, late) = match broker {
        Broker::Stores => (0, 0),
        Broker::Fails => (2, 0),
        Broker::IsLate => (4, 3),
    };
    let back = || prop_oneof![3 => Just(0), 1 => 0..300_u64];
    let op = prop_oneof![
        4 => (vec(0..9_u16, 0..6), 0..50_u64).prop_map(|(n, a)| Op::Insert(n, a)),
        2 => (0..300_u64, back(), any::<bool>())
            .prop_map(|(ahead, back, reply)| Op::KeepAlive(ahead, back, reply)),
        1 => (0..900_u64, 0..2_000_u64).prop_map(|(a, b)| Op::LogEnd(a, b * (b % 2))),
        8 => (0..20_usize).prop_map(Op::Acknowledge),
        failures => (0..20_usize).prop_map(Op::Fail),
        late => (0..20_usize).prop_map(Op::AcknowledgeLate),
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
            session.is_late = matches!(op, Op::AcknowledgeLate(_));
            let event = match op {
                Op::Insert(names, gap) => {
                    let (event, effects) = session.insert(&names, gap);
                    check(&session, &event, &effects);
                    continue;
                }
                Op::KeepAlive(ahead, back, reply_requested) => {
                    let end = Lsn(session.advance(ahead).0 - back);
                    Some(Event::KeepAlive { end, reply_requested })
                }
                Op::LogEnd(ahead, back) => {
                    let end = session.advance(ahead).0 - back;
                    Some(Event::LogEnd(Lsn(end)))
                }
                Op::Acknowledge(index) => session.acknowledge(index),
                Op::Fail(index) => session.fail(index),
                Op::AcknowledgeLate(index) => session.acknowledge_late(index),
                Op::Tick => Some(Event::Tick),
            };
            let Some(event) = event else { continue };
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
    /// The numbers of the messages that are not acknowledged.
    left: BTreeSet<usize>,
    in_flight: Vec<Message>,
    failed: BTreeMap<usize, Message>,
    ids: BTreeMap<u64, usize>,
    /// The messages that the last step had to publish.
    expected: Vec<usize>,
    /// Those that it has published, with their states before.
    published: Vec<(usize, State)>,
    /// Whether the last event is a late acknowledgment.
    is_late: bool,
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
            left: BTreeSet::new(),
            in_flight: Vec::new(),
            failed: BTreeMap::new(),
            ids: BTreeMap::new(),
            expected: Vec::new(),
            published: Vec::new(),
            is_late: false,
        }
    }

    fn advance(&mut self, ahead: u64) -> Lsn {
        self.end += ahead;
        Lsn(self.end)
    }

    /// Returns a transaction. Its commit is `gap` bytes after the log.
    fn transaction(&mut self, changes: Vec<Change>, gap: u64) -> Event {
        let commit_lsn = self.advance(gap);
        // The length of a commit's record is not always the same.
        let len = 40 + self.end % 5 * 8;
        Event::Transaction(Transaction {
            xid: self.end as u32,
            commit_lsn,
            end_lsn: self.advance(len),
            commit_time: UNIX_EPOCH,
            origin: self.end.is_multiple_of(3).then(|| "eu".to_owned()),
            changes,
        })
    }

    /// Inserts a message of each of the aggregates in one transaction.
    fn insert(&mut self, names: &[u16], gap: u64) -> (Event, Vec<Effect>) {
        let first = self.messages.len();
        self.messages.extend(names.iter().map(|n| (*n, State::Waiting)));
        self.left.extend(first..self.messages.len());
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
        // The FNV-1a hashes of the last two are equal, with 32 bits.
        let names =
            ["", "a", "a/b", "é", "A", "a/", " a", "costarring", "liquid"];
        let name = match self.messages[number].0 {
            name @ 0..9 => names[usize::from(name)],
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
        self.published.clear();
        for effect in &effects {
            if let Effect::Publish(message) = effect {
                let number = Self::number(message);
                let state = self.messages[number].1;
                self.published.push((number, state));
                let is_new = state == State::Waiting;
                let known = self.ids.insert(message.id, number);
                let expected = if is_new { None } else { Some(number) };
                check(expected, known, "the message that had this id before");
                check(&self.key(number), &message.key, "the key");
                self.set(message, State::InFlight);
                self.failed.remove(&number);
                self.in_flight.push(message.clone());
            }
        }
        effects
    }

    fn expected_publications(&self, event: &Event) -> Vec<usize> {
        let most = self.messages.iter().map(|(name, _)| usize::from(*name));
        let mut seen = vec![false; most.max().map_or(0, |most| most + 1)];
        let left = self.left.iter().map(|n| (*n, self.messages[*n]));
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

    #[track_caller]
    fn check_published(&self, event: &Event, effects: &[Effect]) {
        let number = |effect: &Effect| match effect {
            Effect::Publish(message) => Some(Self::number(message)),
            _ => None,
        };
        let mut seen: Vec<usize> = effects.iter().filter_map(number).collect();
        seen.sort_unstable();
        // Only the first differences: there may be many messages.
        let both = self.expected.iter().zip(&seen);
        let same = both.take_while(|(expected, seen)| expected == seen).count();
        let named = |numbers: &[usize]| {
            let numbers = numbers[same..].iter().take(10);
            numbers.map(|n| (*n, self.key(*n))).collect::<Vec<_>>()
        };
        let what = fmt::from_fn(|f| {
            let left = self.left.iter().take(20).map(|number| {
                let mut earlier = self.published.iter();
                let earlier = earlier.find(|(other, _)| other == number);
                let state = earlier.map_or(self.messages[*number].1, |e| e.1);
                (*number, self.key(*number), state)
            });
            write!(
                f,
                "messages (number, key) published after {} at {} ms \
                 ({same} equal ones are left out), while these were unacknowledged: {:?}",
                self.shown(event),
                self.now,
                left.collect::<Vec<_>>()
            )
        });
        check(named(&self.expected), named(&seen), what);
    }

    #[track_caller]
    fn check_confirmed(
        &self,
        event: &Event,
        effects: &[Effect],
        last: &mut u64,
    ) {
        let confirmed = self.confirmed();
        let seen = confirms(effects);
        let least = usize::from(confirmed > *last);
        let expected = vec![Lsn(confirmed); seen.len().max(least)];
        let what = format_args!("confirmed after {}", self.shown(event));
        check(expected, seen, what);
        *last = confirmed;
    }

    /// Returns an event without the rows and relations of a transaction.
    fn shown<'a>(&'a self, event: &'a Event) -> impl Display {
        fmt::from_fn(move |f| match event {
            Event::Transaction(t) => {
                let key = |change: &Change| match change {
                    Change::Insert { new } => {
                        Some(new.get("key")?.as_text()?.to_owned())
                    }
                    _ => None,
                };
                let keys = t.changes.iter().filter_map(key).take(10);
                let keys: Vec<_> = keys.collect();
                write!(f, "a transaction, end {:?}, keys {keys:?}", t.end_lsn)
            }
            Event::Published(id) | Event::PublishFailed(id) => {
                let number = self.ids[id];
                let late = if self.is_late { "a late " } else { "" };
                write!(f, "{late}{event:?} of {:?}", (number, self.key(number)))
            }
            event => write!(f, "{event:?}"),
        })
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
        let id = message.id;
        self.failed.insert(Self::number(&message), message);
        Some(Event::PublishFailed(id))
    }

    /// Acknowledges a message that has failed.
    fn acknowledge_late(&mut self, index: usize) -> Option<Event> {
        let index = index.checked_rem(self.failed.len())?;
        let number = *self.failed.keys().nth(index)?;
        let message = self.failed.remove(&number)?;
        self.set(&message, State::Acknowledged);
        Some(Event::Published(message.id))
    }

    fn set(&mut self, message: &Message, state: State) {
        let number = Self::number(message);
        self.messages[number].1 = state;
        if state == State::Acknowledged {
            self.left.remove(&number);
        }
    }

    fn number(message: &Message) -> usize {
        message.value.parse().expect("a number")
    }

    fn unacknowledged(&self) -> usize {
        self.left.len()
    }

    /// Returns the expected confirmed position.
    fn confirmed(&self) -> u64 {
        let first = self.left.first().copied();
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
        vec!["Key", "VALUE", "value", "KEY", "key", "Value"],
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
        // Each table has its own.
        oid: poller::bucket(
            &format!("{schema:?}.{name:?}"),
            NonZero::<u32>::MAX,
        ),
        schema: schema.to_owned(),
        name: name.to_owned(),
        identity: ReplicaIdentity::Default,
        columns: columns.iter().map(column).collect(),
    });
    let value = |name: &&str| match *name {
        "key" => Some(text(key)),
        "value" => Some(value.clone()),
        "seq" | "keys" | "values" => Some(Value::Null),
        _ => Some(text("noon")),
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

#[track_caller]
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
