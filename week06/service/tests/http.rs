//! The API over real sockets.

mod reading;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use lab::servers::{Postgres, Redis};
use serde_json::json;
use sqlx::raw_sql;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use week06_service::comment::{Comment, MAX_BODY, MAX_CHARS};
use week06_service::index::Lookup;
use week06_service::invalidation::Bus;
use week06_service::reads::{self, Reads};
use week06_service::service::{Config, Parts, Service, StopError};
use week06_service::store::Store;
use week06_service::writes::{
    Direct, Ids, Refresh, WriteError, Writes, now_ms,
};

use reading::{Counting, Database, Response, request, until};

/// All parts that need nothing but Rust.
const PARTS: Parts =
    Parts { local_cache: true, redis: false, singleflight: true, kafka: false };

struct App {
    service: Service,
    database: Arc<Counting>,
    _file: Arc<Database>,
}

impl App {
    async fn start() -> Self {
        Self::start_on(Arc::new(Database::new()), Bus::default()).await
    }

    async fn start_on(file: Arc<Database>, bus: Bus) -> Self {
        let config = Config {
            address: ([127, 0, 0, 1], 0).into(),
            database: file.url.clone(),
            redis: None,
            kafka: None,
            parts: PARTS,
            bus,
            node: 1,
        };
        let mut database = None;
        let service = Service::start_with(config, |store| {
            let counting = Counting::new(store);
            database = Some(Arc::clone(&counting));
            counting
        })
        .await
        .expect("it starts");
        let database = database.expect("`start_with` has called it");
        Self { service, database, _file: file }
    }

    async fn get(&self, path: &str) -> Response {
        request(self.service.address(), &format!("GET {path}"), "").await
    }

    async fn post(&self, body: &str) -> Response {
        let line = "POST /v1/subjects/7/comments";
        request(self.service.address(), line, body).await
    }

    /// Returns the ids of a page and its cursor.
    async fn page(&self, query: &str) -> (Vec<u64>, Option<String>) {
        let path = format!("/v1/subjects/7/comments{query}");
        let response = self.get(&path).await;
        assert_eq!(response.status, 200, "{response:?}");
        let comments = response.body["comments"].as_array().expect("a list");
        let ids = comments.iter().map(|c| c["id"].as_u64().expect("an id"));
        let next = response.body["next"].as_str().map(str::to_owned);
        (ids.collect(), next)
    }
}

fn new_comment(id: u64) -> String {
    json!({ "id": id, "author": 1, "text": "a comment" }).to_string()
}

