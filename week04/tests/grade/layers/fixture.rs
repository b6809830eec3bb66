//! A database for each test, and its view of the rows.

use std::error::Error as _;
use std::time::Duration;

use lab::servers::Postgres;
use sqlx::{AnyPool, AssertSqlSafe};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;
use week04::data::{Database, Limits};
use week04::layers::biz::LikeRepository as _;
use week04::layers::data::SqlLikes;
use week04_biz::{CommentId, StorageError, SubjectId, UserId};

/// The result of `add`.
pub(super) type Added = Result<Option<i64>, StorageError>;

/// A connection that is not free by then has leaked.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(4);

/// The longest time that one call may take.
const LIMIT: Duration = Duration::from_secs(7);

/// Comments with their subject. The ids fit in no smaller type than `i64`.
pub(super) const COMMENTS: [(i64, &str); 6] = [
    (1, "rust"),
    (2, "rust"),
    (1 << 32 | 1, "rust"),
    (-3, "go"),
    (i64::MAX, "go"),
    (7, "go"),
];

/// Deletes comments, at a time in microseconds.
pub(super) const DELETE: &str =
    "UPDATE comment_index SET delete_time = 1700000000000000";

pub(super) fn subject(id: &str) -> SubjectId {
    SubjectId::new(id).expect("a valid id")
}

/// A database with [`COMMENTS`], and a pool that the subject does not use.
pub(super) struct Fixture {
    pub(super) database: Database,
    pub(super) observer: AnyPool,
    likes: SqlLikes,
    server: Option<Postgres>,
    _dir: Option<TempDir>,
}

fn limits(max_connections: u32, acquire_timeout: Duration) -> Limits {
    Limits { max_connections, acquire_timeout }
}

fn start() -> Postgres {
    Postgres::start().unwrap_or_else(|error| {
        let cause = error.source().map(ToString::to_string);
        panic!("{error}: {}", cause.unwrap_or_default())
    })
}

impl Fixture {
    /// Creates an SQLite database in a new file.
    pub(super) async fn sqlite(connections: u32) -> Self {
        Self::in_file(connections, ACQUIRE_TIMEOUT).await
    }

    /// Creates an SQLite database with one connection, for which no caller
    /// waits long.
    pub(super) async fn impatient_sqlite() -> Self {
        Self::in_file(1, Duration::from_secs(1)).await
    }

    /// Starts a Postgres server.
    pub(super) async fn postgres(connections: u32) -> Self {
        let server = start();
        let url = server.url();
        let limits = limits(connections, ACQUIRE_TIMEOUT);
        let fixture = Self::open(&url, &url, limits).await;
        Self { server: Some(server), ..fixture }
    }

