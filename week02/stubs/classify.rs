//! What the caller can do about a failure. Your turn.
//!
//! What is graded, and nothing else:
//!
//! `classify` follows this table, whatever the messages say. A code with five
//! characters is an SQLSTATE; any other number is a result code of SQLite. Of
//! those the lowest byte is the primary code: 517 is a kind of 5.
//!
//! | Class      | SQLSTATE          | SQLite         | sqlx::Error   |
//! |------------|-------------------|----------------|---------------|
//! | `Conflict` | 23505 23P01       | 1555 2067 2579 |               |
//! | `Rejected` | all other 23…     | all other 19   |               |
//! | `Busy`     | 40001 40P01 55P03 | 5 6            | PoolTimedOut  |
//! |            | 53300 57P03       |                | PoolClosed    |
//! | `TimedOut` | 57014             | 9              |               |
//! | `Lost`     | 08… 57P01 57P02   |                | Io Protocol   |
//! |            |                   |                | WorkerCrashed |
//! | `Corrupt`  | XX001 XX002       | 11 26          | Decode        |
//! |            |                   |                | ColumnDecode  |
//! | `Bug`      | all else          | all else       | all else      |
//!
//! - An error carries its class and its operation, of which each method has its
//!   own. `Display` names the operation and does not repeat the source. Among
//!   the sources is the `sqlx::Error`.
//! - `rename` says whether there is such an account.
//! - `names` lists the names of one team, ordered by id. A list that breaks off
//!   is an error.
//! - `audit` writes one row (`account`: its id, `entry`: its name) into `audit`
//!   for each account of the team, all or nothing, and returns how many. A pool
//!   of one connection is enough for it.
//! - The same on Postgres.

use sqlx::AnyPool;

/// The accounts in the database. The tables are `accounts(id, name, team)` and
/// `audit(account, entry)`.
#[derive(Debug)]
pub struct Accounts {}

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
pub fn classify(_error: &sqlx::Error) -> Class {
    todo!("which variants carry a code, and whose code is it?")
}

impl Accounts {
    /// The accounts that `pool` reaches.
    pub fn new(_pool: AnyPool) -> Self {
        todo!("what do the methods need?")
    }

    /// Gives an account a new name, and says whether there is such an account.
    pub async fn rename(&self, _id: i64, _name: &str) -> Result<bool, Error> {
        todo!("what does an UPDATE tell of the rows it met?")
    }

    /// The names of a team, in the order of the accounts' keys.
    pub async fn names(&self, _team: &str) -> Result<Vec<String>, Error> {
        todo!("what if the connection breaks after the first row?")
    }

    /// Writes down every member of a team, or nothing, and counts them.
    pub async fn audit(&self, _team: &str) -> Result<usize, Error> {
        todo!("which connection reads, and which one writes?")
    }
}
