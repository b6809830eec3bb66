//! The tables of the comment service that week 2 uses.

use sqlx::AnyPool;
use sqlx::any::{AnyPoolOptions, install_default_drivers};

/// Opens a pool for a `sqlite://…` or `postgres://…` URL.
pub async fn connect(
    url: &str,
    options: AnyPoolOptions,
) -> sqlx::Result<AnyPool> {
    install_default_drivers();
    options.connect(url).await
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
