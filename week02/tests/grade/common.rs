//! Creates an empty database for a test, and removes it when the test ends.

#![allow(dead_code, unreachable_pub, reason = "no grader uses every item")]

use std::error::Error;
use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{iter, thread};

use lab::servers::Postgres;
use sqlx::AnyPool;
use sqlx::any::{AnyPoolOptions, install_default_drivers};
use tempfile::TempDir;
use week02::db;

/// How long a test waits for a free connection. One that is not free by then
/// has leaked.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// A database that a test owns. Drop its pools first.
pub struct Database {
    url: String,
    storage: Storage,
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
        Self { url, storage: Storage::File(dir) }
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
        Self { url: server.url(), storage: Storage::Server(server) }
    }

    /// Opens a pool.
    pub async fn pool(
        &self,
        max_connections: u32,
        acquire_timeout: Duration,
    ) -> AnyPool {
        // A test's data need not survive a crash.
        let setup = match self.storage {
            Storage::File(_) => "PRAGMA synchronous = OFF",
            Storage::Server(_) => "SELECT 1",
        };
        self.pool_after(max_connections, acquire_timeout, setup).await
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

    /// Removes the tables of a Postgres server, for the next part of a test.
    pub async fn clear(&self) {
        let pool = self.pool(1, ACQUIRE_TIMEOUT).await;
        prepare(&pool, &["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"])
            .await;
    }

    /// Opens a pool whose first connection breaks when it has received `bytes`
    /// bytes from the Postgres server. The count is what it has received.
    pub fn pool_that_breaks_after(
        &self,
        bytes: usize,
    ) -> (AnyPool, Arc<AtomicUsize>) {
        let Storage::Server(server) = &self.storage else {
            panic!("expected a Postgres server")
        };
        let (address, received) = proxy(server.socket(), bytes)
            .expect("a proxy can be started on a free port");
        let url =
            format!("postgres://postgres@{address}/postgres?sslmode=disable");
        install_default_drivers();
        (AnyPool::connect_lazy(&url).expect("a valid URL"), received)
    }

    /// Waits until no connection of `pool`, which has one connection, is in a
    /// transaction. `other` is another pool for this database.
    ///
    /// The pool takes a connection back in a task of its own.
    pub async fn assert_no_transaction(&self, pool: &AnyPool, other: &AnyPool) {
        if let Storage::Server(_) = self.storage {
            let count = "SELECT count(*) FROM pg_stat_activity \
                         WHERE state LIKE 'idle in transaction%'";
            let start = Instant::now();
            loop {
                let open = sqlx::query_scalar::<_, i64>(count).fetch_one(other);
                let open = open.await.expect("the server counts transactions");
                if open == 0 {
                    break;
                }
                assert!(
                    start.elapsed() < ACQUIRE_TIMEOUT,
                    "expected no open transaction in the pool, found {open}"
                );
            }
        }
        // SQLite refuses a BEGIN within a transaction.
        let begin = sqlx::raw_sql("BEGIN; ROLLBACK").execute(pool).await;
        begin.expect("expected a free connection, and no open transaction");
    }

    /// Creates the tables of week 2, still empty, and returns a pool.
    pub async fn with_tables(&self) -> AnyPool {
        let pool = self.pool(2, ACQUIRE_TIMEOUT).await;
        db::create_tables(&pool).await.expect("the tables do not exist yet");
        pool
    }
}

/// An account to insert: its key, its name and its team.
pub type Row = (i64, String, String);

/// Texts that a query confuses with another one if it pastes the text into its
/// SQL, trims it, shortens it, or compares it as a pattern or without case.
pub const TEXTS: [&str; 25] = [
    "red",
    "RED",
    "redder",
    "r_d",
    "r%",
    " red",
    "red ",
    "re\nd",
    "red\u{301}",
    "r\u{e9}d",
    "re\u{301}d",
    "\u{7ea2}\u{961f}",
    "\u{1f534}",
    "",
    " ",
    "%",
    "' OR 'a' = 'a",
    "\"red\"",
    "\\",
    "$1",
    "?",
    "NULL",
    "[deleted]",
    "0",
    concat!(
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef!",
    ),
];

/// The number of accounts in the first teams of [`rows`].
const SIZES: [usize; 5] = [1_500, 130, 17, 2, 1];

