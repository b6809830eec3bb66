//! A database for each test, empty, and gone when the test ends.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "shared by graders, none of which needs all of it"
)]

use std::error::Error;
use std::iter;
use std::time::Duration;

use lab::servers::Postgres;
use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;
use tempfile::TempDir;
use week02::db;

/// Whoever waits longer for a connection waits for ever.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the tables are. Dropped last, after its pools.
pub struct Database {
    url: String,
    _keep: Keep,
}

enum Keep {
    File(TempDir),
    Server(Postgres),
}

impl Database {
    /// A file of one's own.
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the database");
        let file = dir.path().join("test.db");
        let url = format!("sqlite://{}?mode=rwc", file.display());
        Self { url, _keep: Keep::File(dir) }
    }

    /// A server of one's own.
    pub fn postgres() -> Self {
        let server = Postgres::start().unwrap_or_else(|error| {
            let chain = iter::successors(error.source(), |&it| it.source());
            let causes: String = chain.map(|it| format!(": {it}")).collect();
            panic!("{error}{causes}")
        });
        Self { url: server.url(), _keep: Keep::Server(server) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Up to `max_connections` of them.
    pub async fn pool(
        &self,
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> AnyPool {
        self.pool_after(max_connections, acquire_timeout, "SELECT 1").await
    }

    /// Likewise, and runs `setup` on every new connection.
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
        db::connect(&self.url, options).await.expect("the database opens")
    }

    /// A pool over the tables of week 2, still empty.
    pub async fn with_tables(&self) -> AnyPool {
        let pool = self.pool(2, ACQUIRE_TIMEOUT).await;
        db::create_tables(&pool).await.expect("the tables are new");
        pool
    }
}

/// Runs each statement in turn: what a test needs before it starts.
pub async fn prepare(pool: &AnyPool, statements: &[&'static str]) {
    for statement in statements {
        if let Err(error) = sqlx::query(*statement).execute(pool).await {
            panic!("{statement}: {error}");
        }
    }
}

/// The error of type `E` among `error` and all that caused it.
pub fn find_cause<'a, E: Error + 'static>(
    error: &'a (dyn Error + 'static),
) -> Option<&'a E> {
    iter::successors(Some(error), |&it| it.source())
        .find_map(|it| it.downcast_ref())
}
