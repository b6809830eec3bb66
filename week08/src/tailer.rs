//! Transaction log tailing: publish the outbox from the log.
//!
//! *Question.* A process reads the inserts of the outbox from PostgreSQL's log,
//! and does not poll. When may it confirm a position of the log, so that no
//! message is lost and the disk of the database does not fill up?
//!
//! *Idea.* A **replication slot** keeps the log from the **confirmed position**
//! on. The confirmed position is the end of the **acknowledged prefix**: all
//! messages before it are acknowledged by the broker. A keepalive is a position
//! without messages. As a transaction does, it waits for all earlier messages.
//!
//! *Guarantee.* A committed message is published at least once: each message
//! that the server will not send again was acknowledged. One message of an
//! aggregate is in flight at a time, and after a failure it is published again
//! before the next one. So the *first* publications of an aggregate are in the
//! order of the commits. If the outbox is quiet, the confirmed position follows
//! the log of the other tables.
//!
//! *Cost.* After a crash, all messages after the position that the server has
//! stored are published again. One message that always fails blocks its aggregate and the
//! confirmed position. A broker that is unavailable blocks all of them. The
//! server then keeps the log, and its disk fills up: so a large lag is reported.
//! A whole transaction is in memory.
//!
//! ```
//! use week08::pgoutput::Decoder;
//! use week08::replication::{self, Lsn};
//! use week08::tailer::{Config, Effect, Event, Tailer};
//!
//! let stream: [&[u8]; 4] = [
//!     b"B\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\0\x07",
//!     b"R\0\0\0\x09public\0outbox\0d\0\x02\
//!         \x01key\0\0\0\0\x19\xFF\xFF\xFF\xFF\0value\0\0\0\0\x19\xFF\xFF\xFF\xFF",
//!     b"I\0\0\0\x09N\0\x02t\0\0\0\x03a/1t\0\0\0\x07ordered",
//!     b"C\0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\x70\0\0\0\0\0\0\0\0",
//! ];
//! let mut tailer = Tailer::new(
//!     Config {
//!         schema: "public".to_owned(),
//!         table: "outbox".to_owned(),
//!         max_unacknowledged: 1_000.try_into().unwrap(),
//!         retry_ms: 500,
//!         status_interval_ms: 10_000,
//!         lag_limit: 1 << 30,
//!     },
//!     Lsn(0x30),
//!     0,
//! );
//! let mut decoder = Decoder::default();
//! let mut events = stream.map(|bytes| decoder.push(bytes).unwrap());
//! let Some(replication::Event::Transaction(t)) = events[3].take() else {
//!     panic!("expected a transaction");
//! };
//! let effects = tailer.step(Event::Transaction(t), 1).unwrap();
//! let [Effect::Publish(message)] = &effects[..] else { panic!() };
//! assert_eq!(message.value, "ordered");
//! let effects = tailer.step(Event::Published(message.id), 2).unwrap();
//! assert_eq!(effects, [Effect::Confirm(Lsn(0x70))]);
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZero;

use thiserror::Error;

use crate::poller::aggregate;
use crate::replication::{Change, Lsn, Row, Transaction};

/// The settings of a [`Tailer`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// The schema of the outbox.
    pub schema: String,
    /// The table's name. It has the columns `key` and `value`.
    pub table: String,
    /// With this number of unacknowledged messages, the tailer wants no input.
    pub max_unacknowledged: NonZero<usize>,
    /// The time after which a message that has failed is published again.
    pub retry_ms: u64,
    /// The longest time between two status updates. It is shorter than the
    /// `wal_sender_timeout` of the server.
    pub status_interval_ms: u64,
    /// A lag of more bytes is reported. The limit is much less than the
    /// server's `max_slot_wal_keep_size`.
    pub lag_limit: u64,
}