/// Returns accounts for every text as a team, in no order, with keys from the
/// whole domain. A team without accounts is not among them.
pub fn rows() -> Vec<Row> {
    let sizes = SIZES.into_iter().chain(iter::repeat(3));
    let teams = TEXTS.into_iter().zip(sizes);
    let teams = teams.flat_map(|(team, size)| iter::repeat_n(team, size));
    let rows = teams.enumerate().map(|(n, team)| {
        let name = match (TEXTS.get(n), TEXTS[n % TEXTS.len()]) {
            (Some(&text), _) => text.to_owned(),
            // Longer than 1,000 characters.
            (None, "") => format!("{n}").repeat(500),
            (None, text) => format!("{text} {n}"),
        };
        (key(n as i64), name, team.to_owned())
    });
    rows.collect()
}

/// Returns the `n`th key. The keys are different, and their order is not that of
/// `n`.
fn key(n: i64) -> i64 {
    const MOST: i64 = i64::MAX;
    const KEYS: [i64; 12] = [
        3,
        3 + (1 << 32),
        i64::MIN,
        MOST,
        -1,
        1 << 31,
        0,
        -3,
        MOST - 1,
        -(1 << 31) - 1,
        10,
        9,
    ];
    let key = KEYS.get(n as usize).copied();
    // 7,919 is a prime number, and larger than the number of accounts.
    key.unwrap_or_else(|| 100 + n * 4_001 % 7_919)
}

/// Inserts accounts, with the columns of a table that lists them in another
/// order than the stub.
pub async fn insert(pool: &AnyPool, rows: &[Row]) {
    let table = "CREATE TABLE accounts (team TEXT NOT NULL, \
                 name TEXT NOT NULL UNIQUE, id BIGINT PRIMARY KEY)";
    prepare(pool, &[table]).await;
    for rows in rows.chunks(100) {
        let values = (0..rows.len()).map(|n| {
            format!("(${}, ${}, ${})", 3 * n + 1, 3 * n + 2, 3 * n + 3)
        });
        let values = values.collect::<Vec<_>>().join(", ");
        let insert =
            format!("INSERT INTO accounts (id, name, team) VALUES {values}");
        let mut insert = sqlx::query(sqlx::AssertSqlSafe(insert));
        for (id, name, team) in rows {
            insert = insert.bind(id).bind(name).bind(team);
        }
        insert.execute(pool).await.unwrap();
    }
}

/// Starts a server that passes bytes on to the socket, and closes the first
/// connection when it has passed `limit` bytes back. Returns its address and the
/// number of bytes that it has passed back on that connection.
fn proxy(
    socket: PathBuf,
    limit: usize,
) -> io::Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let passed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&passed);
    thread::spawn(move || {
        let others = iter::repeat_with(|| (usize::MAX, Arc::default()));
        let limits = iter::once((limit, count)).chain(others);
        for (client, (limit, count)) in listener.incoming().zip(limits) {
            let client = client?;
            let server = UnixStream::connect(&socket)?;
            thread::spawn(move || pass_bytes(&client, &server, limit, &count));
        }
        io::Result::Ok(())
    });
    Ok((address, passed))
}

/// Passes bytes between the two streams until one of them is closed, or `limit`
/// bytes came back from the server.
fn pass_bytes(
    mut client: &TcpStream,
    mut server: &UnixStream,
    limit: usize,
    count: &AtomicUsize,
) {
    thread::scope(|scope| {
        scope.spawn(move || {
            // An error means that one side has closed the connection.
            let _ = io::copy(&mut client, &mut server);
            let _ = server.shutdown(Shutdown::Both);
        });
        let mut buffer = [0; 4096];
        loop {
            let left = limit - count.load(Relaxed);
            let most = left.min(buffer.len());
            let read = server.read(&mut buffer[..most]).unwrap_or(0);
            count.fetch_add(read, Relaxed);
            if read == 0 || client.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    });
}

/// Asserts that the items are equal. The message shows the first difference.
#[track_caller]
pub fn assert_items<T: Debug + PartialEq<U>, U: Debug>(
    seen: &[T],
    expected: &[U],
    what: &str,
) {
    let (len, right) = (seen.len(), expected.len());
    for n in 0..len.max(right) {
        let (seen, expected) = (seen.get(n), expected.get(n));
        let equal = seen.zip(expected).is_some_and(|(a, b)| a == b);
        assert!(
            equal,
            "{what}: expected {right} items, got {len}; item {n}: expected \
             {expected:?}, got {seen:?}"
        );
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
