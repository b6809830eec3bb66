//! Money between services: a transfer, and the port to a service's database.
//!
//! The exercises on transfers share these types, which are given. A payment
//! service debits an account, a savings service credits one, and each service
//! has a database of its own. So no transaction covers both.
//!
//! - [`Tx`] is a local transaction. The exercises are written against it.
//! - [`simulated`] has a database in memory, which can be cloned, compared and
//!   hashed.
//! - [`coordinator`] has the coordinator of TCC, and the calls that it makes.
//! - [`broker`] has the table of a broker of two-phase messages.
//! - [`cluster`] has processes that exchange messages, crash, and start again.
//! - [`explore`] visits all states that they can reach. It returns the shortest
//!   run that loses or creates money.
//! - [`shop`] has orders, payments, and requests that are signed.

use std::fmt;
use std::num::{NonZero, ParseIntError};
use std::str::FromStr;

pub mod broker;
pub mod cluster;
pub mod coordinator;
pub mod explore;
pub mod shop;
pub mod simulated;

/// Moves money from an account of the payment service to an account of the
/// savings service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Transfer {
    /// Chosen by the client, so that it can repeat its request. No two
    /// transfers have the same id.
    pub id: u64,
    /// The account that is debited.
    pub from: u64,
    /// The account that is credited.
    pub to: u64,
    /// The amount.
    pub cents: NonZero<u32>,
}

/// A message from the payment service to the savings service: a transfer is
/// debited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    /// When the transfer was debited, in seconds since 1970. It stays the same
    /// when the message is published again.
    pub debited_s: u64,
    /// The transfer.
    pub transfer: Transfer,
}

/// A table of a service's database. Each has the columns `seq`, `key` and
/// `value`:
///
/// ```sql
/// CREATE TABLE outbox (
///     seq BIGSERIAL PRIMARY KEY,
///     key TEXT NOT NULL UNIQUE,
///     value TEXT NOT NULL
/// )
/// ```
///
/// A real service has a column for each field. One shape for all tables keeps
/// the exercises short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// The transfers that the service has accepted.
    Transfers,
    /// Messages that are not yet known to be published.
    Outbox,
    /// Messages that have taken effect.
    Inbox,
    /// Limits that only grow, such as the time below which rows were deleted.
    Limits,
    /// The states of the branches of distributed transactions.
    Fence,
    /// Messages that wait for a person to decide.
    Parked,
    /// The orders of a shop.
    Orders,
}

/// A row of a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// Increases with each row that is inserted. Rows of concurrent
    /// transactions may become visible in another order, and a transaction that
    /// is rolled back leaves a gap.
    pub seq: u64,
    /// Unique in its table.
    pub key: String,
    /// The content.
    pub value: String,
}

/// A local transaction of one service. Its changes become visible together when
/// the caller commits it, and not at all if the caller drops it.
///
/// Each statement sees what was committed before it began (`READ COMMITTED`). A
/// row that `insert`, `replace` or `delete` has changed is locked until the
/// transaction ends: a concurrent transaction that changes this row waits. An
/// account that `add` has changed is locked in the same way.
///
/// # Cancel safety
///
/// If a future of these methods is dropped, the transaction has to be dropped.
pub trait Tx: Send {
    /// The database has not answered, or has refused the statement. The
    /// transaction has to be dropped.
    type Error: fmt::Debug + Send;

    /// Adds to the balance of an account. Returns false, and changes nothing, if
    /// there is no such account, or if its balance would be below zero.
    ///
    /// `UPDATE account SET cents = cents + $2 WHERE id = $1 AND cents + $2 >= 0`
    fn add(
        &mut self,
        account: u64,
        cents: i64,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Inserts a row. Returns false, and changes nothing, if there is a row with
    /// this key.
    ///
    /// `INSERT INTO outbox (key, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`
    fn insert(
        &mut self,
        table: Table,
        key: &str,
        value: &str,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Returns the value of a row. Another transaction may change it before this
    /// one ends.
    ///
    /// `SELECT value FROM outbox WHERE key = $1`
    fn get(
        &mut self,
        table: Table,
        key: &str,
    ) -> impl Future<Output = Result<Option<String>, Self::Error>> + Send;

    /// Replaces the value of a row if it is `from`. Returns whether it was.
    ///
    /// `UPDATE outbox SET value = $3 WHERE key = $1 AND value = $2`
    fn replace(
        &mut self,
        table: Table,
        key: &str,
        from: &str,
        to: &str,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Deletes a row. Returns whether there was one.
    ///
    /// `DELETE FROM outbox WHERE key = $1`
    fn delete(
        &mut self,
        table: Table,
        key: &str,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Returns the first rows by `seq`, at most `limit`.
    ///
    /// `SELECT seq, key, value FROM outbox ORDER BY seq LIMIT $1`
    fn oldest(
        &mut self,
        table: Table,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Row>, Self::Error>> + Send;
}

/// The text is no [`Transfer`], or no [`Message`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text has too many or too few numbers.
    #[error("the text has not the right number of fields")]
    Fields,
    /// A number of the text is not valid.
    #[error("a field is not valid")]
    Number(#[from] ParseIntError),
}

/// Writes the id, both accounts and the cents: `7 1 2 100`.
impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, from, to, cents } = self;
        write!(f, "{id} {from} {to} {cents}")
    }
}

/// The format is short, because the trace of a run has many of these values.
impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transfer({self})")
    }
}

impl FromStr for Transfer {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fields: Vec<_> = text.split(' ').collect();
        let [id, from, to, cents] = fields[..] else {
            return Err(ParseError::Fields);
        };
        let (id, from) = (id.parse()?, from.parse()?);
        Ok(Self { id, from, to: to.parse()?, cents: cents.parse()? })
    }
}

/// Writes the time before the transfer: `1000 7 1 2 100`.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.debited_s, self.transfer)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({self})")
    }
}

impl FromStr for Message {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fields = text.split_once(' ').ok_or(ParseError::Fields)?;
        let (debited_s, transfer) = (fields.0.parse()?, fields.1.parse()?);
        Ok(Self { debited_s, transfer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_and_its_message_are_read_back_from_their_texts() {
        for number in [1, 42, u64::MAX] {
            let cents = NonZero::<u32>::MAX;
            let transfer = Transfer { id: number, from: 0, to: number, cents };
            assert_eq!(transfer.to_string().parse(), Ok(transfer));
            let message = Message { debited_s: number, transfer };
            assert_eq!(message.to_string().parse(), Ok(message));
        }
        for text in ["", "1 2 3", "1 2 3 4 5", "1 2 3 0", "1 2 3 -4", "1 2  4"]
        {
            assert!(text.parse::<Transfer>().is_err(), "{text:?}");
            let text = format!("9 {text}");
            assert!(text.parse::<Message>().is_err(), "{text:?}");
        }
    }
}