/// Publishes the messages of one replication connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tailer {
    config: Config,
    confirmed: Lsn,
    /// The greatest position that an event had.
    log_end: Lsn,
    /// The positions that are not confirmed, each with the number of messages
    /// before it.
    received: VecDeque<(u64, Lsn)>,
    /// The number of messages, and the id of the next one.
    next_id: u64,
    /// The messages that are not acknowledged, in the order of the log.
    unacknowledged: BTreeMap<u64, Message>,
    /// The ids of these messages, by aggregate. The first message of each
    /// aggregate is in flight, or has failed.
    queues: BTreeMap<String, VecDeque<u64>>,
    /// The failed messages, and when they failed.
    failed: BTreeMap<u64, u64>,
    /// When the last status update was sent.
    sent_ms: u64,
    /// Whether [`Lag::Behind`] was the last report.
    is_behind: bool,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// The number of the message in this session. After a restart, the message
    /// has another number, so consumers recognize repetitions by `key`.
    pub id: u64,
    /// The column `key`. Up to its last `/`, it is the aggregate.
    pub key: String,
    /// The column `value`.
    pub value: String,
}

/// An event that a tailer handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server has sent a transaction.
    Transaction(Transaction),
    /// The server has sent a keepalive.
    KeepAlive {
        /// The server has sent all transactions committed before this position.
        end: Lsn,
        /// The server ends the connection unless it gets a status update soon.
        reply_requested: bool,
    },
    /// The end of the log, from `SELECT pg_current_wal_lsn()` on a second
    /// connection. The tailer may not have received the log up to there.
    LogEnd(Lsn),
    /// The broker has stored the message durably. The event may also come after
    /// [`Event::PublishFailed`], until the message is published again.
    Published(u64),
    /// The broker has not acknowledged the message. It may have stored it.
    PublishFailed(u64),
    /// Some time has passed.
    Tick,
}

/// An effect that the caller performs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Publish the message, and report [`Event::Published`] or
    /// [`Event::PublishFailed`].
    Publish(Message),
    /// Send a standby status update with this flushed position.
    Confirm(Lsn),
    /// Alert a person, or end the alert.
    Report(Lag),
}

/// How far the confirmed position is behind the end of the log, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lag {
    /// Greater than the limit.
    Behind(u64),
    /// Again at most half of the limit.
    CaughtUp(u64),
}

/// A row of the outbox has no text in the column `key` or `value`. The position
/// is the `commit_lsn` of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a row of the outbox has no text as key or value: commit {0}")]
pub struct BadRow(pub Lsn);

impl Tailer {
    /// Creates a tailer for a new connection. `confirmed` is the slot's
    /// `confirmed_flush_lsn`, where the server begins to send.
    pub fn new(config: Config, confirmed: Lsn, now_ms: u64) -> Self {
        Self {
            config,
            confirmed,
            log_end: confirmed,
            received: VecDeque::new(),
            next_id: 0,
            unacknowledged: BTreeMap::new(),
            queues: BTreeMap::new(),
            failed: BTreeMap::new(),
            sent_ms: now_ms,
            is_behind: false,
        }
    }

    /// Returns whether the caller should read from the replication connection.
    pub fn wants_input(&self) -> bool {
        self.unacknowledged.len() < self.config.max_unacknowledged.get()
    }

    /// Handles an event, and returns the effects to perform. `now_ms` is the
    /// time of a clock that never goes back, such as `Instant`.
    ///
    /// # Errors
    ///
    /// Returns an error if a row of the outbox has no text as key or value. A
    /// person has to decide: the row cannot be published, and a skipped row is
    /// lost. After an error, the tailer must not be used any more.
    pub fn step(
        &mut self,
        event: Event,
        now_ms: u64,
    ) -> Result<Vec<Effect>, BadRow> {
        let mut effects = Vec::new();
        let mut is_due = false;
        match event {
            Event::Transaction(transaction) => {
                for (key, value) in self.messages(&transaction)? {
                    effects.extend(self.enqueue(key, value));
                }
                self.receive(transaction.end_lsn);
            }
            Event::KeepAlive { end, reply_requested } => {
                self.receive(end);
                is_due = reply_requested;
            }
            Event::LogEnd(end) => self.log_end = self.log_end.max(end),
            Event::Published(id) => effects.extend(self.acknowledge(id)),
            Event::PublishFailed(id) => {
                self.failed.insert(id, now_ms);
            }
            Event::Tick => {
                let waited = now_ms.saturating_sub(self.sent_ms);
                is_due = waited >= self.config.status_interval_ms;
                self.retry(now_ms, &mut effects);
            }
        }
        effects.extend(self.confirm(is_due, now_ms));
        effects.extend(self.report());
        Ok(effects)
    }

