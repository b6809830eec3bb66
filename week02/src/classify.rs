//! What the caller can do about a failure.
//!
//! **Question.** A database fails in hundreds of ways. Which of them should be
//! shown to the user, which tried again, and which wake somebody up?
//!
//! **Idea.** A class for each thing that the caller can do. The driver's codes
//! decide, in one pure function: SQLSTATE for Postgres, result codes for
//! SQLite. What no rule names is a bug, so that a new kind of failure is looked
//! at before it is repeated. The line that matters most runs between
//! [`Class::Busy`], where nothing was done, and [`Class::Lost`], where a write
//! may have happened.
//!
//! **Guarantee.** [`classify`] looks at codes and types, never at text. A list
//! that breaks off is an error, not a shorter list. [`Accounts::audit`] writes
//! all of its rows or none, and needs one connection: it has read all members
//! before it writes the first row, and does both on the connection of its
//! transaction.
//!
//! **Cost.** The table grows with each database, and somebody must keep it. The
//! team is in memory while it is audited. A class says that a retry is safe, not
//! that it helps: how often, and after which pause, is another question.
//!
//! ```
//! use std::io;
//! use week02::classify::{Class, classify};
//!
//! // There was no connection to be had: nothing was sent.
//! assert_eq!(classify(&sqlx::Error::PoolTimedOut), Class::Busy);
//! // There was one, and it broke. Who knows what the server still did?
//! let broken = io::Error::from(io::ErrorKind::ConnectionReset);
//! assert_eq!(classify(&sqlx::Error::Io(broken)), Class::Lost);
//! ```

use sqlx::AnyPool;

/// The accounts in the database.
#[derive(Debug)]
pub struct Accounts {
    pool: AnyPool,
}

/// An operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation}")]
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

/// What the caller can do about an error of the driver.
pub fn classify(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            // SQLite's codes are numbers. SQLSTATE always has five characters.
            Some(code) if code.len() == 5 => by_sqlstate(&code),
            Some(code) => code.parse().map_or(Class::Bug, by_sqlite_code),
            None => Class::Bug,
        },
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Class::Busy,
        // Of every kind: a socket that timed out says nothing of the statement.
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => Class::Lost,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
            Class::Corrupt
        }
        _ => Class::Bug,
    }
}

fn by_sqlstate(code: &str) -> Class {
    match code {
        "23505" | "23P01" => Class::Conflict,
        // Serialization failure, deadlock, lock timeout, too many connections,
        // still starting.
        "40001" | "40P01" | "55P03" | "53300" | "57P03" => Class::Busy,
        "57014" => Class::TimedOut,
        // Ended by an administrator, or by the crash of another process.
        "57P01" | "57P02" => Class::Lost,
        "XX001" | "XX002" => Class::Corrupt,
        _ if code.starts_with("23") => Class::Rejected,
        _ if code.starts_with("08") => Class::Lost,
        _ => Class::Bug,
    }
}

fn by_sqlite_code(code: i32) -> Class {
    match code {
        // CONSTRAINT_PRIMARYKEY, CONSTRAINT_UNIQUE, CONSTRAINT_ROWID.
        1555 | 2067 | 2579 => Class::Conflict,
        // The lowest byte is the primary code, the rest says more about it.
        _ => match code & 0xff {
            19 => Class::Rejected,     // CONSTRAINT
            5 | 6 => Class::Busy,      // BUSY, LOCKED
            9 => Class::TimedOut,      // INTERRUPT
            11 | 26 => Class::Corrupt, // CORRUPT, NOTADB
            _ => Class::Bug,
        },
    }
}

impl Accounts {
    /// The accounts that `pool` reaches.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// Gives an account a new name, and says whether there is such an account.
    pub async fn rename(&self, id: i64, name: &str) -> Result<bool, Error> {
        let update = "UPDATE accounts SET name = $1 WHERE id = $2";
        let query = sqlx::query(update).bind(name).bind(id);
        let done = query.execute(&self.pool).await;
        Ok(done.map_err(failed_to("rename an account"))?.rows_affected() > 0)
    }

    /// The names of a team, in the order of the accounts' keys.
    pub async fn names(&self, team: &str) -> Result<Vec<String>, Error> {
        let select = "SELECT name FROM accounts WHERE team = $1 ORDER BY id";
        let query = sqlx::query_scalar(select).bind(team);
        let names = query.fetch_all(&self.pool).await;
        names.map_err(failed_to("list the names of a team"))
    }

    /// Writes down every member of a team, or nothing, and counts them.
    pub async fn audit(&self, team: &str) -> Result<usize, Error> {
        let audited = self.write_audit(team).await;
        audited.map_err(failed_to("audit a team"))
    }

    async fn write_audit(&self, team: &str) -> sqlx::Result<usize> {
        let select =
            "SELECT id, name FROM accounts WHERE team = $1 ORDER BY id";
        let insert = "INSERT INTO audit (account, entry) VALUES ($1, $2)";

        let mut transaction = self.pool.begin().await?;
        // It is tempting to write while the rows still come. But a connection
        // is busy until its last row is read, so that takes a second one, and
        // when every caller holds one and waits for another, nobody goes on.
        let query = sqlx::query_as::<_, (i64, String)>(select).bind(team);
        let members = query.fetch_all(&mut *transaction).await?;
        for (id, name) in &members {
            let query = sqlx::query(insert).bind(id).bind(name);
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(members.len())
    }
}

/// For `map_err`: the driver's error, as the layers above know it.
fn failed_to(operation: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| Error {
        class: classify(&source),
        operation,
        source: source.into(),
    }
}
