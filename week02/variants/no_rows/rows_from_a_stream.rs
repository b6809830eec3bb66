//! Variant: both reads use a stream of rows, and the error has no derive.
//!
//! A read by key collects a list of at most one row. The source of a `Failed`
//! error is an error of this module, and the driver's error is the source of
//! that one. No statement is kept, so none is older than a migration (0A000).

use std::fmt;

use futures_util::TryStreamExt;
use sqlx::any::AnyRow;
use sqlx::{AnyPool, Row};

/// An author of comments.
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
pub struct Accounts {
    pool: AnyPool,
}

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

/// An error of the storage layer, with the driver's error as its source.
#[derive(Debug)]
struct StorageError(sqlx::Error);

/// Returns the name to show above a comment, given the read of its author.
pub fn author_name(read: Result<Account, Error>) -> Result<String, Error> {
    if let Err(Error::NotFound { .. }) = read {
        return Ok(String::from("[deleted]"));
    }
    Ok(read?.name)
}

impl Accounts {
    /// Creates a reader that takes its connections from `pool`.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// Returns the account with this key.
    pub async fn get(&self, id: i64) -> Result<Account, Error> {
        let query =
            sqlx::query("SELECT id, name, team FROM accounts WHERE id = $1")
                .bind(id);
        let query = query.persistent(false);
        let rows = query.fetch(&self.pool).and_then(async |row| decode(&row));
        match collect(rows).await {
            Ok(mut found) => found.pop().ok_or_else(|| Error::NotFound {
                entity: "account",
                key: id,
                source: Some("the result is empty".into()),
            }),
            Err(storage) => Err(Error::Failed {
                operation: "read one account",
                source: Box::new(storage),
            }),
        }
    }

    /// Returns the accounts of a team, ordered by key.
    pub async fn list(&self, team: &str) -> Result<Vec<Account>, Error> {
        let query =
            sqlx::query("SELECT id, name, team FROM accounts WHERE team = $1")
                .bind(team);
        let query = query.persistent(false);
        let rows = query.fetch(&self.pool).and_then(async |row| decode(&row));
        let mut found =
            collect(rows).await.map_err(|storage| Error::Failed {
                operation: "read a team",
                source: Box::new(storage),
            })?;
        found.sort_by_key(|account| account.id);
        Ok(found)
    }
}

async fn collect(
    rows: impl futures_util::Stream<Item = sqlx::Result<Account>>,
) -> Result<Vec<Account>, StorageError> {
    rows.try_collect().await.map_err(StorageError)
}

fn decode(row: &AnyRow) -> sqlx::Result<Account> {
    Ok(Account {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        team: row.try_get("team")?,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { entity, key, .. } => {
                write!(f, "{entity} {key} not found")
            }
            Self::Failed { operation, .. } => {
                write!(f, "could not {operation}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound { source, .. } => {
                source.as_ref().map(|source| &**source as _)
            }
            Self::Failed { source, .. } => Some(&**source),
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the storage failed")
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
