//! Variant: a transaction writes the audit, and an array of pairs maps the
//! codes.
//!
//! Use a transaction where SQL cannot express the rows to write. It reads all
//! accounts before it writes the first row, and does both on one connection.
//! The names are in memory, and each row takes a round trip.
//!
//! The transaction does not rely on the pool to end it. If `audit` is dropped
//! while BEGIN is executed, the `Session` closes the connection.

use sqlx::AnyPool;
use sqlx::error::ErrorKind;

use crate::db::Session;

/// Reads and writes the accounts in the database.
#[derive(Debug)]
pub struct Accounts {
    pool: AnyPool,
}

/// The error of a failed operation.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {class:?}")]
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

/// Prefixes of SQLSTATEs. The first prefix that matches decides.
const SQLSTATES: [(&str, Class); 14] = [
    ("23P01", Class::Conflict),
    ("23", Class::Rejected),
    ("0A000", Class::Busy),
    ("40001", Class::Busy),
    ("40P01", Class::Busy),
    ("55P03", Class::Busy),
    ("53300", Class::Busy),
    ("57P03", Class::Busy),
    ("57014", Class::TimedOut),
    ("57P01", Class::Lost),
    ("57P02", Class::Lost),
    ("08", Class::Lost),
    ("XX001", Class::Corrupt),
    ("XX002", Class::Corrupt),
];

/// Primary codes, except the first. For that extended code, the driver does not
/// report `UniqueViolation`.
const SQLITE_CODES: [(u32, Class); 7] = [
    (2579, Class::Conflict),
    (19, Class::Rejected),
    (5, Class::Busy),
    (6, Class::Busy),
    (9, Class::TimedOut),
    (11, Class::Corrupt),
    (26, Class::Corrupt),
];

/// Returns the class of a driver error.
pub fn classify(error: &sqlx::Error) -> Class {
    use sqlx::Error::*;

    let Some(database) = error.as_database_error() else {
        return match error {
            PoolTimedOut | PoolClosed => Class::Busy,
            Io(_) | Protocol(_) | WorkerCrashed => Class::Lost,
            ColumnDecode { .. } | Decode(_) => Class::Corrupt,
            _ => Class::Unexpected,
        };
    };
    if database.kind() == ErrorKind::UniqueViolation {
        return Class::Conflict;
    }
    let code = database.code().unwrap_or_default();
    let found = match code.parse::<u32>() {
        Ok(number) if code.len() < 5 => SQLITE_CODES
            .iter()
            .find(|(code, _)| number == *code || number % 256 == *code)
            .map(|(_, class)| *class),
        _ => SQLSTATES
            .iter()
            .find(|(prefix, _)| code.starts_with(prefix))
            .map(|(_, class)| *class),
    };
    found.unwrap_or(Class::Unexpected)
}

impl Accounts {
    /// Creates a handle that takes its connections from `pool`.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// Renames an account. Returns whether the account exists.
    pub async fn rename(&self, id: i64, name: &str) -> Result<bool, Error> {
        // Not `fetch_optional`: it returns at the first row, before the
        // database commits. Then a constraint can still reject the update.
        let update = "UPDATE accounts SET name = $1 WHERE id = $2 RETURNING id";
        let query = sqlx::query(update).bind(name).bind(id);
        match query.fetch_all(&self.pool).await {
            Ok(rows) => Ok(!rows.is_empty()),
            Err(error) => Err(Error::new("rename", error)),
        }
    }

    /// Returns the names of the accounts of a team, ordered by id.
    pub async fn names(&self, team: &str) -> Result<Vec<String>, Error> {
        use futures_util::TryStreamExt;

        let select = "SELECT name FROM accounts WHERE team = $1 ORDER BY id";
        // A statement that is not kept cannot be older than a migration. It
        // takes a second round trip.
        let query = sqlx::query_scalar(select).persistent(false).bind(team);
        let mut rows = query.fetch(&self.pool);
        let mut names = Vec::new();
        while let Some(name) =
            rows.try_next().await.map_err(|error| Error::new("names", error))?
        {
            names.push(name);
        }
        Ok(names)
    }

    /// Writes an audit row for each account of a team, all or none. Returns the
    /// number of rows.
    pub async fn audit(&self, team: &str) -> Result<usize, Error> {
        let audited = self.write_audit(team).await;
        audited.map_err(|error| Error::new("audit", error))
    }

    async fn write_audit(&self, team: &str) -> sqlx::Result<usize> {
        let select = "SELECT id, name FROM accounts WHERE team = $1";
        let insert = "INSERT INTO audit (account, entry) VALUES ($1, $2)";

        let mut session = Session::acquire(&self.pool).await?;
        let mut transaction = session.begin().await?;
        let query = sqlx::query_as::<_, (i64, String)>(select).bind(team);
        let query = query.persistent(false);
        let accounts = query.fetch_all(&mut *transaction).await?;
        for (id, name) in &accounts {
            let query = sqlx::query(insert).bind(id).bind(name);
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(accounts.len())
    }
}

impl Error {
    fn new(operation: &'static str, source: sqlx::Error) -> Self {
        let class = classify(&source);
        Self { class, operation, source: Box::new(source) }
    }
}
