//! A transaction that leaves nothing open when its future is dropped.

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool};

/// A transaction on a connection of a pool.
///
/// If it is dropped before [`commit`](Self::commit) or
/// [`rollback`](Self::rollback) has returned, the connection is closed, and the
/// database rolls back. It is tempting to use [`sqlx::Transaction`], which
/// returns the connection to the pool. But sqlx 0.9.0 counts a transaction of
/// Postgres only after BEGIN is answered. If `begin` is dropped earlier, the
/// connection goes back with an open transaction, and the next caller's write
/// is reported as done and later lost.
#[derive(Debug)]
pub struct Transaction {
    connection: PoolConnection<Any>,
    /// Whether the database has confirmed the end.
    ended: bool,
}

impl Transaction {
    pub(super) async fn begin(
        pool: &AnyPool,
        statement: &'static str,
    ) -> sqlx::Result<Self> {
        let connection = pool.acquire().await?;
        // The guard exists before the statement is sent.
        let mut transaction = Self { connection, ended: false };
        transaction.run(statement).await?;
        Ok(transaction)
    }

    /// Returns the connection, for statements of this transaction. Do not
    /// continue after a statement that failed: on Postgres, the commit would
    /// then roll back and still succeed.
    pub fn connection(&mut self) -> &mut AnyConnection {
        &mut self.connection
    }

    /// Makes all changes permanent.
    ///
    /// # Errors
    ///
    /// After an error, and if the future is dropped, it is unknown whether the
    /// changes were made.
    pub async fn commit(self) -> sqlx::Result<()> {
        self.end("COMMIT").await
    }

    /// Undoes all changes, and keeps the connection.
    ///
    /// # Errors
    ///
    /// Returns an error if the database does not answer. The changes are undone
    /// in this case, too.
    pub async fn rollback(self) -> sqlx::Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> sqlx::Result<()> {
        self.run(statement).await?;
        self.ended = true;
        Ok(())
    }

    async fn run(&mut self, statement: &'static str) -> sqlx::Result<()> {
        let statement = sqlx::raw_sql(statement);
        statement.execute(&mut *self.connection).await?;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.close_on_drop();
        }
    }
}
