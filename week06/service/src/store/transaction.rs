//! A transaction that leaves nothing open when its future is dropped.

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool};

/// A transaction on a connection of a pool. If it is dropped before its end was
/// confirmed, the connection is closed, and the database rolls back.
///
/// It is tempting to use [`sqlx::Transaction`]. But sqlx 0.9.0 counts a
/// transaction of Postgres only after BEGIN is answered. If `begin` is dropped
/// before, the connection returns to the pool with an open transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    connection: PoolConnection<Any>,
    has_ended: bool,
}

impl Transaction {
    pub(super) async fn begin(
        pool: &AnyPool,
        statement: &'static str,
    ) -> sqlx::Result<Self> {
        let connection = pool.acquire().await?;
        // The guard exists before the statement is sent.
        let mut transaction = Self { connection, has_ended: false };
        let begun = transaction.run(statement).await;
        // If the database has refused, no transaction is open.
        transaction.has_ended = begun.as_ref().is_err_and(is_answer);
        begun.map(|()| transaction)
    }

    pub(super) fn connection(&mut self) -> &mut AnyConnection {
        &mut self.connection
    }

    pub(super) async fn commit(self) -> sqlx::Result<()> {
        self.end("COMMIT").await
    }

    pub(super) async fn rollback(self) -> sqlx::Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &'static str) -> sqlx::Result<()> {
        self.run(statement).await?;
        self.has_ended = true;
        Ok(())
    }

    async fn run(&mut self, statement: &'static str) -> sqlx::Result<()> {
        let statement = sqlx::raw_sql(statement);
        statement.execute(&mut *self.connection).await?;
        Ok(())
    }
}

/// Returns whether the database has answered, so that the connection is good.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some()
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.has_ended {
            self.connection.close_on_drop();
        }
    }
}
