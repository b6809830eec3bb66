//! A read that finds no row.
//!
//! **Question.** Should a data-access object wrap the driver's "no rows", and
//! how? To one caller a missing row is an answer, to another it is a failure,
//! and the driver cannot know which.
//!
//! **Idea.** Translate at the border. A read by key that finds no row returns
//! [`Error::NotFound`] in the words of the service: which entity, which key.
//! Any other failure is [`Error::Failed`], with what was tried, and the
//! driver's error as its source. The two are told apart by the driver's type,
//! never by its text. A list without rows is an empty list: nobody asked for
//! one row.
//!
//! **Guarantee.** `NotFound` means that the database answered, and that there is
//! no such row. Whatever else goes wrong is `Failed`, and whoever walks its
//! sources reaches the driver's error. Nobody above this layer has to name the
//! driver. A list is whole, or it is an error.
//!
//! **Cost.** The driver's error moves to the heap, once for each missing row
//! too, and there is an arm to write for every method that reads by key. A
//! caller that ignores the difference can still do so.
//!
//! ```
//! use week02::no_rows::{Account, Error, author_name};
//!
//! let deleted: Result<Account, Error> =
//!     Err(Error::NotFound { entity: "account", key: 7, source: None });
//! assert_eq!(deleted.as_ref().unwrap_err().to_string(), "no account 7");
//! assert_eq!(author_name(deleted).unwrap(), "[deleted]");
//!
//! // Nobody knows whether this author is still there.
//! let unread: Result<Account, Error> = Err(Error::Failed {
//!     operation: "read an account",
//!     source: "connection reset".into(),
//! });
//! assert!(author_name(unread).is_err());
//! ```

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
    #[error("no {entity} {key}")]
    NotFound {
        /// What was looked for.
        entity: &'static str,
        /// By which key.
        key: i64,
        /// What said so, if it said so with an error.
        source: Option<BoxError>,
    },
    /// Nobody knows whether there is one.
    #[error("failed to {operation}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// What went wrong.
        source: BoxError,
    },
}

/// An error of some layer below, whose type is not ours to know.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A row as it is selected.
type Row = (i64, String, String);

/// What stands above a comment whose author was read: a deleted one has left a
/// mark, but a failed read is no deletion.
pub fn author_name(read: Result<Account, Error>) -> Result<String, Error> {
    match read {
        Ok(account) => Ok(account.name),
        Err(Error::NotFound { .. }) => Ok("[deleted]".to_owned()),
        Err(failed @ Error::Failed { .. }) => Err(failed),
    }
}

impl Accounts {
    /// The accounts that `pool` reaches.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// The account with this key.
    pub async fn get(&self, id: i64) -> Result<Account, Error> {
        let select = "SELECT id, name, team FROM accounts WHERE id = $1";
        let query = sqlx::query_as::<_, Row>(select).bind(id);
        match query.fetch_one(&self.pool).await {
            Ok(row) => Ok(Account::from(row)),
            Err(source @ sqlx::Error::RowNotFound) => Err(Error::NotFound {
                entity: "account",
                key: id,
                source: Some(source.into()),
            }),
            Err(source) => Err(Error::Failed {
                operation: "read an account",
                source: source.into(),
            }),
        }
    }

    /// The accounts of a team, by their keys. A team without any has none.
    pub async fn list(&self, team: &str) -> Result<Vec<Account>, Error> {
        let select =
            "SELECT id, name, team FROM accounts WHERE team = $1 ORDER BY id";
        let query = sqlx::query_as::<_, Row>(select).bind(team);
        let rows = query.fetch_all(&self.pool).await;
        let rows = rows.map_err(|source| Error::Failed {
            operation: "list the accounts of a team",
            source: source.into(),
        })?;
        Ok(rows.into_iter().map(Account::from).collect())
    }
}

impl From<Row> for Account {
    fn from((id, name, team): Row) -> Self {
        Self { id, name, team }
    }
}
