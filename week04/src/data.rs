//! The data layer: stores subjects and comments in SQLite or Postgres.

use std::time::Duration;

use sqlx::any::{AnyPoolOptions, install_default_drivers};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AnyPool, SqlSafeStr as _};
use url::Url;
use week02::classify::{Class, classify};
use week04_biz::StorageError;

pub use self::repository::SqlRepository;
pub use self::transaction::Transaction;

mod repository;
mod transaction;

/// The pool of connections to one database.
#[derive(Debug, Clone)]
pub struct Database {
    pool: AnyPool,
    /// The statement that begins a transaction that writes.
    begin: &'static str,
}

/// The options of [`Database::open`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of connections.
    pub max_connections: u32,
    /// The longest wait for a free connection.
    pub acquire_timeout: Duration,
}

impl Database {
    /// Opens a pool for a `sqlite://…` or `postgres://…` URL, and brings the
    /// tables up to date.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be reached, or if a migration
    /// fails.
    pub async fn open(
        url: &str,
        password: Option<&str>,
        limits: Limits,
    ) -> sqlx::Result<Self> {
        install_default_drivers();
        let mut url = Url::parse(url)
            .map_err(|error| sqlx::Error::Configuration(error.into()))?;
        let sqlite = url.scheme() == "sqlite";
        if sqlite && url.query().is_none() {
            url.set_query(Some("mode=rwc")); // creates a missing file
        }
        if let Some(password) = password {
            // Fails for a URL without a host, which needs no password.
            let _ = url.set_password(Some(password));
        }
        let options = AnyPoolOptions::new()
            .max_connections(limits.max_connections)
            .acquire_timeout(limits.acquire_timeout)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if sqlite {
                        sqlx::raw_sql(SQLITE_SETUP).execute(connection).await?;
                    }
                    Ok(())
                })
            });
        let pool = options.connect(url.as_str()).await?;
        let script = if sqlite {
            include_str!("../migrations/sqlite/1_comments.sql")
        } else {
            include_str!("../migrations/postgres/1_comments.sql")
        };
        let migrated = migrator(script).run(&pool).await;
        if let Err(error) = migrated {
            pool.close().await;
            return Err(error.into());
        }
        // SQLite refuses a write in a transaction that began with a read, if
        // another connection has written since. IMMEDIATE waits instead.
        let begin = if sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        Ok(Self { pool, begin })
    }

    /// Begins a transaction that writes.
    ///
    /// # Errors
    ///
    /// Returns an error if no connection becomes free, or if the database does
    /// not answer.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        Transaction::begin(&self.pool, self.begin).await
    }

    /// Returns the pool, for statements outside a transaction.
    #[must_use]
    pub fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Waits until every connection is returned, and closes them.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Readers do not wait for a writer, a writer waits up to five seconds for
/// another one, and references are checked.
const SQLITE_SETUP: &str = "PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA busy_timeout = 5000;
    PRAGMA foreign_keys = ON;";

fn migrator(script: &'static str) -> Migrator {
    let up = MigrationType::Simple;
    let script = script.into_sql_str();
    let comments = Migration::new(1, "comments".into(), up, script, false);
    Migrator::with_migrations(vec![comments])
}

/// Says what the business layer can do about a driver's error.
pub(crate) fn storage_error(error: sqlx::Error) -> StorageError {
    match classify(&error) {
        Class::Busy | Class::Lost | Class::TimedOut => {
            StorageError::Unavailable(error.into())
        }
        Class::Conflict
        | Class::Rejected
        | Class::Corrupt
        | Class::Unexpected => StorageError::Failed(error.into()),
    }
}