    /// Returns the keys and values that a transaction inserts into the outbox.
    fn messages(
        &self,
        transaction: &Transaction,
    ) -> Result<Vec<(String, String)>, BadRow> {
        let Config { schema, table, .. } = &self.config;
        let mut messages = Vec::new();
        for change in &transaction.changes {
            let Change::Insert { new } = change else { continue };
            let relation = &new.relation;
            if relation.schema == *schema && relation.name == *table {
                let message = text(new, "key").zip(text(new, "value"));
                let bad_row = BadRow(transaction.commit_lsn);
                messages.push(message.ok_or(bad_row)?);
            }
        }
        Ok(messages)
    }

    /// Publishes a message if its aggregate has no earlier unacknowledged one.
    fn enqueue(&mut self, key: String, value: String) -> Option<Effect> {
        let id = self.next_id;
        self.next_id += 1;
        let queue = self.queues.entry(aggregate(&key).to_owned()).or_default();
        queue.push_back(id);
        let is_first = queue.len() == 1;
        let message = Message { id, key, value };
        self.unacknowledged.insert(id, message.clone());
        is_first.then_some(Effect::Publish(message))
    }

    /// Forgets the message, and publishes the next one of its aggregate.
    fn acknowledge(&mut self, id: u64) -> Option<Effect> {
        let message = self.unacknowledged.remove(&id)?;
        self.failed.remove(&id);
        let aggregate = aggregate(&message.key);
        let queue = self.queues.get_mut(aggregate)?;
        queue.pop_front();
        let Some(next) = queue.front() else {
            self.queues.remove(aggregate);
            return None;
        };
        Some(Effect::Publish(self.unacknowledged[next].clone()))
    }

    /// Publishes the failed messages that have waited for `retry_ms`.
    fn retry(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let is_due = |_: &_, failed_ms: &mut u64| {
            now_ms.saturating_sub(*failed_ms) >= self.config.retry_ms
        };
        for (id, _) in self.failed.extract_if(.., is_due) {
            effects.push(Effect::Publish(self.unacknowledged[&id].clone()));
        }
    }

    /// Stores a position. It may be confirmed after all messages so far.
    fn receive(&mut self, end: Lsn) {
        self.log_end = self.log_end.max(end);
        match self.received.back_mut() {
            Some((messages, last)) if *messages == self.next_id => {
                *last = end.max(*last);
            }
            _ => self.received.push_back((self.next_id, end)),
        }
    }

    /// Raises the confirmed position to the end of the acknowledged prefix.
    fn confirm(&mut self, is_due: bool, now_ms: u64) -> Option<Effect> {
        let before = self.confirmed;
        let first = self.unacknowledged.keys().next().copied();
        let acknowledged = first.unwrap_or(self.next_id);
        while let Some(&(messages, end)) = self.received.front()
            && messages <= acknowledged
        {
            self.received.pop_front();
            // A keepalive may have an earlier position.
            self.confirmed = self.confirmed.max(end);
        }
        if !is_due && self.confirmed == before {
            return None;
        }
        self.sent_ms = now_ms;
        Some(Effect::Confirm(self.confirmed))
    }

    /// Reports a lag above the limit, and then one of at most half the limit.
    fn report(&mut self) -> Option<Effect> {
        let lag = self.log_end.0.saturating_sub(self.confirmed.0);
        let limit = self.config.lag_limit;
        let report = if !self.is_behind && lag > limit {
            Lag::Behind(lag)
        } else if self.is_behind && lag <= limit / 2 {
            Lag::CaughtUp(lag)
        } else {
            return None;
        };
        self.is_behind = !self.is_behind;
        Some(Effect::Report(report))
    }
}

fn text(row: &Row, column: &str) -> Option<String> {
    Some(row.get(column)?.as_text()?.to_owned())
}
