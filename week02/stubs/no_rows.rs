//! A read that finds no row. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - An author's name is shown as it is stored. One who was deleted shows as
//!   `[deleted]`. One who could not be read does not: the failure is handed on
//!   as it is.
//! - `Display` of an error names entity and key, or the operation. It does not
//!   repeat the source, which `source()` returns.
//! - `get` of a missing row is `NotFound { entity: "account", key: id, .. }`.
//!   Whether it has a source is yours to choose.
//! - `list` returns all accounts of exactly this team, ordered by id. Any text
//!   can be a team. Without rows it is an empty list.
//! - Any other failure is `Failed`, whatever its text says: also when there is
//!   no connection to be had. Each method names its own operation, and among
//!   the sources is the `sqlx::Error`.
//! - A list that breaks off is a failure. So is a row that does not decode
//!   (`NULL` in any column), of `get` and of `list`: never a shorter list, and
//!   never a row with a default in it.
//! - No read keeps its connection: after a hundred, which fail or not, the only
//!   one of the pool is free.
//! - The same on Postgres.
//!
//! An `AnyPool` passes SQL on as it is: `$1` suits both databases, `?` does not.
//! Rows come as tuples with `query_as`, or by `try_get`: sqlx's derive macros
//! are switched off here.

use sqlx::AnyPool;

/// Somebody who writes comments. The table is `accounts(id, name, team)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The key.
    pub id: i64,
    /// What stands above a comment. No two accounts share it.
    pub name: String,
    /// Who they write for.
    pub team: String,
}

/// The accounts in the database.
#[derive(Debug)]
pub struct Accounts {}

/// Why there is no account to return.
#[derive(Debug)]
pub enum Error {
    /// There is none: the database has said so.
    NotFound {
        /// What was looked for.
        entity: &'static str,
        /// By which key.
        key: i64,
        /// What said so, if it said so with an error.
        source: Option<BoxError>,
    },
    /// Nobody knows whether there is one.
    Failed {
        /// What was tried.
        operation: &'static str,
        /// What went wrong.
        source: BoxError,
    },
}

/// An error of some layer below, whose type is not ours to know.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

// By hand, or with `#[derive(thiserror::Error)]` instead of these two.
impl std::fmt::Display for Error {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!("what failed, in words that leave the cause to `source`?")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        todo!("which field is the cause?")
    }
}

/// What stands above a comment whose author was read.
pub fn author_name(_read: Result<Account, Error>) -> Result<String, Error> {
    todo!("for which outcomes is there a name to show?")
}

impl Accounts {
    /// The accounts that `pool` reaches.
    pub fn new(_pool: AnyPool) -> Self {
        todo!("what do the methods need?")
    }

    /// The account with this key.
    pub async fn get(&self, _id: i64) -> Result<Account, Error> {
        todo!("how does sqlx say that there is no row?")
    }

    /// The accounts of a team, by their keys. A team without any has none.
    pub async fn list(&self, _team: &str) -> Result<Vec<Account>, Error> {
        todo!("how does sqlx say that there are no rows?")
    }
}
