//! Transactional outbox: debit and message in one local transaction.
//!
//! *Question.* The payment service debits an account, and the savings service
//! must hear of it through a queue. The database and the queue share no
//! transaction. What if the process crashes between the commit and the message?
//!
//! *Idea.* The **outbox** is a table of messages in the same database. One
//! local transaction debits the account and inserts the message. A **relay**
//! publishes the stored messages, and deletes a row after the broker has
//! acknowledged its message.
//!
//! *Guarantee.* A message is published if and only if its debit is committed,
//! even if the process crashes before any step. A request that is repeated
//! debits nothing, because the id of the transfer is inserted in the same
//! transaction. The messages are published in the order of their rows.
//!
//! *Cost.* Delivery is at least once: after a crash, the relay publishes up to
//! a batch again, so the consumer has to recognize repeated messages. Each
//! message is written twice, and waits until the relay reads the table again.
//! The relay waits for each acknowledgment, and a message that the broker does
//! not accept blocks all later ones. One relay runs at a time.
//!
//! ```
//! use std::num::NonZero;
//! use week08::money::Transfer;
//! use week08::money::simulated::Database;
//! use week08::outbox::{Api, Effect, Event, Outcome, Reply, transact};
//!
//! let mut database = Database::new([(1, 500)]);
//! let cents = NonZero::new(100).unwrap();
//! let transfer = Transfer { id: 7, from: 1, to: 2, cents };
//! let effects = Api.step(Event::Requested { transfer, now_s: 1_000 });
//! let [Effect::Transact(command)] = &effects[..] else { panic!() };
//! let debit = async |tx: &mut Database| transact(tx, command).await;
//! let outcome = database.transaction(debit, Result::is_ok).unwrap();
//! assert_eq!(outcome, Outcome::Debit(Reply::Accepted));
//! let replies = Api.step(Event::Committed(outcome));
//! assert_eq!(replies, [Effect::Reply(Reply::Accepted)]);
//! ```

use std::collections::VecDeque;
use std::mem;
use std::num::NonZero;

use crate::money::{Message, Row, Table, Transfer, Tx};

/// The part of the payment service that handles requests. It has no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Api;

/// Publishes the rows of the outbox, a batch at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Relay {
    batch: NonZero<usize>,
    is_idle: bool,
    /// The rows whose messages are not acknowledged. The first is being
    /// published.
    unpublished: VecDeque<Row>,
    /// The keys of the rows whose messages are acknowledged. They are not yet
    /// deleted.
    published: Vec<String>,
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
        let (unpublished, published) = Default::default();
        Self { batch, is_idle: true, unpublished, published }
    }

    /// Returns whether the relay waits for [`Event::Wake`].
    pub fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Handles an event, and returns the effects to perform, in order.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Wake if self.is_idle => self.read(),
            Event::Committed(Outcome::Read(rows)) => {
                self.unpublished = rows.into();
                self.publish()
            }
            Event::Published => {
                let row = self.unpublished.pop_front();
                self.published.extend(row.map(|row| row.key));
                self.publish()
            }
            // Not the next row: the messages would change their order.
            Event::PublishFailed => self.delete(),
            // There may be more rows than fit into a batch.
            Event::Committed(Outcome::Deleted)
                if self.unpublished.is_empty() =>
            {
                self.read()
            }
            Event::Committed(Outcome::Deleted) | Event::RolledBack => {
                self.pause()
            }
            _ => Vec::new(),
        }
    }

    fn read(&mut self) -> Vec<Effect> {
        self.is_idle = false;
        vec![Effect::Transact(Command::Read(self.batch))]
    }

    fn publish(&mut self) -> Vec<Effect> {
        match self.unpublished.front() {
            Some(row) => vec![Effect::Publish(row.value.clone())],
            None => self.delete(),
        }
    }

    /// Deletes only rows that are acknowledged: a crash would lose other
    /// messages.
    fn delete(&mut self) -> Vec<Effect> {
        if self.published.is_empty() {
            return self.pause();
        }
        let published = mem::take(&mut self.published);
        vec![Effect::Transact(Command::Delete(published))]
    }

    fn pause(&mut self) -> Vec<Effect> {
        *self = Self::new(self.batch);
        Vec::new()
    }
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
    let Message { transfer, .. } = message;
    let (key, text) = (transfer.id.to_string(), transfer.to_string());
    // First: a concurrent request with the same id waits here.
    if !tx.insert(Table::Transfers, &key, &text).await? {
        let first = tx.get(Table::Transfers, &key).await?;
        let is_same = first.is_some_and(|first| first == text);
        let reply = if is_same { Reply::Accepted } else { Reply::Conflict };
        return Ok(Outcome::Debit(reply));
    }
    let cents = -i64::from(transfer.cents.get());
    if !tx.add(transfer.from, cents).await? {
        // Otherwise the next request with this id would be accepted.
        tx.delete(Table::Transfers, &key).await?;
        return Ok(Outcome::Debit(Reply::Refused));
    }
    tx.insert(Table::Outbox, &key, &message.to_string()).await?;
    Ok(Outcome::Debit(Reply::Accepted))
}
