//! A database for each test, and its view of the rows.

use std::time::Duration;

use lab::servers::Postgres;
use sqlx::{AnyPool, AssertSqlSafe};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;
use week04::data::{Database, Limits};
use week04::layers::biz::LikeRepository as _;
use week04::layers::data::SqlLikes;
use week04_biz::{CommentId, StorageError, SubjectId, UserId};

/// The result of `add`.
pub(super) type Added = Result<Option<i64>, StorageError>;

/// A connection that is not free by then has leaked.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time that the calls of a test may take.
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

pub(super) fn subject(id: &str) -> SubjectId {
    SubjectId::new(id).expect("a valid id")
}

/// A database with [`COMMENTS`], and a pool that the subject does not use.
pub(super) struct Fixture {
    pub(super) database: Database,
    pub(super) observer: AnyPool,
    server: Option<Postgres>,
    _dir: Option<TempDir>,
}

impl Fixture {
    pub(super) async fn sqlite(connections: u32) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        Self::open(&url, connections, None, Some(dir)).await
    }

    pub(super) async fn postgres(connections: u32) -> Self {
        let server =
            Postgres::start().unwrap_or_else(|error| panic!("{error}"));
        let url = server.url();
        Self::open(&url, connections, Some(server), None).await
    }

    async fn open(
        url: &str,
        connections: u32,
        server: Option<Postgres>,
        dir: Option<TempDir>,
    ) -> Self {
        let open = async |max_connections| {
            let acquire_timeout = ACQUIRE_TIMEOUT;
            let limits = Limits { max_connections, acquire_timeout };
            Database::open(url, None, limits).await.expect("a new database")
        };
        let (database, observer) = (open(connections).await, open(2).await);
        let observer = observer.pool().clone();
        let fixture = Self { database, observer, server, _dir: dir };
        for (id, subject) in COMMENTS {
            fixture
                .run(&format!(
                    "INSERT INTO subjects (id, title, create_time) \
                 VALUES ('{subject}', 'title', 1) ON CONFLICT DO NOTHING"
                ))
                .await;
            fixture
                .run(&format!(
                    "INSERT INTO comment_index \
                 (id, subject_id, author, create_time, update_time) \
                 VALUES ({id}, '{subject}', 'zoe', 1, 1)"
                ))
                .await;
        }
        fixture
    }

    /// Runs a statement of the test itself.
    pub(super) async fn run(&self, statement: &str) {
        let sql = AssertSqlSafe(statement.to_owned());
        let run = sqlx::raw_sql(sql).execute(&self.observer).await;
        run.unwrap_or_else(|error| panic!("`{statement}` failed: {error}"));
    }

    /// Calls `add` of the subject.
    pub(super) async fn add(&self, on: &str, id: i64, user: &str) -> Added {
        let user = UserId::new("user", user).expect("a valid id");
        let likes = SqlLikes::new(self.database.clone());
        let on = subject(on);
        let added = likes.add(&on, CommentId(id), &user);
        timeout(LIMIT, added).await.expect("no end within 7 s")
    }

    /// Starts one task for each of `users`.
    pub(super) fn spawn_adds(
        &self,
        id: i64,
        users: &[String],
    ) -> JoinSet<Added> {
        let likes = SqlLikes::new(self.database.clone());
        let add = |user: &String| {
            let user = UserId::new("user", user).expect("a valid id");
            let likes = likes.clone();
            async move { likes.add(&subject("rust"), CommentId(id), &user).await }
        };
        users.iter().map(add).collect()
    }

    /// Runs `update` on the comment, starts the calls, and commits the update
    /// when the calls wait for it.
    pub(super) async fn adds_during(
        &self,
        update: &str,
        id: i64,
        users: &[String],
    ) -> Vec<Added> {
        let mut gate = self.observer.begin().await.expect("an idle pool");
        let update = AssertSqlSafe(format!("{update} WHERE id = {id}"));
        sqlx::raw_sql(update)
            .execute(&mut *gate)
            .await
            .expect("a valid update");
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
        let adds = timeout(LIMIT, adds.join_all()).await;
        adds.expect("the calls end within 7 s")
    }

    /// Returns the number of rows in `likes`, and `like_count`.
    pub(super) async fn counts(&self, id: i64) -> (i64, i64) {
        let select = "SELECT (SELECT count(*) FROM likes WHERE comment_id = $1), \
                      like_count FROM comment_index WHERE id = $1";
        let row = sqlx::query_as(select).bind(id).fetch_one(&self.observer);
        row.await.expect("the row of the comment")
    }

    /// Returns what a like does not change.
    pub(super) async fn other_columns(
        &self,
    ) -> Vec<(i64, String, i64, i64, i64, i64)> {
        let select = "SELECT i.id, author, reply_count, version, update_time, \
                      comment_count FROM comment_index i \
                      JOIN subjects s ON subject_id = s.id ORDER BY i.id";
        let rows = sqlx::query_as(select).fetch_all(&self.observer);
        rows.await.expect("the rows of the comments")
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
