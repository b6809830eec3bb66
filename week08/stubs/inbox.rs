//! Inbox: an idempotent consumer. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! The `Consumer`
//!
//! - It runs `transact` with `Command::Credit` for the message that it has
//!   received. After the commit, it acknowledges the message, once. If the
//!   transaction is rolled back, it does nothing: the queue delivers the
//!   message again.
//!
//! Credit
//!
//! - The *id* of a message is the id of its transfer. The first message with an
//!   id is credited, and the outcome is `Credited`. The same text again changes
//!   nothing: the outcome is `Repeated`.
//! - A message is *parked* if it has an id that was received with another text,
//!   if its text is no `Message`, or if its account cannot be credited (`add`
//!   returns false). No balance changes, and the outcome is `Parked`. If this
//!   text was parked before, the outcome is `Repeated`.
//! - A parked message is a row of `Table::Parked`, whose value is the text. If
//!   the account of a message cannot be credited, its id counts as received.
//! - So each acknowledged message is credited or parked.
//!
//! Clean-up
//!
//! - `Table::Inbox` has one row for each id that was received. The rows are in
//!   the order in which the ids were received first.
//! - `Clean` raises the horizon to `before_s`, unless the horizon is already as
//!   high. The horizon never falls. There is no horizon before the first
//!   clean-up.
//! - Then it looks at the first `limit` rows of the inbox, and deletes those
//!   whose messages have a `debited_s` below the horizon. `Cleaned` has the
//!   number of deleted rows. A clean-up that finds no rows raises the horizon,
//!   too.
//! - A message whose `debited_s` is below the horizon, and whose id has no row,
//!   is parked: perhaps it was credited before its row was deleted. Its id
//!   counts as received again.
//!
//! Both together
//!
//! - Transactions run at the same time. Between two of your statements, other
//!   credits and clean-ups may commit, unless they wait for a row or a balance
//!   that you have changed. No message is lost or credited twice, now or at a
//!   later delivery. A clean-up may delete nothing if another one has changed
//!   the horizon after it was read.
//! - If a statement returns an error, `transact` returns it at once.
//! - A process may crash before and after each effect, and any message may
//!   arrive again. If the producer sends the message of each debit at least
//!   once, each transfer is credited once.
//!
//! Help: `oldest` returns rows by `seq`. `replace` changes a row only if no
//! other transaction has changed it. `horizon`, at the end of this file, is
//! given.

use crate::money::{Message, Table, Tx};

/// Handles the messages of a queue, one at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Consumer;

/// An event that the consumer handles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The queue has delivered a message, for the first time or again.
    Received(String),
    /// The transaction is committed.
    Committed(Outcome),
    /// The transaction is rolled back, or its outcome is unknown.
    RolledBack,
}

/// An effect that the caller performs. The caller reports the event of an
/// effect before it performs the next effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Run [`transact`] in one transaction, and commit it if it returns `Ok`.
    Transact(Command),
    /// Acknowledge the message, so that the queue does not deliver it again, as
    /// a rule.
    Acknowledge,
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Credits the transfer of a message.
    Credit(String),
    /// Raises the horizon, and deletes rows of the inbox that are older.
    Clean {
        /// Transfers that were debited before this second are older.
        before_s: u64,
        /// The number of rows to look at, the oldest by `seq`.
        limit: usize,
    },
}

/// What a transaction has done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The transfer is credited.
    Credited,
    /// The message was credited or parked before. No balance is changed.
    Repeated,
    /// A person has to decide: the message is a row of [`Table::Parked`].
    Parked,
    /// This number of rows is deleted.
    Cleaned(usize),
}

/// The key of the row in [`Table::Limits`] that stores the horizon.
const HORIZON: &str = "inbox horizon";

impl Consumer {
    /// Handles an event, and returns the effects to perform, in order.
    pub fn step(&mut self, _event: Event) -> Vec<Effect> {
        todo!("when may the queue forget the message?")
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
        Command::Credit(message) => credit(tx, message).await,
        Command::Clean { before_s, limit } => {
            clean(tx, *before_s, *limit).await
        }
    }
}

async fn credit<T: Tx>(_tx: &mut T, _text: &str) -> Result<Outcome, T::Error> {
    todo!("which statement comes first, and when do you read the horizon?")
}

async fn clean<T: Tx>(
    _tx: &mut T,
    _before_s: u64,
    _limit: usize,
) -> Result<Outcome, T::Error> {
    todo!("what has to be stored before a row is deleted?")
}

/// Returns the horizon as it is stored, and its value.
#[allow(dead_code, reason = "you will use it")]
async fn horizon<T: Tx>(tx: &mut T) -> Result<Option<(String, u64)>, T::Error> {
    let text = tx.get(Table::Limits, HORIZON).await?;
    Ok(text.map(|text| {
        let horizon = text.parse().expect("only `clean` writes it");
        (text, horizon)
    }))
}