#[tokio::test]
async fn an_accepted_comment_is_in_the_next_page() {
    let app = App::start().await;
    assert_eq!(app.page("").await, (vec![], None));
    let accepted = app.post(r#"{"author": 3, "text": "评论 🦀"}"#).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let id = accepted.body["id"].as_u64().expect("an id");
    let response = app.get("/v1/subjects/7/comments").await;
    let comment = &response.body["comments"][0];
    assert_eq!(comment["id"], id);
    assert_eq!(comment["author"], 3);
    assert_eq!(comment["text"], "评论 🦀");
    let created_ms = comment["created_ms"].as_u64().expect("a time");
    assert!(created_ms.abs_diff(now_ms()) < 60_000);
    assert_eq!(app.service.store().count(7).await.unwrap(), 1);
}

#[tokio::test]
async fn a_repeated_id_is_accepted_and_stored_once() {
    let app = App::start().await;
    for _ in 0..3 {
        assert_eq!(app.post(&new_comment(5)).await.status, 202);
    }
    assert_eq!(app.page("").await.0, [5]);
    assert_eq!(app.page("?author=1").await.0, [5]);
}

#[tokio::test]
async fn cursors_lead_through_all_comments_once() {
    let app = App::start().await;
    // Written at once, so that times are equal.
    let comments: Vec<Comment> =
        (0..120).map(|n| reading::comment_at(n, 1000 + n / 50)).collect();
    app.service.store().insert(&comments).await.expect("it is written");
    for limit in [1, 7, 20, 40, 50] {
        let mut seen = Vec::new();
        let mut query = format!("?limit={limit}");
        loop {
            let (ids, next) = app.page(&query).await;
            assert!(ids.len() <= limit);
            seen.extend(ids);
            let Some(next) = next else { break };
            query = format!("?limit={limit}&before={next}");
        }
        assert_eq!(seen, (0..120).rev().collect::<Vec<_>>(), "{limit}");
    }
    assert_eq!(app.page("").await.0.len(), 20);
    assert_eq!(app.page("?limit=4000000000").await.0.len(), 50);
}

#[tokio::test]
async fn authors_see_their_comments_before_they_are_written_and_then_once() {
    let app = App::start().await;
    let first = reading::comment(1);
    app.service.store().insert(&[first]).await.expect("it is written");
    // It is acknowledged, and the job has not written it yet.
    let own = reading::comment(2);
    app.service.api().own.remember(&own).await;
    assert_eq!(app.page("?author=1").await.0, [2, 1]);
    assert_eq!(app.page("?author=1&limit=1").await.0, [2]);
    assert_eq!(app.page("?author=1&before=1002-2").await.0, [1]);
    assert_eq!(app.page("?author=2").await.0, [1]);
    assert_eq!(app.page("").await.0, [1]);
    app.service.store().insert(&[own]).await.expect("it is written");
    app.service
        .api()
        .reads
        .forget(week06_service::invalidation::Change::Subject(7));
    assert_eq!(app.page("?author=1").await.0, [2, 1]);
    assert_eq!(app.page("?author=2").await.0, [2, 1]);
}

#[tokio::test]
async fn bad_input_is_answered_with_400_and_reaches_no_database() {
    let app = App::start().await;
    let path = |rest: &str| format!("/v1/subjects/{rest}");
    for rest in [
        "/comments",
        "seven/comments",
        "-1/comments",
        "18446744073709551616/comments",
        "18446744073709551615/comments",
        "%F0%9F%A6%80/comments",
        "7/comments?limit=0",
        "7/comments?limit=-1",
        "7/comments?limit=many",
        "7/comments?limit=99999999999999999999999",
        "7/comments?before=1000",
        "7/comments?before=a-b",
        "7/comments?before=1-2-3",
        "7/comments?before=-",
        "7/comments?author=me",
    ] {
        let response = app.get(&path(rest)).await;
        assert_eq!(response.status, 400, "{rest}: {response:?}");
    }
    let nul = json!({ "author": 1, "text": "a\0b" }).to_string();
    let long = "x".repeat(MAX_CHARS + 1);
    let long = json!({ "author": 1, "text": long }).to_string();
    for body in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"author": 1}"#,
        r#"{"author": 1, "text": 5}"#,
        r#"{"author": -1, "text": "a"}"#,
        r#"{"author": 9223372036854775808, "text": "a"}"#,
        r#"{"id": 9223372036854775808, "author": 1, "text": "a"}"#,
        &nul,
    ] {
        let response = app.post(body).await;
        let start: String = body.chars().take(60).collect();
        assert_eq!(response.status, 400, "{start}: {response:?}");
        assert!(response.body["error"].is_string(), "{start}: {response:?}");
    }
    assert_eq!(app.get("/").await.status, 404);
    assert_eq!(app.post(&long).await.status, 413);
    assert_eq!(app.database.count(), 0);
    assert_eq!(app.service.store().count(7).await.unwrap(), 0);
}

