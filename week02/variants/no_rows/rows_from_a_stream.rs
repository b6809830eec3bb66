//! Variant: one stream of rows serves both reads, and the error is by hand.
//!
//! A read by key is a list that may hold one row. The cause of a failure lies a
//! level deeper, beneath an error of this module.

use std::fmt;

use futures_util::TryStreamExt;
use sqlx::any::AnyRow;
use sqlx::{AnyPool, Row};

/// Somebody who writes comments.
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
pub struct Accounts {
    pool: AnyPool,
}

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

/// The layer in which it happened.
#[derive(Debug)]
struct Storage(sqlx::Error);

/// What stands above a comment whose author was read.
pub fn author_name(read: Result<Account, Error>) -> Result<String, Error> {
    if let Err(Error::NotFound { .. }) = read {
        return Ok(String::from("[deleted]"));
    }
    Ok(read?.name)
}

impl Accounts {
    /// The accounts that `pool` reaches.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// The account with this key.
    pub async fn get(&self, id: i64) -> Result<Account, Error> {
        let query =
            sqlx::query("SELECT * FROM accounts WHERE id = $1").bind(id);
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

    /// The accounts of a team, by their keys.
    pub async fn list(&self, team: &str) -> Result<Vec<Account>, Error> {
        let query =
            sqlx::query("SELECT * FROM accounts WHERE team = $1").bind(team);
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
) -> Result<Vec<Account>, Storage> {
    rows.try_collect().await.map_err(Storage)
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

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the storage failed")
    }
}

impl std::error::Error for Storage {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
