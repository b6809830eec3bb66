//! A read by key that finds no row. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - `author_name` returns the stored name unchanged, whatever it is. For
//!   `NotFound` it returns `[deleted]`. For `Failed` it returns the same error
//!   unchanged.
//! - `Display` of `NotFound` names the entity and the key. `Display` of
//!   `Failed` names the operation. Neither repeats the text of the source or of
//!   the errors below it, in `{}` or in `{:#}`. `source()` returns the `source`
//!   field.
//! - `get` returns the row with this key as it is stored now. Every `i64` can
//!   be a key, and any text that the database can store can be a name or a
//!   team. For a missing row it returns
//!   `NotFound { entity: "account", key: id, .. }`, with or without a source.
//! - `list` returns exactly the accounts of this team as they are stored now,
//!   ordered by id. A team has any number of accounts. If no row matches, the
//!   list is empty.
//! - Another client may change rows during a read. Then `get` and `list` return
//!   the rows as they were before or after the change, never a mixture.
//! - The columns of the table may stand in any order.
//! - Every error except a missing row is `Failed`, whatever its text or its
//!   code says. This includes a failure to get a connection from the pool.
//! - Whatever the failure, `get` and `list` name different operations, and the
//!   source chain of the `Failed` error contains the `sqlx::Error`.
//! - If a query fails after its first rows, or the connection breaks between
//!   them, `list` returns `Failed`, never a shorter list. `get` may stop at its
//!   row: the key is unique, so no row can follow.
//! - If a row does not decode (`NULL` in any column), `get` and `list` return
//!   `Failed`. They never skip the row, and never put a default in its place.
//! - Every read, failed or not, returns its connection to the pool, and leaves
//!   it open if it can be used again. After a hundred reads, a pool with only
//!   one connection has that connection free.
//! - A caller may drop the future of a read at any await, even while the read
//!   waits for a connection. Then the connection is free, too, and not in a
//!   transaction.
//! - The same rules hold on SQLite and on Postgres, for every `AnyPool`, not
//!   only for one that `db::connect` has opened.
//!
//! An `AnyPool` passes SQL to the database unchanged. The placeholder `$1`
//! works on both databases, but `?` works only on SQLite. Decode rows as tuples
//! with `query_as`, or column by column with `try_get`: sqlx's derive macros
//! are not enabled here. You may use the functions of `crate::db`.

use sqlx::AnyPool;

/// An author of comments. The table is `accounts(id, name, team)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The primary key.
    pub id: i64,
    /// The name shown above a comment. No two accounts share it.
    pub name: String,
    /// The team that the author writes for.
    pub team: String,
}

/// Reads accounts from the database.
#[derive(Debug)]
pub struct Accounts {}

/// The reason why a read did not return an account.
#[derive(Debug)]
pub enum Error {
    /// The database answered: no row has this key.
    NotFound {
        /// The kind of entity, such as `account`.
        entity: &'static str,
        /// The key that was looked up.
        key: i64,
        /// The error that reported the missing row, if there was one.
        source: Option<BoxError>,
    },
    /// The read failed: the row may exist or not.
    Failed {
        /// What the method tried to do, such as `read an account`.
        operation: &'static str,
        /// The cause of the failure.
        source: BoxError,
    },
}

/// An error from a lower layer, of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

// Write these two by hand, or replace them by `#[derive(thiserror::Error)]`.
impl std::fmt::Display for Error {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!("which text names the failure and leaves the cause to `source`?")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        todo!("which field holds the cause?")
    }
}

/// Returns the name to show above a comment. The argument is the result of
/// reading the comment's author.
pub fn author_name(_read: Result<Account, Error>) -> Result<String, Error> {
    todo!("for which results is there a name to show?")
}

impl Accounts {
    /// Creates a reader that takes its connections from `pool`.
    pub fn new(_pool: AnyPool) -> Self {
        todo!("what do the methods need to run a query?")
    }

    /// Returns the account with this key.
    pub async fn get(&self, _id: i64) -> Result<Account, Error> {
        todo!("how does sqlx report that no row has this key?")
    }

    /// Returns the accounts of a team, ordered by key. The list is empty if the
    /// team has none.
    pub async fn list(&self, _team: &str) -> Result<Vec<Account>, Error> {
        todo!("what does sqlx return for a list query that matches no row?")
    }
}
