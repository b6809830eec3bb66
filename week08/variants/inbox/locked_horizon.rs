//! A variant: each transaction locks the row of the horizon first.
//!
//! The lock is a `replace` of the value by itself, as `SELECT … FOR UPDATE`. So
//! credits and clean-ups run one after the other, and each decision may be made
//! by plain reads. It is easy to see that this is correct, also in `REPEATABLE
//! READ`. The price: no two messages are credited at the same time.

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
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Received(message) => {
                vec![Effect::Transact(Command::Credit(message))]
            }
            // Not before the commit: a crash would lose the message.
            Event::Committed(_) => vec![Effect::Acknowledge],
            // The queue delivers it again.
            Event::RolledBack => Vec::new(),
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
        Command::Credit(message) => credit(tx, message).await,
        Command::Clean { before_s, limit } => {
            clean(tx, *before_s, *limit).await
        }
    }
}

async fn credit<T: Tx>(tx: &mut T, text: &str) -> Result<Outcome, T::Error> {
    let Ok(message) = text.parse::<Message>() else {
        return park(tx, text).await;
    };
    let Message { debited_s, transfer } = message;
    let horizon = lock_horizon(tx).await?;
    let key = transfer.id.to_string();
    match tx.get(Table::Inbox, &key).await? {
        Some(first) if first == text => return Ok(Outcome::Repeated),
        Some(_) => return park(tx, text).await,
        None => _ = tx.insert(Table::Inbox, &key, text).await?,
    }
    let cents = i64::from(transfer.cents.get());
    if debited_s >= horizon && tx.add(transfer.to, cents).await? {
        return Ok(Outcome::Credited);
    }
    park(tx, text).await
}

/// Stores a message for a person, once.
async fn park<T: Tx>(tx: &mut T, text: &str) -> Result<Outcome, T::Error> {
    let is_new = tx.insert(Table::Parked, text, text).await?;
    Ok(if is_new { Outcome::Parked } else { Outcome::Repeated })
}

async fn clean<T: Tx>(
    tx: &mut T,
    before_s: u64,
    limit: usize,
) -> Result<Outcome, T::Error> {
    let old = lock_horizon(tx).await?;
    let new = before_s.max(old);
    let (old, text) = (old.to_string(), new.to_string());
    tx.replace(Table::Limits, HORIZON, &old, &text).await?;
    let mut deleted = 0;
    for row in tx.oldest(Table::Inbox, limit).await? {
        let message = row.value.parse::<Message>();
        if message.is_ok_and(|message| message.debited_s < new) {
            deleted += usize::from(tx.delete(Table::Inbox, &row.key).await?);
        }
    }
    Ok(Outcome::Cleaned(deleted))
}

/// Returns the horizon. It does not change until the transaction ends.
async fn lock_horizon<T: Tx>(tx: &mut T) -> Result<u64, T::Error> {
    tx.insert(Table::Limits, HORIZON, "0").await?;
    loop {
        let text = tx.get(Table::Limits, HORIZON).await?;
        let text = text.expect("no transaction deletes it");
        if tx.replace(Table::Limits, HORIZON, &text, &text).await? {
            return Ok(text.parse().expect("it is a number"));
        }
    }
}
