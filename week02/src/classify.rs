//! Classifies database errors by what the caller can do.
//!
//! **Question.** A database fails in hundreds of ways. Which failures should
//! the user see, which should be retried, and which should alert an operator?
//!
//! **Idea.** Each reaction of the caller has a class. A pure function maps the
//! driver's codes to classes: SQLSTATE for Postgres, result codes for
//! SQLite. An error without a rule is [`Class::Unexpected`], so that a new kind
//! of failure is examined before it is retried. The most important difference
//! is between [`Class::Busy`], where nothing was done, and [`Class::Lost`],
//! where a write may have been executed.
//!
//! **Guarantee.** [`classify`] tests codes and types, never text. If a query
//! fails after its first rows, [`Accounts::names`] returns an error, not a
//! shorter list. [`Accounts::audit`] writes all of its rows or none, and needs
//! only one connection. A caller may drop the future of a method at any await:
//! the connection then returns to the pool without an open transaction, and a
//! write was executed as a whole or not at all.
//!
//! **Cost.** The table has to be maintained, and grows with each database. A
//! class says that a retry is safe, not that it succeeds. How often to retry,
//! and after which pause, is a separate question.
//!
//! ```
//! use std::io;
//! use week02::classify::{Class, classify};
//!
//! // The pool had no free connection, so nothing was sent.
//! assert_eq!(classify(&sqlx::Error::PoolTimedOut), Class::Busy);
//! // The connection broke. The server may have executed the statement.
//! let broken = io::Error::from(io::ErrorKind::ConnectionReset);
//! assert_eq!(classify(&sqlx::Error::Io(broken)), Class::Lost);
//! ```

use sqlx::AnyPool;

use crate::db;

/// Reads and writes the accounts in the database.
#[derive(Debug)]
pub struct Accounts {
    pool: AnyPool,
}

/// The error of a failed operation.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation}")]
pub struct Error {
    /// The class, which says what the caller can do.
    pub class: Class,
    /// The name of the operation that failed.
    pub operation: &'static str,
    /// The cause of the failure.
    pub source: BoxError,
}

/// Says what the caller of a failed operation can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Another row already has this value: choose a different one.
    Conflict,
    /// The row violates another constraint: correct the request.
    Rejected,
    /// Nothing was done, or all was rolled back: retry the whole transaction
    /// after a pause.
    Busy,
    /// The statement was cancelled and rolled back: retry only with more time.
    TimedOut,
    /// The connection broke: retry a read, but not a write, which may have been
    /// executed.
    Lost,
    /// The stored data is damaged or does not decode: do not retry.
    Corrupt,
    /// Any other failure: do not retry, and alert an operator.
    Unexpected,
}

/// An error from a lower layer, of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Returns the class of a driver error.
pub fn classify(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            // An SQLSTATE always has five characters. SQLite's codes are
            // numbers with fewer digits.
            Some(code) if code.len() == 5 => by_sqlstate(&code),
            Some(code) => {
                code.parse().map_or(Class::Unexpected, by_sqlite_code)
            }
            None => Class::Unexpected,
        },
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Class::Busy,
        // Every kind, also `TimedOut`: after a socket timeout, the server may
        // have executed the statement.
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => Class::Lost,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            Class::Corrupt
        }
        _ => Class::Unexpected,
    }
}

fn by_sqlstate(code: &str) -> Class {
    match code {
        "23505" | "23P01" => Class::Conflict,
        // A prepared statement that is older than a migration, serialization
        // failure, deadlock, lock timeout, too many connections, server is
        // starting.
        "0A000" | "40001" | "40P01" | "55P03" | "53300" | "57P03" => {
            Class::Busy
        }
        "57014" => Class::TimedOut,
        // Connection closed by an administrator, or because another server
        // process crashed.
        "57P01" | "57P02" => Class::Lost,
        "XX001" | "XX002" => Class::Corrupt,
        _ if code.starts_with("23") => Class::Rejected,
        _ if code.starts_with("08") => Class::Lost,
        _ => Class::Unexpected,
    }
}

fn by_sqlite_code(code: i32) -> Class {
    match code {
        // CONSTRAINT_PRIMARYKEY, CONSTRAINT_UNIQUE, CONSTRAINT_ROWID.
        1555 | 2067 | 2579 => Class::Conflict,
        // The lowest byte is the primary code, the other bits are a detail.
        _ => match code & 0xff {
            19 => Class::Rejected,     // CONSTRAINT
            5 | 6 => Class::Busy,      // BUSY, LOCKED
            9 => Class::TimedOut,      // INTERRUPT
            11 | 26 => Class::Corrupt, // CORRUPT, NOTADB
            _ => Class::Unexpected,
        },
    }
}

impl Accounts {
    /// Creates a handle that takes its connections from `pool`.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// Renames an account. Returns whether the account exists.
    pub async fn rename(&self, id: i64, name: &str) -> Result<bool, Error> {
        let update = "UPDATE accounts SET name = $1 WHERE id = $2";
        let query = sqlx::query(update).bind(name).bind(id);
        let done = query.execute(&self.pool).await;
        Ok(done.map_err(failed_to("rename an account"))?.rows_affected() > 0)
    }

    /// Returns the names of the accounts of a team, ordered by id.
    pub async fn names(&self, team: &str) -> Result<Vec<String>, Error> {
        let select = "SELECT name FROM accounts WHERE team = $1 ORDER BY id";
        let query = sqlx::query_as::<_, (String,)>(select).bind(team);
        let rows = db::fetch_all(&self.pool, query).await;
        let rows = rows.map_err(failed_to("list the names of a team"))?;
        Ok(rows.into_iter().map(|(name,)| name).collect())
    }

    /// Writes an audit row for each account of a team, all or none. Returns the
    /// number of rows.
    pub async fn audit(&self, team: &str) -> Result<usize, Error> {
        // It is tempting to read the accounts, and to write a row for each. That
        // needs a transaction. And if the rows are written while the accounts
        // still arrive, it needs a second connection: when every caller holds
        // one and waits for another, all of them are deadlocked.
        let insert = "INSERT INTO audit (account, entry) \
                      SELECT id, name FROM accounts WHERE team = $1";
        let done = sqlx::query(insert).bind(team).execute(&self.pool).await;
        let done = done.map_err(failed_to("audit a team"))?;
        Ok(done.rows_affected() as usize)
    }
}

/// Returns a function for `map_err` that adds the class and the operation to a
/// driver error.
fn failed_to(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| Error {
        class: classify(&source),
        operation,
        source: source.into(),
    }
}
