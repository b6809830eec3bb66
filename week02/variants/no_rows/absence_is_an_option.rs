//! Variant: below, absence is an `Option`, and `?` carries the failures.
//!
//! `fetch_optional` has no error for a missing row, so nothing can confuse the
//! two, and nothing goes to the heap. In exchange `NotFound` has no source.

use sqlx::AnyPool;

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
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none: the database has said so.
    #[error("{entity} with key {key} does not exist")]
    NotFound {
        /// What was looked for.
        entity: &'static str,
        /// By which key.
        key: i64,
        /// What said so, if it said so with an error.
        source: Option<BoxError>,
    },
    /// Nobody knows whether there is one.
    #[error("cannot {operation}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// What went wrong.
        source: BoxError,
    },
}

/// An error of some layer below, whose type is not ours to know.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What stands above a comment whose author was read.
pub fn author_name(read: Result<Account, Error>) -> Result<String, Error> {
    read.map(|account| account.name).or_else(|error| match error {
        Error::NotFound { .. } => Ok("[deleted]".into()),
        failed => Err(failed),
    })
}

impl Accounts {
    /// The accounts that `pool` reaches.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// The account with this key.
    pub async fn get(&self, id: i64) -> Result<Account, Error> {
        sqlx::query_as("SELECT * FROM accounts WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .map_err(failed_to("get account"))?
            .ok_or(Error::NotFound { entity: "account", key: id, source: None })
    }

    /// The accounts of a team, by their keys.
    pub async fn list(&self, team: &str) -> Result<Vec<Account>, Error> {
        sqlx::query_as("SELECT * FROM accounts WHERE team = $1 ORDER BY id")
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
