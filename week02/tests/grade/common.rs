//! Creates an empty database for a test, and removes it when the test ends.

#![allow(dead_code, unreachable_pub, reason = "no grader uses every item")]

use std::error::Error;
use std::iter;
use std::time::Duration;

use lab::servers::Postgres;
use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;
use tempfile::TempDir;
use week02::db;

/// How long a test waits for a free connection. One that is not free by then
/// has leaked.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// A database that a test owns. Drop its pools first.
pub struct Database {
    url: String,
    _storage: Storage,
}

/// Removed on drop.
enum Storage {
    File(TempDir),
    Server(Postgres),
}

impl Database {
    /// Creates an SQLite database in a new file.
    pub fn sqlite() -> Self {
        let dir =
            tempfile::tempdir().expect("a temporary directory can be created");
        let file = dir.path().join("test.db");
        let url = format!("sqlite://{}?mode=rwc", file.display());
        Self { url, _storage: Storage::File(dir) }
    }

    /// Starts a Postgres server.
    pub fn postgres() -> Self {
        let server = Postgres::start().unwrap_or_else(|error| {
            let chain =
                iter::successors(error.source(), |&error| error.source());
            let causes: String =
                chain.map(|cause| format!(": {cause}")).collect();
            panic!("{error}{causes}")
        });
        Self { url: server.url(), _storage: Storage::Server(server) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Opens a pool.
    pub async fn pool(
        &self,
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> AnyPool {
        self.pool_after(max_connections, acquire_timeout, "SELECT 1").await
    }

    /// Opens a pool that runs `setup` on every new connection.
    pub async fn pool_after(
        &self,
        max_connections: u32,
        acquire_timeout: Duration,
        setup: &'static str,
    ) -> AnyPool {
        let options = AnyPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(acquire_timeout)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    sqlx::query(setup).execute(connection).await?;
                    Ok(())
                })
            });
        db::connect(&self.url, options)
            .await
            .expect("the database can be opened")
    }

    /// Creates the tables of week 2, still empty, and returns a pool.
    pub async fn with_tables(&self) -> AnyPool {
        let pool = self.pool(2, ACQUIRE_TIMEOUT).await;
        db::create_tables(&pool).await.expect("the tables do not exist yet");
        pool
    }
}

/// Runs the statements that set up a test, in order.
pub async fn prepare(pool: &AnyPool, statements: &[&'static str]) {
    for statement in statements {
        if let Err(error) = sqlx::query(*statement).execute(pool).await {
            panic!("the setup statement `{statement}` failed: {error}");
        }
    }
}

/// Returns the first error of type `E` in the source chain of `error`, which
/// begins with `error` itself.
pub fn find_cause<'a, E: Error + 'static>(
    error: &'a (dyn Error + 'static),
) -> Option<&'a E> {
    iter::successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref())
}
