//! A service's database in SQLite or Postgres.
//!
//! *Question.* The exercises are written against [`Tx`]. What does a real
//! database have to do so that their guarantees hold?
//!
//! *Idea.* Each method is one statement. A transaction on Postgres has the
//! isolation level `READ COMMITTED`, whatever the server's default is. With
//! `REPEATABLE READ`, `inbox` could credit twice. This level is enough: an
//! `INSERT … ON CONFLICT DO NOTHING` waits for a concurrent one of the same key,
//! and an `UPDATE … WHERE` checks the row again after it has waited. SQLite
//! begins with `IMMEDIATE`, so its writers run one after the other.
//!
//! *Guarantee.* A transaction whose future is dropped, at any point, leaves
//! nothing behind: its connection is closed, and the database rolls back. After
//! an error of [`Ledger::transaction`], the changes may still be committed: the
//! answer to `COMMIT` may have been lost.
//!
//! *Cost.* Each running transaction takes a connection, and each dropped
//! transaction closes its connection. SQLite has one writer at a time. If the
//! machine of a client fails, Postgres keeps the locks of its transaction for up
//! to ten seconds.

use std::num::TryFromIntError;

use sqlx::any::{AnyPoolOptions, install_default_drivers};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyPool, AssertSqlSafe, Row as _};
use week08::money::{Row, Table, Tx};

/// The database of one service. A clone uses the same connections.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: AnyPool,
    begin: &'static str,
}

/// A transaction of a [`Ledger`].
///
/// It is tempting to use [`sqlx::Transaction`]. But sqlx 0.9.0 counts a
/// transaction of Postgres only after `BEGIN` is answered. If the future is
/// dropped before that, the connection returns to the pool with an open
/// transaction.
#[derive(Debug)]
pub struct SqlTx {
    connection: PoolConnection<Any>,
    /// Whether a statement has failed.
    has_failed: bool,
    has_ended: bool,
}

const CONNECTIONS: u32 = 8;

const TABLES: [Table; 7] = [
    Table::Transfers,
    Table::Outbox,
    Table::Inbox,
    Table::Limits,
    Table::Fence,
    Table::Parked,
    Table::Orders,
];

const SQLITE_SETUP: &str =
    "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL;";

const POSTGRES_SETUP: &str = "SET idle_in_transaction_session_timeout = '10s';";

/// Two processes that create a table at the same time can fail, also with `IF
/// NOT EXISTS`, so they wait for a lock. The number of the lock has no meaning.
const POSTGRES_LOCK: &str = "SELECT pg_advisory_xact_lock(880008);";

