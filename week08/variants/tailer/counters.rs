//! A variant: transactions count their messages, and aggregates have a state.
//!
//! Each received position has the number of its unacknowledged messages. The id of
//! a message leads to its position. A position without messages is merged with the
//! position before it. The state of an aggregate says whether its first message is
//! in flight, or when it failed.

use std::collections::{HashMap, VecDeque};
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
#[derive(Debug)]
pub struct Tailer {
    config: Config,
    confirmed: Lsn,
    log_end: Lsn,
    /// The transactions that are received and not confirmed. Each has messages
    /// that are not acknowledged.
    pending: VecDeque<Pending>,
    next_id: u64,
    aggregates: HashMap<String, Aggregate>,
    /// The aggregate of each message that is left.
    owners: HashMap<u64, String>,
    next_status_ms: u64,
    last_report: Option<Lag>,
}

/// A received position, and the messages before it.
#[derive(Debug)]
struct Pending {
    last_id: u64,
    left: usize,
    end: Lsn,
}

/// The messages of an aggregate. The first one has the state.
#[derive(Debug)]
struct Aggregate {
    state: State,
    messages: VecDeque<Message>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    InFlight,
    FailedAt(u64),
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
    /// The broker has stored the message durably.
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

impl Aggregate {
    fn publish(&mut self) -> Option<Effect> {
        self.state = State::InFlight;
        self.messages.front().cloned().map(Effect::Publish)
    }
}

impl Tailer {
    /// Creates a tailer for a new connection. `confirmed` is the slot's
    /// `confirmed_flush_lsn`, where the server begins to send.
    pub fn new(config: Config, confirmed: Lsn, now_ms: u64) -> Self {
        Self {
            next_status_ms: now_ms.saturating_add(config.status_interval_ms),
            config,
            confirmed,
            log_end: confirmed,
            pending: VecDeque::new(),
            next_id: 0,
            aggregates: HashMap::new(),
            owners: HashMap::new(),
            last_report: None,
        }
    }

    /// Returns whether the caller should read from the replication connection.
    pub fn wants_input(&self) -> bool {
        self.owners.len() < self.config.max_unacknowledged.get()
    }

    /// Handles an event, and returns the effects to perform. `now_ms` is the
    /// time of a clock that never goes back, such as `Instant`.
    ///
    /// # Errors
    ///
    /// Returns an error if a row of the outbox has no text as key or value.
    pub fn step(
        &mut self,
        event: Event,
        now_ms: u64,
    ) -> Result<Vec<Effect>, BadRow> {
        let mut effects = Vec::new();
        let before = self.confirmed;
        let mut must_send = false;
        match event {
            Event::Transaction(transaction) => {
                let rows = self.own_rows(&transaction);
                let messages = rows.map(|row| message(row));
                let messages: Option<Vec<_>> = messages.collect();
                let messages =
                    messages.ok_or(BadRow(transaction.commit_lsn))?;
                self.receive(transaction.end_lsn, messages.len());
                for (key, value) in messages {
                    self.add(key, value, &mut effects);
                }
            }
            Event::KeepAlive { end, reply_requested } => {
                must_send = reply_requested;
                self.receive(end, 0);
            }
            Event::LogEnd(end) => self.log_end = self.log_end.max(end),
            Event::Published(id) => self.remove(id, &mut effects),
            Event::PublishFailed(id) => {
                if let Some(owner) = self.owners.get(&id)
                    && let Some(aggregate) = self.aggregates.get_mut(owner)
                {
                    aggregate.state = State::FailedAt(now_ms);
                }
            }
            Event::Tick => {
                must_send = now_ms >= self.next_status_ms;
                for aggregate in self.aggregates.values_mut() {
                    if let State::FailedAt(failed_ms) = aggregate.state
                        && now_ms - failed_ms >= self.config.retry_ms
                    {
                        effects.extend(aggregate.publish());
                    }
                }
            }
        }
        if must_send || self.confirmed != before {
            let interval = self.config.status_interval_ms;
            self.next_status_ms = now_ms.saturating_add(interval);
            effects.push(Effect::Confirm(self.confirmed));
        }
        let report = self.report();
        if report.is_some() {
            self.last_report = report;
        }
        effects.extend(report.map(Effect::Report));
        Ok(effects)
    }

    fn own_rows<'a>(
        &'a self,
        transaction: &'a Transaction,
    ) -> impl Iterator<Item = &'a Row> {
        transaction.changes.iter().filter_map(|change| match change {
            Change::Insert { new }
                if new.relation.schema == self.config.schema
                    && new.relation.name == self.config.table =>
            {
                Some(new)
            }
            _ => None,
        })
    }

    /// Takes a position with its messages.
    fn receive(&mut self, end: Lsn, messages: usize) {
        self.log_end = self.log_end.max(end);
        if messages > 0 {
            let last_id = self.next_id + messages as u64 - 1;
            self.pending.push_back(Pending { last_id, left: messages, end });
        } else if let Some(last) = self.pending.back_mut() {
            last.end = last.end.max(end);
        } else {
            self.confirmed = self.confirmed.max(end);
        }
    }

    fn add(&mut self, key: String, value: String, effects: &mut Vec<Effect>) {
        let id = self.next_id;
        self.next_id += 1;
        let owner = aggregate(&key).to_owned();
        let message = Message { id, key, value };
        self.owners.insert(id, owner.clone());
        let aggregate = self.aggregates.entry(owner).or_insert(Aggregate {
            state: State::InFlight,
            messages: VecDeque::new(),
        });
        aggregate.messages.push_back(message);
        if aggregate.messages.len() == 1 {
            effects.extend(aggregate.publish());
        }
    }

    fn remove(&mut self, id: u64, effects: &mut Vec<Effect>) {
        let Some(owner) = self.owners.remove(&id) else { return };
        if let Some(aggregate) = self.aggregates.get_mut(&owner) {
            aggregate.messages.pop_front();
            effects.extend(aggregate.publish());
            if aggregate.messages.is_empty() {
                self.aggregates.remove(&owner);
            }
        }
        let index = self.pending.partition_point(|p| p.last_id < id);
        self.pending[index].left -= 1;
        while let Some(first) = self.pending.front()
            && first.left == 0
        {
            self.confirmed = self.confirmed.max(first.end);
            self.pending.pop_front();
        }
    }

    fn report(&self) -> Option<Lag> {
        let lag = self.log_end.0 - self.confirmed.0;
        let limit = self.config.lag_limit;
        match self.last_report {
            Some(Lag::Behind(_)) => {
                (lag <= limit / 2).then_some(Lag::CaughtUp(lag))
            }
            _ => (lag > limit).then_some(Lag::Behind(lag)),
        }
    }
}

fn message(row: &Row) -> Option<(String, String)> {
    let text = |column| Some(row.get(column)?.as_text()?.to_owned());
    Some((text("key")?, text("value")?))
}
