//! Inbox: an idempotent consumer.
//!
//! *Question.* A queue delivers a message again after a crash, a rebalance, or a
//! lost acknowledgment. How is its transfer credited exactly once?
//!
//! *Idea.* The **inbox** is a table of the messages that have taken effect, by
//! the id of the transfer. One local transaction inserts the id and credits the
//! account. If the inbox already has the id, nothing is credited. The message
//! is acknowledged after the commit.
//!
//! *Guarantee.* A transfer is credited at most once, and its message is
//! acknowledged only if the transfer is credited or parked for a person. Rows
//! are deleted only below a stored **horizon**, which never falls. A message
//! below the horizon whose row is missing is parked, and not credited again.
//!
//! *Cost.* One more row for each message. In `REPEATABLE READ`, a credit might
//! not see a horizon that was just raised, so the transaction needs `READ
//! COMMITTED` (or `SERIALIZABLE`). The producer's clock decides what is below
//! the horizon, so the horizon has to be much older than the longest delay of a
//! message. A clean-up looks at the oldest rows only: if all of these are above
//! the horizon, it deletes nothing. A person has to decide about each parked
//! message.
//!
//! ```
//! use std::num::NonZero;
//! use week08::inbox::{Command, Consumer, Effect, Event, Outcome, transact};
//! use week08::money::simulated::Database;
//!
//! let mut database = Database::new([(2, 0)]);
//! let mut consumer = Consumer::default();
//! // Transfer 7, from account 1 to account 2, 100 cents, in second 1,000.
//! for expected in [Outcome::Credited, Outcome::Repeated] {
//!     let message = "1000 7 1 2 100".to_owned();
//!     let effects = consumer.step(Event::Received(message));
//!     let [Effect::Transact(command)] = &effects[..] else { panic!() };
//!     let credit = async |tx: &mut Database| transact(tx, command).await;
//!     let outcome = database.transaction(credit, Result::is_ok).unwrap();
//!     assert_eq!(outcome, expected);
//!     let effects = consumer.step(Event::Committed(outcome));
//!     assert_eq!(effects, [Effect::Acknowledge]);
//! }
//! assert_eq!(database.total(), 100);
//! ```

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
    let key = transfer.id.to_string();
    // First: here, it waits for a concurrent delivery or clean-up.
    if !tx.insert(Table::Inbox, &key, text).await? {
        let first = tx.get(Table::Inbox, &key).await?;
        if first.is_some_and(|first| first == text) {
            return Ok(Outcome::Repeated);
        }
        return park(tx, text).await;
    }
    // Not before the insert: a clean-up may have deleted the row in between.
    let horizon = horizon(tx).await?;
    let is_old = horizon.is_some_and(|(_, horizon)| debited_s < horizon);
    let cents = i64::from(transfer.cents.get());
    if is_old || !tx.add(transfer.to, cents).await? {
        return park(tx, text).await;
    }
    Ok(Outcome::Credited)
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
    // Before any row is deleted: from now on, older messages are not credited.
    let old = horizon(tx).await?;
    let text = before_s.to_string();
    let is_raised = match &old {
        Some((_, old)) if *old >= before_s => true,
        Some((old, _)) => {
            tx.replace(Table::Limits, HORIZON, old, &text).await?
        }
        None => tx.insert(Table::Limits, HORIZON, &text).await?,
    };
    if !is_raised {
        // Another clean-up has just changed the horizon.
        return Ok(Outcome::Cleaned(0));
    }
    let new = old.map_or(before_s, |(_, old)| old.max(before_s));
    let mut deleted = 0;
    for row in tx.oldest(Table::Inbox, limit).await? {
        let message = row.value.parse::<Message>();
        if message.is_ok_and(|message| message.debited_s < new) {
            let is_deleted = tx.delete(Table::Inbox, &row.key).await?;
            deleted += usize::from(is_deleted);
        }
    }
    Ok(Outcome::Cleaned(deleted))
}

/// Returns the horizon as it is stored, and its value.
async fn horizon<T: Tx>(tx: &mut T) -> Result<Option<(String, u64)>, T::Error> {
    let text = tx.get(Table::Limits, HORIZON).await?;
    Ok(text.map(|text| {
        let horizon = text.parse().expect("only `clean` writes it");
        (text, horizon)
    }))
}