impl Ledger {
    /// Connects to a `sqlite:…` file or a `postgres://…` database, and creates
    /// the tables that are missing.
    ///
    /// # Errors
    ///
    /// Returns an error if the database does not answer, or refuses the
    /// connection.
    pub async fn connect(url: &str) -> sqlx::Result<Self> {
        install_default_drivers();
        let is_sqlite = url.starts_with("sqlite:");
        let create = if is_sqlite && !url.contains('?') {
            format!("{url}?mode=rwc") // creates a missing file
        } else {
            url.to_owned()
        };
        let options = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let setup =
                        if is_sqlite { SQLITE_SETUP } else { POSTGRES_SETUP };
                    sqlx::raw_sql(setup).execute(connection).await?;
                    Ok(())
                })
            });
        let pool = options.connect(&create).await?;
        let begin = if is_sqlite {
            "BEGIN IMMEDIATE"
        } else {
            "BEGIN ISOLATION LEVEL READ COMMITTED"
        };
        let ledger = Self { pool, begin };
        ledger
            .transaction(async |tx| tx.create_tables(is_sqlite).await)
            .await?;
        Ok(ledger)
    }

    /// Runs `body` in one transaction. It is committed if `body` returns `Ok`,
    /// and rolled back otherwise.
    ///
    /// # Errors
    ///
    /// Returns the error of the database, or of `body`. If the answer to
    /// `COMMIT` was lost, the changes are committed all the same.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, all changes are committed, or none.
    pub async fn transaction<R>(
        &self,
        body: impl AsyncFnOnce(&mut SqlTx) -> sqlx::Result<R>,
    ) -> sqlx::Result<R> {
        let connection = self.pool.acquire().await?;
        // The guard exists before the statement is sent.
        let mut tx = SqlTx { connection, has_failed: false, has_ended: false };
        let begun = tx.run(self.begin).await;
        tx.has_ended = begun.as_ref().is_err_and(is_answer);
        begun?;
        let mut result = body(&mut tx).await;
        if result.is_ok() && tx.has_failed {
            // Postgres answers a COMMIT without an error, and rolls back.
            let text = "a statement has failed, and was ignored";
            result = Err(sqlx::Error::Protocol(text.to_owned()));
        }
        let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = tx.run(end).await;
        tx.has_ended = ended.is_ok();
        let result = result?;
        ended?;
        Ok(result)
    }

    /// Sets the balance of an account, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// Returns the error of the database.
    pub async fn open_account(
        &self,
        account: u64,
        cents: i64,
    ) -> sqlx::Result<()> {
        let insert = "INSERT INTO account (id, cents) VALUES ($1, $2)
            ON CONFLICT (id) DO UPDATE SET cents = excluded.cents";
        let insert = sqlx::query(insert).bind(number(account)?).bind(cents);
        insert.execute(&self.pool).await?;
        Ok(())
    }

    /// Returns the balance of an account, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// Returns the error of the database.
    pub async fn balance(&self, account: u64) -> sqlx::Result<Option<i64>> {
        let select = "SELECT cents FROM account WHERE id = $1";
        let select = sqlx::query_scalar(select).bind(number(account)?);
        select.fetch_optional(&self.pool).await
    }
}

impl SqlTx {
    async fn run(&mut self, statement: &'static str) -> sqlx::Result<()> {
        let statement = sqlx::raw_sql(statement);
        statement.execute(&mut *self.connection).await?;
        Ok(())
    }

    async fn create_tables(&mut self, is_sqlite: bool) -> sqlx::Result<()> {
        if !is_sqlite {
            self.run(POSTGRES_LOCK).await?;
        }
        self.run(
            "CREATE TABLE IF NOT EXISTS account (
                id BIGINT PRIMARY KEY,
                cents BIGINT NOT NULL CHECK (cents >= 0)
            )",
        )
        .await?;
        let seq = if is_sqlite {
            "INTEGER PRIMARY KEY AUTOINCREMENT"
        } else {
            "BIGSERIAL PRIMARY KEY"
        };
        for table in TABLES {
            let table = name(table);
            let create = sqlx::raw_sql(AssertSqlSafe(format!(
                "CREATE TABLE IF NOT EXISTS {table} (
                    seq {seq},
                    key TEXT NOT NULL UNIQUE,
                    value TEXT NOT NULL
                )"
            )));
            create.execute(&mut *self.connection).await?;
        }
        Ok(())
    }

    /// Returns the number of rows that a statement has changed.
    async fn change(
        &mut self,
        statement: String,
        texts: &[&str],
    ) -> sqlx::Result<u64> {
        let mut query = sqlx::query(AssertSqlSafe(statement));
        for text in texts {
            query = query.bind(*text);
        }
        let done = query.execute(&mut *self.connection).await;
        Ok(self.noted(done)?.rows_affected())
    }

    /// Remembers a failure.
    fn noted<R>(&mut self, result: sqlx::Result<R>) -> sqlx::Result<R> {
        self.has_failed |= result.is_err();
        result
    }
}

impl Tx for SqlTx {
    type Error = sqlx::Error;

