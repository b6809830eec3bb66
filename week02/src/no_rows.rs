//! A read by key that finds no row.
//!
//! **Question.** Should a data-access object wrap the driver's "no rows" error,
//! and how? To one caller a missing row is a normal answer, to another it is a
//! failure. The driver does not know its caller.
//!
//! **Idea.** Translate the driver's error where it leaves the data layer. A
//! read by key that finds no row returns [`Error::NotFound`], a domain error
//! with the entity and the key. Every other failure is [`Error::Failed`], with
//! the operation, and with the driver's error as its source. The type of the
//! driver's error decides between the two, never its text. A list query that
//! matches no row returns an empty list.
//!
//! **Guarantee.** `NotFound` means that the database answered, and that no row
//! has this key. Every other failure is `Failed`, and its source chain contains
//! the driver's error. The layers above never need to name the driver. A list
//! is complete, or the call returns an error. Every read receives the whole
//! response, so it also reports an error that follows the row.
//!
//! **Cost.** The driver's error is moved to the heap, for a missing row as well
//! as for a failure. Every method that reads by key needs a match arm for the
//! missing row. A caller can still ignore the difference.
//!
//! ```
//! use week02::no_rows::{Account, Error, author_name};
//!
//! let deleted: Result<Account, Error> =
//!     Err(Error::NotFound { entity: "account", key: 7, source: None });
//! assert_eq!(deleted.as_ref().unwrap_err().to_string(), "no account 7");
//! assert_eq!(author_name(deleted).unwrap(), "[deleted]");
//!
//! // After a failed read, the account may exist or not.
//! let unread: Result<Account, Error> = Err(Error::Failed {
//!     operation: "read an account",
//!     source: "connection reset".into(),
//! });
//! assert!(author_name(unread).is_err());
//! ```

use sqlx::AnyPool;

use crate::db;

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
    #[error("no {entity} {key}")]
    NotFound {
        /// The kind of entity, such as `account`.
        entity: &'static str,
        /// The key that was looked up.
        key: i64,
        /// The error that reported the missing row, if there was one.
        source: Option<BoxError>,
    },
    /// The read failed: the row may exist or not.
    #[error("failed to {operation}")]
    Failed {
        /// What the method tried to do, such as `read an account`.
        operation: &'static str,
        /// The cause of the failure.
        source: BoxError,
    },
}

/// An error from a lower layer, of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The columns of a selected row.
type Row = (i64, String, String);

/// Returns the name to show above a comment, or `[deleted]` if its author's
/// account is missing. A failed read stays an error: the account may exist.
pub fn author_name(read: Result<Account, Error>) -> Result<String, Error> {
    match read {
        Ok(account) => Ok(account.name),
        Err(Error::NotFound { .. }) => Ok("[deleted]".to_owned()),
        Err(failed @ Error::Failed { .. }) => Err(failed),
    }
}

impl Accounts {
    /// Creates a reader that takes its connections from `pool`.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// Returns the account with this key.
    pub async fn get(&self, id: i64) -> Result<Account, Error> {
        let select = "SELECT id, name, team FROM accounts WHERE id = $1";
        let query = sqlx::query_as::<_, Row>(select).bind(id);
        match db::fetch_one(&self.pool, query).await {
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

    /// Returns the accounts of a team, ordered by key. The list is empty if the
    /// team has none.
    pub async fn list(&self, team: &str) -> Result<Vec<Account>, Error> {
        let select =
            "SELECT id, name, team FROM accounts WHERE team = $1 ORDER BY id";
        let query = sqlx::query_as::<_, Row>(select).bind(team);
        let rows = db::fetch_all(&self.pool, query).await;
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
