//! A variant: the relay is an enum of its states, and the account is debited
//! before the id is inserted.
//!
//! Each state has only the data that it needs, so no event can find rows of an
//! earlier batch. The transaction debits first: it keeps the lock of the account
//! a little longer, and gives the money back if the id is known.

use std::collections::VecDeque;
use std::num::NonZero;

use crate::money::{Message, Row, Table, Transfer, Tx};

/// The part of the payment service that handles requests. It has no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Api;

/// Publishes the rows of the outbox, a batch at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Relay {
    batch: NonZero<usize>,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State {
    Idle,
    Reading,
    /// The first row is being published.
    Publishing {
        row: Row,
        rest: VecDeque<Row>,
        acknowledged: Vec<String>,
    },
    Deleting {
        then_reads: bool,
    },
}

/// An event that a part of the service handles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// A client has requested a transfer, for the first time or again.
    Requested {
        /// The transfer.
        transfer: Transfer,
        /// The time, in seconds since 1970.
        now_s: u64,
    },
    /// It is time for the relay to look for rows.
    Wake,
    /// The transaction is committed.
    Committed(Outcome),
    /// The transaction is rolled back, or its outcome is unknown.
    RolledBack,
    /// The broker has acknowledged the message.
    Published,
    /// The broker has not acknowledged the message, but may have received it.
    PublishFailed,
}

/// An effect that the caller performs. The caller reports the event of an
/// effect before it performs the next effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Run [`transact`] in one transaction, and commit it if it returns `Ok`.
    Transact(Command),
    /// Publish a message. It is the text of a [`Message`].
    Publish(String),
    /// Answer the request.
    Reply(Reply),
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Debits the account, and inserts the message.
    Debit(Message),
    /// Reads rows of the outbox, at most this number.
    Read(NonZero<usize>),
    /// Deletes rows of the outbox by their keys.
    Delete(Vec<String>),
}

/// What a transaction has done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Of [`Command::Debit`].
    Debit(Reply),
    /// The rows that were read.
    Read(Vec<Row>),
    /// The rows are deleted.
    Deleted,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The transfer is debited, by this request or by an earlier one. It will be
    /// credited.
    Accepted,
    /// There is no such account, or it has not enough money. Nothing is stored,
    /// so a later request with this id may be accepted.
    Refused,
    /// The id belongs to another transfer.
    Conflict,
    /// It is not known whether the transfer is debited: send the request again.
    Unknown,
}

impl Api {
    /// Handles an event, and returns the effects to perform, in order.
    #[expect(clippy::needless_pass_by_value, reason = "a step takes its event")]
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Requested { transfer, now_s: debited_s } => {
                let message = Message { debited_s, transfer };
                vec![Effect::Transact(Command::Debit(message))]
            }
            // Not before the commit, which can still fail.
            Event::Committed(Outcome::Debit(reply)) => {
                vec![Effect::Reply(reply)]
            }
            Event::RolledBack => vec![Effect::Reply(Reply::Unknown)],
            _ => Vec::new(),
        }
    }
}

impl Relay {
    /// Creates a relay that reads up to `batch` rows at a time.
    pub fn new(batch: NonZero<usize>) -> Self {
        Self { batch, state: State::Idle }
    }

    /// Returns whether the relay waits for [`Event::Wake`].
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Handles an event, and returns the effects to perform, in order.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let state = std::mem::replace(&mut self.state, State::Idle);
        let (state, effect) = self.next(state, event);
        self.state = state;
        effect.into_iter().collect()
    }

    fn next(&self, state: State, event: Event) -> (State, Option<Effect>) {
        let read = Effect::Transact(Command::Read(self.batch));
        match (state, event) {
            (State::Idle, Event::Wake) => (State::Reading, Some(read)),
            (State::Reading, Event::Committed(Outcome::Read(rows))) => {
                publish(rows.into(), Vec::new())
            }
            (
                State::Publishing { row, rest, mut acknowledged },
                Event::Published,
            ) => {
                acknowledged.push(row.key);
                publish(rest, acknowledged)
            }
            (State::Publishing { acknowledged, .. }, Event::PublishFailed) => {
                delete(acknowledged, false)
            }
            (
                State::Deleting { then_reads: true },
                Event::Committed(Outcome::Deleted),
            ) => (State::Reading, Some(read)),
            (busy, Event::Wake) => (busy, None),
            _ => (State::Idle, None),
        }
    }
}

fn publish(
    mut rest: VecDeque<Row>,
    acknowledged: Vec<String>,
) -> (State, Option<Effect>) {
    let Some(row) = rest.pop_front() else {
        return delete(acknowledged, true);
    };
    let effect = Effect::Publish(row.value.clone());
    (State::Publishing { row, rest, acknowledged }, Some(effect))
}

fn delete(keys: Vec<String>, then_reads: bool) -> (State, Option<Effect>) {
    if keys.is_empty() {
        return (State::Idle, None);
    }
    let effect = Effect::Transact(Command::Delete(keys));
    (State::Deleting { then_reads }, Some(effect))
}

/// Performs a command in a transaction.
///
/// # Errors
///
/// Returns the error of the database. The transaction has to be rolled back.
///
/// # Cancel safety
///
/// If the future is dropped, the transaction has to be rolled back.
pub async fn transact<T: Tx>(
    tx: &mut T,
    command: &Command,
) -> Result<Outcome, T::Error> {
    match command {
        Command::Debit(message) => debit(tx, message).await,
        Command::Read(limit) => {
            Ok(Outcome::Read(tx.oldest(Table::Outbox, limit.get()).await?))
        }
        Command::Delete(keys) => {
            for key in keys {
                tx.delete(Table::Outbox, key).await?;
            }
            Ok(Outcome::Deleted)
        }
    }
}

async fn debit<T: Tx>(
    tx: &mut T,
    message: &Message,
) -> Result<Outcome, T::Error> {
    let transfer = message.transfer;
    let (key, text) = (transfer.id.to_string(), transfer.to_string());
    let cents = i64::from(transfer.cents.get());
    let has_money = tx.add(transfer.from, -cents).await?;
    if has_money && tx.insert(Table::Transfers, &key, &text).await? {
        tx.insert(Table::Outbox, &key, &message.to_string()).await?;
        return Ok(Outcome::Debit(Reply::Accepted));
    }
    if has_money {
        tx.add(transfer.from, cents).await?;
    }
    Ok(Outcome::Debit(match tx.get(Table::Transfers, &key).await? {
        Some(first) if first == text => Reply::Accepted,
        Some(_) => Reply::Conflict,
        None => Reply::Refused,
    }))
}
