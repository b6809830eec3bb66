//! The tables of the comment service that week 2 uses, and precautions for its
//! connections.

use sqlx::any::{
    AnyArguments, AnyPoolOptions, AnyRow, install_default_drivers,
};
use sqlx::pool::PoolConnection;
use sqlx::query::QueryAs;
use sqlx::{Any, AnyPool, Connection, FromRow, Transaction};

/// A connection for transactions, from a pool that may lack the hook of
/// [`connect`]. The connection is closed if a `begin` has not returned a
/// transaction, because BEGIN may have opened one.
#[derive(Debug)]
pub struct Session {
    connection: PoolConnection<Any>,
    may_be_in_transaction: bool,
}

/// Opens a pool for a `sqlite://…` or `postgres://…` URL.
///
/// A future may be dropped at any await, for instance when a client
/// disconnects. If sqlx 0.9 has just sent BEGIN to Postgres then, the connection
/// returns to the pool with an open transaction. The next borrower's write
/// succeeds, and is never committed. So this pool ends an open transaction when
/// a connection returns: the hook replaces `after_release` of the options.
/// SQLite's driver does that itself, for a transaction that it has begun.
pub async fn connect(
    url: &str,
    options: AnyPoolOptions,
) -> sqlx::Result<AnyPool> {
    install_default_drivers();
    let options = options.after_release(|connection, _| {
        Box::pin(async move {
            if connection.backend_name() == "PostgreSQL" {
                // Alone, ROLLBACK would log a warning on each release. If BEGIN
                // fails, as it does in an aborted transaction, the pool closes
                // the connection.
                sqlx::raw_sql("BEGIN; ROLLBACK").execute(connection).await?;
            }
            Ok(true)
        })
    });
    options.connect(url).await
}

impl Session {
    /// Takes a connection from `pool`.
    pub async fn acquire(pool: &AnyPool) -> sqlx::Result<Self> {
        let connection = pool.acquire().await?;
        Ok(Self { connection, may_be_in_transaction: false })
    }

    /// Begins a transaction, which is rolled back when it is dropped.
    pub async fn begin(&mut self) -> sqlx::Result<Transaction<'_, Any>> {
        self.may_be_in_transaction = true;
        let transaction = Connection::begin(&mut *self.connection).await?;
        // From here on, the driver knows the transaction, and ends it.
        self.may_be_in_transaction = false;
        Ok(transaction)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.may_be_in_transaction {
            self.connection.close_on_drop();
        }
    }
}

/// Returns all rows of a query.
///
/// When a migration has changed the type of a column, Postgres refuses a
/// statement that a connection prepared before: 0A000, "cached plan must not
/// change result type". The connection keeps the statement, so it would fail
/// again and again. It is closed, and a retry prepares the statement anew.
pub async fn fetch_all<T>(
    pool: &AnyPool,
    query: QueryAs<'_, Any, T, AnyArguments>,
) -> sqlx::Result<Vec<T>>
where
    T: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
{
    let mut connection = pool.acquire().await?;
    let rows = query.fetch_all(&mut *connection).await;
    if let Err(sqlx::Error::Database(error)) = &rows
        && error.code().as_deref() == Some("0A000")
    {
        connection.close_on_drop();
    }
    rows
}

/// Returns the first row of a query, or the error `RowNotFound`.
///
/// Through `Any`, the method `fetch_one` returns at the first row of a response
/// of Postgres, and so does `fetch_optional`. An error that follows the row is
/// lost. This function reads the whole response.
pub async fn fetch_one<T>(
    pool: &AnyPool,
    query: QueryAs<'_, Any, T, AnyArguments>,
) -> sqlx::Result<T>
where
    T: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
{
    let rows = fetch_all(pool, query).await?;
    rows.into_iter().next().ok_or(sqlx::Error::RowNotFound)
}

/// Creates the tables in an empty database.
pub async fn create_tables(pool: &AnyPool) -> sqlx::Result<()> {
    for table in [
        "CREATE TABLE accounts (
            id BIGINT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            team TEXT NOT NULL
        )",
        "CREATE TABLE audit (
            account BIGINT PRIMARY KEY,
            entry TEXT NOT NULL
        )",
    ] {
        sqlx::query(table).execute(pool).await?;
    }
    Ok(())
}