#[tokio::test]
async fn a_megabyte_in_the_path_or_the_body_is_refused() {
    let app = App::start().await;
    let megabyte = "7".repeat(1 << 20);
    let path = format!("/v1/subjects/{megabyte}/comments");
    let status = app.get(&path).await.status;
    // If the connection is reset, the status is lost.
    assert!([0, 414, 431].contains(&status), "{status}");
    // The longest path that hyper reads.
    let path = format!("/v1/subjects/{}/comments", &megabyte[..60_000]);
    assert_eq!(app.get(&path).await.status, 400);

    let body = json!({ "author": 1, "text": megabyte }).to_string();
    let status = app.post(&body).await.status;
    assert!([0, 413].contains(&status), "{status}");
    let mut body = new_comment(1);
    body.push_str(&" ".repeat(MAX_BODY - body.len()));
    assert_eq!(app.post(&format!("{body} ")).await.status, 413);
    assert_eq!(app.post(&body).await.status, 202);
    assert_eq!(app.page("").await.0, [1]);
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_no_query() {
    let app = App::start().await;
    app.database.open.send_replace(false);
    let request = "GET /v1/subjects/7/comments HTTP/1.1\r\nHost: a\r\n\r\n";
    for _ in 0..20 {
        let address = app.service.address();
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        until("the query runs", async || {
            app.service.api().reads.queries() == 1
        })
        .await;
        drop(stream);
        let dropped_at = Instant::now();
        until("the query has ended", async || {
            app.service.api().reads.queries() == 0
        })
        .await;
        let took = dropped_at.elapsed();
        let limit = Duration::from_secs(4);
        assert!(took < limit, "the query ran for {took:?}: the timeout is 5 s");
    }
    app.database.open.send_replace(true);
    assert_eq!(app.page("").await.0, [0_u64; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_disconnects_leaves_pages_that_are_right() {
    let app = App::start().await;
    for id in 0..100 {
        // The subject is hot, so its page is in the local cache.
        for _ in 0..3 {
            app.page("").await;
        }
        let body = new_comment(id);
        let request = format!(
            "POST /v1/subjects/7/comments HTTP/1.1\r\nHost: a\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let address = app.service.address();
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        for _ in 0..id % 10 {
            tokio::task::yield_now().await;
        }
        drop(stream);
    }
    // What is in the database is in the page.
    until("all writes have ended", async || {
        let stored = app.service.store().page(7, None, 50).await.unwrap();
        app.page("?limit=50").await.0 == reading::ids(&stored)
    })
    .await;
}

#[tokio::test]
async fn a_change_reaches_a_second_service() {
    let (file, bus) = (Arc::new(Database::new()), Bus::default());
    let first = App::start_on(Arc::clone(&file), bus.clone()).await;
    let second = App::start_on(file, bus).await;
    for _ in 0..100 {
        assert_eq!(second.page("").await.0, [0_u64; 0]);
    }
    assert!(second.database.count() < 60, "the local cache has the page");
    for id in 1..20 {
        assert_eq!(first.post(&new_comment(id)).await.status, 202);
        assert_eq!(first.page("?limit=1").await.0, [id]);
        until("the second service has it", async || {
            second.page("?limit=1").await.0 == [id]
        })
        .await;
    }
}

#[tokio::test]
async fn requests_in_flight_complete_when_the_service_stops() {
    let app = App::start().await;
    app.post(&new_comment(1)).await;
    app.database.open.send_replace(false);
    let address = app.service.address();
    let mut requests = JoinSet::new();
    for _ in 0..10 {
        requests.spawn(async move {
            request(address, "GET /v1/subjects/7/comments", "").await
        });
    }
    until("they wait", async || app.service.api().reads.counts().reads == 10)
        .await;
    let App { service, database, _file } = app;
    let stopped = tokio::spawn(service.stop());
    until("the port is closed", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    assert!(!stopped.is_finished());
    database.open.send_replace(true);
    for response in requests.join_all().await {
        assert_eq!(response.status, 200, "{response:?}");
    }
    stopped.await.expect("no panic").expect("it stops");
    assert!(database.queries.load(Relaxed) >= 1);
}

/// Asserts that a client may send its request again after a second.
fn assert_unavailable(response: &Response) {
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.head.contains("retry-after: 1\r\n"), "{response:?}");
    assert!(response.body["error"].is_string(), "{response:?}");
}

#[tokio::test]
async fn a_database_that_fails_is_answered_with_503() {
    let app = App::start().await;
    let drop_table = raw_sql("DROP TABLE comment");
    let pool = app.service.store().pool();
    drop_table.execute(pool).await.expect("it is dropped");
    for response in [
        app.get("/v1/subjects/7/comments").await,
        app.post(&new_comment(1)).await,
    ] {
        assert_unavailable(&response);
        let body = response.body.to_string();
        assert!(!body.contains("table"), "SQL in a response: {body}");
    }
    // A comment that was not accepted is not shown to its author either.
    assert_eq!(app.service.api().own.recent(1, 7).await, []);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_with_503() {
    let app = App::start().await;
    app.database.open.send_replace(false);
    tokio::time::pause(); // no limit takes time
    let response = app.get("/v1/subjects/7/comments");
    let response = tokio::time::timeout(Duration::from_secs(60), response);
    assert_unavailable(&response.await.expect("it is answered"));
}

#[tokio::test]
#[ignore = "needs redis-server and postgres"]
async fn a_page_is_deleted_if_the_commit_of_a_comment_is_not_confirmed() {
    let redis = Redis::start().expect("it starts");
    let index = reading::index(&redis.url()).await;
    let server = Postgres::start().expect("it starts");
    let store = Store::connect(&server.url()).await.expect("it is ready");
    let slow_commit = raw_sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON comment
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait();",
    );
    slow_commit.execute(store.pool()).await.expect("it is created");
    let reads = reads::Config {
        local_cache: None,
        singleflight: true,
        max_queries: NonZero::<u32>::MIN,
        max_waiting: 10,
    };
    let source = Arc::new(store.clone());
    let reads = Reads::new(source, Some(index.clone()), &reads);
    reads.page(7, None, 9).await.expect("it is read");
    assert!(matches!(index.page(7, None, 9).await, Lookup::Hit(_)));

    let refresh = Refresh::new(Some(index.clone()), reads, Bus::default());
    let writes = Writes::Direct(Direct::new(store.clone(), refresh));
    let comment = reading::comment(1);
    let write = tokio::spawn(async move { writes.publish(&comment).await });
    until("it commits", async || {
        let commits = "SELECT COUNT(*) FROM pg_stat_activity
            WHERE query = 'COMMIT' AND state = 'active'";
        let commits = sqlx::query_scalar(commits).fetch_one(store.pool());
        let commits: i64 = commits.await.expect("it is ready");
        commits == 1
    })
    .await;
    drop(server);
    let written = write.await.expect("no panic");
    assert!(matches!(written, Err(WriteError::Unavailable(_))), "{written:?}");
    assert!(matches!(index.page(7, None, 9).await, Lookup::Miss(_)));
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn a_stop_has_a_limit_if_the_database_does_not_answer() {
    let server = Postgres::start().expect("it starts");
    let config = Config {
        address: ([127, 0, 0, 1], 0).into(),
        database: server.url(),
        redis: None,
        kafka: None,
        parts: Parts::NONE,
        bus: Bus::default(),
        node: 1,
    };
    let service = Service::start(config).await.expect("it starts");
    let other = Store::connect(&server.url()).await.expect("it is ready");
    let mut lock = other.pool().acquire().await.expect("it is ready");
    let table = "BEGIN; LOCK TABLE comment IN ACCESS EXCLUSIVE MODE";
    raw_sql(table).execute(&mut *lock).await.expect("it is locked");

    // The stop begins with a query that waits, or with a write that does.
    let api = Arc::clone(service.api());
    let read = tokio::spawn(async move { api.reads.page(7, None, 9).await });
    let api = Arc::clone(service.api());
    let comment = reading::comment(1);
    let write = tokio::spawn(async move { api.writes.publish(&comment).await });
    until("both wait for the lock", async || {
        let waiting = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted";
        let waiting = sqlx::query_scalar(waiting).fetch_one(other.pool());
        let waiting: i64 = waiting.await.expect("it is ready");
        waiting == 2
    })
    .await;
    read.abort();
    tokio::time::pause(); // no limit takes time
    let limit = Duration::from_secs(60);
    let stopped = tokio::time::timeout(limit, service.stop()).await;
    let stopped = stopped.expect("it stops after its limits");
    assert!(matches!(stopped, Err(StopError::Writes(_))), "{stopped:?}");
    drop(write);
}

#[test]
fn ids_rise_and_are_distinct_on_all_nodes() {
    let (first, second) = (Ids::new(1), Ids::new(2));
    let now = now_ms();
    let mut ids = Vec::new();
    // More than the sequence has in a millisecond, and a clock that goes back.
    for n in 0..20_000 {
        ids.push(first.next(now - n / 5000));
    }
    assert!(ids.is_sorted());
    ids.extend((0..20_000).map(|_| second.next(now)));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 40_000);
    assert!(ids.iter().all(|id| *id < 1 << 63));
}

#[test]
#[should_panic(expected = "node 1024, expected below 1024")]
fn a_node_number_that_does_not_fit_panics() {
    let _ = Ids::new(1024);
}
