//! The tables of the comment service, as far as week 2 knows them.

use sqlx::AnyPool;
use sqlx::any::{AnyPoolOptions, install_default_drivers};

/// Opens `sqlite://…` or `postgres://…`.
pub async fn connect(
    url: &str,
    options: AnyPoolOptions,
) -> sqlx::Result<AnyPool> {
    install_default_drivers();
    options.connect(url).await
}

/// Makes the tables in an empty database.
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
