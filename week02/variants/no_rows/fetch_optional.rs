//! Variant: `fetch_optional` returns a missing row as `None`.
//!
//! A missing row is then no driver error, so it cannot be confused with a
//! failure, and it needs no allocation. In exchange `NotFound` has no source.
//!
//! Through an `AnyPool`, `fetch_optional` returns at the first row of a response
//! of Postgres. An error that follows the row is lost. That is right only for a
//! read by a unique key, and never for a write with `RETURNING`.
//!
//! No statement is kept: one that is older than a migration could fail on its
//! connection again and again (0A000). Each read takes a second round trip.

use sqlx::AnyPool;

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
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database answered: no row has this key.
    #[error("{entity} with key {key} does not exist")]
    NotFound {
        /// The kind of entity, such as `account`.
        entity: &'static str,
        /// The key that was looked up.
        key: i64,
        /// The error that reported the missing row, if there was one.
        source: Option<BoxError>,
    },
    /// The read failed: the row may exist or not.
    #[error("cannot {operation}")]
    Failed {
        /// What the method tried to do, such as `read an account`.
        operation: &'static str,
        /// The cause of the failure.
        source: BoxError,
    },
}

/// An error from a lower layer, of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Returns the name to show above a comment, given the read of its author.
pub fn author_name(read: Result<Account, Error>) -> Result<String, Error> {
    read.map(|account| account.name).or_else(|error| match error {
        Error::NotFound { .. } => Ok("[deleted]".into()),
        failed => Err(failed),
    })
}

impl Accounts {
    /// Creates a reader that takes its connections from `pool`.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// Returns the account with this key.
    pub async fn get(&self, id: i64) -> Result<Account, Error> {
        sqlx::query_as("SELECT id, name, team FROM accounts WHERE id = $1")
            .persistent(false)
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .map_err(failed_to("get account"))?
            .ok_or(Error::NotFound { entity: "account", key: id, source: None })
    }

    /// Returns the accounts of a team, ordered by key.
    pub async fn list(&self, team: &str) -> Result<Vec<Account>, Error> {
        sqlx::query_as(
            "SELECT id, name, team FROM accounts WHERE team = $1 ORDER BY id",
        )
        .persistent(false)
        .bind(team)
        .fetch_all(&self.pool)
        .await
        .map_err(failed_to("list accounts"))
    }
}

impl<'r, R> sqlx::FromRow<'r, R> for Account
where
    R: sqlx::Row,
    &'static str: sqlx::ColumnIndex<R>,
    i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    fn from_row(row: &'r R) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            team: row.try_get("team")?,
        })
    }
}

fn failed_to(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| Error::Failed { operation, source: source.into() }
}