    /// Starts a Postgres server, and a task between it and the only connection
    /// of the pool. Whenever a call waits for the server, the future is
    /// pending: a reply cannot come before the task has run.
    pub(super) async fn postgres_behind_a_task() -> Self {
        let server = start();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = UnixListener::bind(dir.path().join(".s.PGSQL.5432"));
        let socket = socket.expect("a new socket");
        let to = server.socket();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = socket.accept().await {
                let to = UnixStream::connect(&to).await;
                let mut server = to.expect("the server is running");
                tokio::spawn(async move {
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        let host = dir.path().to_string_lossy().replace('/', "%2F");
        let url = format!("postgres://postgres@{host}/postgres");
        let limits = limits(1, ACQUIRE_TIMEOUT);
        let fixture = Self::open(&url, &server.url(), limits).await;
        Self { server: Some(server), _dir: Some(dir), ..fixture }
    }

    async fn in_file(connections: u32, acquire_timeout: Duration) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let limits = limits(connections, acquire_timeout);
        Self { _dir: Some(dir), ..Self::open(&url, &url, limits).await }
    }

    async fn open(url: &str, observer_url: &str, pool: Limits) -> Self {
        let open = async |url, limits| {
            let database = Database::open(url, None, limits).await;
            database.expect("a new database, or the same again")
        };
        let database = open(url, pool).await;
        let observer = open(observer_url, limits(2, ACQUIRE_TIMEOUT)).await;
        let observer = observer.pool().clone();
        let likes = SqlLikes::new(database.clone());
        let fixture =
            Self { database, observer, likes, server: None, _dir: None };
        for (id, subject) in COMMENTS {
            fixture.create_comment(id, subject).await;
        }
        fixture
    }

    /// Creates a comment of `ann`. On `rust`, all but the first are replies.
    pub(super) async fn create_comment(&self, id: i64, subject: &str) {
        let insert = format!(
            "INSERT INTO subjects (id, title, create_time) \
             VALUES ('{subject}', 'title', 1) ON CONFLICT DO NOTHING"
        );
        self.run(&insert).await;
        let reply_to = i64::from(subject == "rust" && id != 1);
        let insert = format!(
            "INSERT INTO comment_index (id, subject_id, author, reply_to, \
             request_id, create_time, update_time) \
             VALUES ({id}, '{subject}', 'ann', {reply_to}, '{id}', 1, 1)"
        );
        self.run(&insert).await;
    }

    /// Stops the Postgres server.
    pub(super) fn stop_server(&mut self) {
        self.server = None;
    }

    /// Runs a statement of the test itself.
    pub(super) async fn run(&self, statement: &str) {
        let sql = AssertSqlSafe(statement.to_owned());
        let run = sqlx::raw_sql(sql).execute(&self.observer).await;
        run.unwrap_or_else(|error| panic!("`{statement}` failed: {error}"));
    }

    /// Calls `add` of the subject: always of the same `SqlLikes`.
    pub(super) async fn add(&self, on: &str, id: i64, user: &str) -> Added {
        let (on, id) = (subject(on), CommentId(id));
        let user = UserId::new("user", user).expect("a valid id");
        let added = timeout(LIMIT, self.likes.add(&on, id, &user)).await;
        added.expect("`add` returns within 7 s")
    }

    /// Starts one task for each of `users`, with a `SqlLikes` of its own.
    pub(super) fn spawn_adds(
        &self,
        id: i64,
        users: &[String],
    ) -> JoinSet<Added> {
        let add = |user: &String| {
            let likes = SqlLikes::new(self.database.clone());
            let (on, id) = (subject("rust"), CommentId(id));
            let user = UserId::new("user", user).expect("a valid id");
            async move {
                let added = timeout(LIMIT, likes.add(&on, id, &user)).await;
                added.expect("`add` returns within 7 s")
            }
        };
        users.iter().map(add).collect()
    }

    /// Runs `changes` in a transaction, starts the calls, and commits the
    /// transaction when the calls wait for it.
    pub(super) async fn adds_during(
        &self,
        changes: &str,
        id: i64,
        users: &[String],
    ) -> Vec<Added> {
        let mut gate = self.observer.begin().await.expect("an idle pool");
        let changes = AssertSqlSafe(changes.to_owned());
        let changed = sqlx::raw_sql(changes).execute(&mut *gate).await;
        changed.expect("valid statements");
        let adds = self.spawn_adds(id, users);
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE wait_event_type = 'Lock'";
        let (mut last, mut unchanged) = (0, 0);
        while last < users.len() as i64 && unchanged < 300 {
            let waiting = sqlx::query_scalar(waiting);
            let now = waiting.fetch_one(&self.observer).await.expect("a view");
            unchanged = if now == last { unchanged + 1 } else { 0 };
            last = now;
        }
        gate.commit().await.expect("an open transaction");
        adds.join_all().await
    }

    /// Returns the number of rows in `likes`, and `like_count`.
    pub(super) async fn counts(&self, id: i64) -> (i64, i64) {
        let select = "SELECT (SELECT count(*) FROM likes WHERE comment_id = $1), \
                      like_count FROM comment_index WHERE id = $1";
        let row = sqlx::query_as(select).bind(id).fetch_one(&self.observer);
        row.await.expect("the row of the comment")
    }

    /// Returns what a like does not change: the subjects with their comments.
    pub(super) async fn other_columns(
        &self,
    ) -> Vec<(String, i64, i64, String, String, i64, i64, i64, i64, i64)> {
        let select = "SELECT s.id, comment_count, COALESCE(i.id, 0), \
                      COALESCE(author, ''), COALESCE(request_id, ''), \
                      COALESCE(reply_to, 0), COALESCE(reply_count, 0), \
                      COALESCE(version, 0), COALESCE(update_time, 0), \
                      COALESCE(delete_time, 0) FROM subjects s \
                      LEFT JOIN comment_index i ON subject_id = s.id \
                      ORDER BY s.id, i.id";
        let rows = sqlx::query_as(select).fetch_all(&self.observer);
        rows.await.expect("the rows of the comments")
    }

    /// Waits until the only connection is back in the pool.
    pub(super) async fn pool_is_idle(&self) {
        let pool = self.database.pool();
        let idle = async {
            while pool.num_idle() < 1 {
                yield_now().await;
            }
        };
        assert!(
            timeout(LIMIT, idle).await.is_ok(),
            "expected the only connection back in the pool after `add` has \
             returned: it is in use, or was closed by the drop of a \
             transaction without `rollback`"
        );
    }

    /// Checks that a write over the only connection of the pool is stored, that
    /// the comment is counted right, and that no transaction is open.
    pub(super) async fn next_caller_is_served(&self, n: i64, case: &str) {
        let insert = "INSERT INTO subjects (id, title, create_time) \
                      VALUES ($1, 'probe', 1)";
        let insert = sqlx::query(insert).bind(format!("probe-{n}"));
        let written = insert.execute(self.database.pool()).await;
        assert!(written.is_ok(), "the next write, after {case}: {written:?}");
        let select = "SELECT count(*) FROM subjects WHERE title = 'probe'";
        let probes = sqlx::query_scalar(select).fetch_one(&self.observer);
        let probes: i64 = probes.await.expect("a number");
        assert_eq!(probes, n, "successful writes of others, after {case}");
        let (likes, like_count) = self.counts(1).await;
        assert_eq!(like_count, likes, "like_count, after {case}");
        if self.server.is_some() {
            let open = "SELECT count(*) FROM pg_stat_activity \
                        WHERE state LIKE 'idle in transaction%'";
            let is_closed = async || loop {
                let open = sqlx::query_scalar(open).fetch_one(&self.observer);
                if open.await.is_ok_and(|open: i64| open == 0) {
                    break;
                }
            };
            let closed = timeout(Duration::from_secs(3), is_closed()).await;
            assert!(closed.is_ok(), "a transaction is open after {case}");
        }
    }
}
