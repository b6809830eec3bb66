//! Transactional outbox: debit and message in one local transaction. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! The `Api`
//!
//! - After `Event::Requested`, it runs a transaction. Then it replies exactly
//!   once, and has no effect after the reply.
//! - After `Event::RolledBack`, the reply is `Unknown`, no message was
//!   published, and the client sends its request again. If the transaction was
//!   really rolled back, nothing of the request is stored.
//! - After a commit, the reply depends on what is committed. It is `Accepted` if
//!   this transfer is debited, now or by an earlier request. It is `Conflict` if
//!   another transfer with this id was accepted. Otherwise it is `Refused`:
//!   there is no such account, or it has less money than the transfer.
//! - Two transfers are the same if all fields of `Transfer` are equal. The time
//!   of the request is not one of them.
//! - An accepted transfer is debited once. One message is stored for it, with
//!   the time of the request that debited. Other requests change no balance and
//!   no row of any table. So any later request may use the id of a refused
//!   request.
//! - Requests run at the same time. Between two of your statements, another
//!   transaction may commit, unless it waits for a row or a balance that you
//!   have changed. The replies, balances and rows are as if the two transactions
//!   had run one after the other.
//!
//! The `Relay`
//!
//! - It is idle at first. Only `Event::Wake` makes an idle relay busy, and a
//!   busy one ignores `Event::Wake`.
//! - It publishes the messages in the order of the rows in `Table::Outbox`. A
//!   row stays there until the broker has acknowledged its message. A row with
//!   a smaller `seq` may appear at any time, as its transaction is committed
//!   later. The next read finds it.
//! - It reads at most `batch` rows at a time, and deletes them in one
//!   transaction after all are published. Then it reads again. When it finds no
//!   row, it is idle. So `n` rows need at most `2 * n.div_ceil(batch) + 1`
//!   transactions.
//! - After `Event::PublishFailed`, it publishes nothing until it is woken again.
//!   Before it is idle, it deletes the rows whose messages are acknowledged.
//! - After `Event::RolledBack`, it is idle at once.
//! - When it is woken again, it begins with the row that is the oldest by then.
//!
//! Both together
//!
//! - If a statement returns an error, `transact` returns it at once.
//! - Each process may crash before and after each effect. After a crash, it
//!   begins with a new `Api` or `Relay`. The client repeats its request until
//!   it gets a reply. If the consumer credits each id once, every accepted
//!   transfer is debited once and credited once.
//!
//! Help: `Api` gets `Requested`, and `Relay` gets `Wake`. All other events and
//! commands are caused by the effects that your code returns. The docs of `Tx`
//! have the SQL of each statement. A message is turned into its text, and back,
//! by `to_string` and `parse`.

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
    // What does a relay remember between two events of a batch?
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
    pub fn step(&mut self, _event: Event) -> Vec<Effect> {
        todo!("when do you know the reply?")
    }
}

impl Relay {
    /// Creates a relay that reads up to `batch` rows at a time.
    pub fn new(batch: NonZero<usize>) -> Self {
        Self { batch, is_idle: true }
    }

    /// Returns whether the relay waits for [`Event::Wake`].
    pub fn is_idle(&self) -> bool {
        self.is_idle
    }

    /// Handles an event, and returns the effects to perform, in order.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Wake if self.is_idle => {
                self.is_idle = false;
                vec![Effect::Transact(Command::Read(self.batch))]
            }
            _ => todo!("which rows are published, and which may be deleted?"),
        }
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
    _tx: &mut T,
    _message: &Message,
) -> Result<Outcome, T::Error> {
    todo!("which statement comes first, and what does each result mean?")
}
