//! Variant: the database does the work, and a table of pairs decides.
//!
//! `INSERT … SELECT` is all or nothing by itself, and nothing leaves the
//! server. It is the better answer wherever SQL can say what is to be written.

use sqlx::AnyPool;
use sqlx::error::ErrorKind;

/// The accounts in the database.
#[derive(Debug)]
pub struct Accounts {
    pool: AnyPool,
}

/// An operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {class:?}")]
pub struct Error {
    /// What the caller can do about it.
    pub class: Class,
    /// What was tried.
    pub operation: &'static str,
    /// What went wrong.
    pub source: BoxError,
}

/// What the caller of a failed operation can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Somebody has it already: choose another.
    Conflict,
    /// A constraint refuses the row: mend the request.
    Rejected,
    /// Nothing was done: again after a pause, the whole transaction.
    Busy,
    /// It took too long and was undone: again only with more time.
    TimedOut,
    /// The connection broke. A read can be repeated; a write may have happened.
    Lost,
    /// What is stored is not what it should be: no retry will help.
    Corrupt,
    /// Anything else: somebody must look at it.
    Bug,
}

/// An error of some layer below, whose type is not ours to know.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The first prefix that fits decides.
const SQLSTATES: [(&str, Class); 13] = [
    ("23P01", Class::Conflict),
    ("23", Class::Rejected),
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

/// Primary codes, but for the first, which the driver takes for another kind.
const SQLITE_CODES: [(u32, Class); 7] = [
    (2579, Class::Conflict),
    (19, Class::Rejected),
    (5, Class::Busy),
    (6, Class::Busy),
    (9, Class::TimedOut),
    (11, Class::Corrupt),
    (26, Class::Corrupt),
];

/// What the caller can do about an error of the driver.
pub fn classify(error: &sqlx::Error) -> Class {
    use sqlx::Error::*;

    let Some(database) = error.as_database_error() else {
        return match error {
            PoolTimedOut | PoolClosed => Class::Busy,
            Io(_) | Protocol(_) | WorkerCrashed => Class::Lost,
            ColumnDecode { .. } | Decode(_) => Class::Corrupt,
            _ => Class::Bug,
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
    found.unwrap_or(Class::Bug)
}

impl Accounts {
    /// The accounts that `pool` reaches.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// Gives an account a new name, and says whether there is such an account.
    pub async fn rename(&self, id: i64, name: &str) -> Result<bool, Error> {
        let update = "UPDATE accounts SET name = $1 WHERE id = $2 RETURNING id";
        let query = sqlx::query(update).bind(name).bind(id);
        match query.fetch_optional(&self.pool).await {
            Ok(row) => Ok(row.is_some()),
            Err(error) => Err(Error::new("rename", error)),
        }
    }

    /// The names of a team, in the order of the accounts' keys.
    pub async fn names(&self, team: &str) -> Result<Vec<String>, Error> {
        use futures_util::TryStreamExt;

        let select = "SELECT name FROM accounts WHERE team = $1 ORDER BY id";
        let mut rows = sqlx::query_scalar(select).bind(team).fetch(&self.pool);
        let mut names = Vec::new();
        while let Some(name) =
            rows.try_next().await.map_err(|error| Error::new("names", error))?
        {
            names.push(name);
        }
        Ok(names)
    }

    /// Writes down every member of a team, or nothing, and counts them.
    pub async fn audit(&self, team: &str) -> Result<usize, Error> {
        let insert = "INSERT INTO audit (account, entry) \
                      SELECT id, name FROM accounts WHERE team = $1";
        let done = sqlx::query(insert).bind(team).execute(&self.pool).await;
        match done {
            Ok(done) => Ok(done.rows_affected() as usize),
            Err(error) => Err(Error::new("audit", error)),
        }
    }
}

impl Error {
    fn new(operation: &'static str, source: sqlx::Error) -> Self {
        let class = classify(&source);
        Self { class, operation, source: Box::new(source) }
    }
}