    async fn add(&mut self, account: u64, cents: i64) -> sqlx::Result<bool> {
        let Ok(account) = number(account) else { return Ok(false) };
        // No sum is calculated that is out of range: Postgres would fail, and
        // SQLite would store a rounded number.
        let (update, bound) = if cents < 0 {
            let update = "UPDATE account SET cents = cents + $2
                WHERE id = $1 AND cents >= $3";
            let Some(least) = cents.checked_neg() else { return Ok(false) };
            (update, least)
        } else {
            let update = "UPDATE account SET cents = cents + $2
                WHERE id = $1 AND cents <= $3";
            (update, i64::MAX - cents)
        };
        let update = sqlx::query(update).bind(account).bind(cents).bind(bound);
        let done = update.execute(&mut *self.connection).await;
        Ok(self.noted(done)?.rows_affected() == 1)
    }

    async fn insert(
        &mut self,
        table: Table,
        key: &str,
        value: &str,
    ) -> sqlx::Result<bool> {
        let insert = format!(
            "INSERT INTO {} (key, value) VALUES ($1, $2)
            ON CONFLICT (key) DO NOTHING",
            name(table)
        );
        Ok(self.change(insert, &[key, value]).await? == 1)
    }

    async fn get(
        &mut self,
        table: Table,
        key: &str,
    ) -> sqlx::Result<Option<String>> {
        let select =
            format!("SELECT value FROM {} WHERE key = $1", name(table));
        let select = sqlx::query_scalar(AssertSqlSafe(select)).bind(key);
        // All rows are read, so that a late error is not lost.
        let rows = select.fetch_all(&mut *self.connection).await;
        Ok(self.noted(rows)?.pop())
    }

    async fn replace(
        &mut self,
        table: Table,
        key: &str,
        from: &str,
        to: &str,
    ) -> sqlx::Result<bool> {
        let update = format!(
            "UPDATE {} SET value = $3 WHERE key = $1 AND value = $2",
            name(table)
        );
        Ok(self.change(update, &[key, from, to]).await? == 1)
    }

    async fn delete(&mut self, table: Table, key: &str) -> sqlx::Result<bool> {
        let delete = format!("DELETE FROM {} WHERE key = $1", name(table));
        Ok(self.change(delete, &[key]).await? == 1)
    }

    async fn oldest(
        &mut self,
        table: Table,
        limit: usize,
    ) -> sqlx::Result<Vec<Row>> {
        let select = format!(
            "SELECT seq, key, value FROM {} ORDER BY seq LIMIT $1",
            name(table)
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let select = sqlx::query(AssertSqlSafe(select)).bind(limit);
        let rows = select.fetch_all(&mut *self.connection).await;
        let rows = self.noted(rows)?;
        let row = |row: &sqlx::any::AnyRow| {
            let seq: i64 = row.try_get(0)?;
            let (key, value) = (row.try_get(1)?, row.try_get(2)?);
            Ok(Row { seq: seq.cast_unsigned(), key, value })
        };
        rows.iter().map(row).collect()
    }
}

/// Closes the connection unless the transaction has ended. Then the database
/// rolls back.
impl Drop for SqlTx {
    fn drop(&mut self) {
        if !self.has_ended {
            self.connection.close_on_drop();
        }
    }
}

fn name(table: Table) -> &'static str {
    match table {
        Table::Transfers => "transfers",
        Table::Outbox => "outbox",
        Table::Inbox => "inbox",
        Table::Limits => "limits",
        Table::Fence => "fence",
        Table::Parked => "parked",
        Table::Orders => "orders",
    }
}

/// Returns the number of an account as SQL stores it. No account has a larger
/// number.
fn number(account: u64) -> sqlx::Result<i64> {
    let encoded = account.try_into();
    encoded.map_err(|error: TryFromIntError| sqlx::Error::Encode(error.into()))
}

/// Returns whether the database has answered. Then the connection can be used
/// again.
fn is_answer(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some()
}
