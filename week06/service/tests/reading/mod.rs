//! What the tests of the read path share.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use week06_service::comment::Comment;
use week06_service::index::{Config, Index};
use week06_service::page::Cursor;
use week06_service::reads::{Answer, Source};
use week06_service::redis_client::{self, RedisClient};
use week06_service::store::Store;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// Returns a comment about subject 7 whose time is its id.
pub(crate) fn comment(id: u64) -> Comment {
    comment_at(id, 1000 + id)
}

pub(crate) fn comment_at(id: u64, created_ms: u64) -> Comment {
    let text = format!("comment {id}");
    Comment { id, subject: 7, author: 1, text, created_ms }
}

pub(crate) fn ids(comments: &[Comment]) -> Vec<u64> {
    comments.iter().map(|comment| comment.id).collect()
}

/// Waits until a condition holds, and panics after ten seconds.
pub(crate) async fn until<F: Future<Output = bool>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(MS).await;
    }
}

/// A SQLite database in a directory of its own.
pub(crate) struct Database {
    pub(crate) url: String,
    _dir: TempDir,
}

impl Database {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a directory is created");
        let url = format!("sqlite:{}", dir.path().join("db").display());
        Self { url, _dir: dir }
    }
}

/// A database that counts queries, and can stop before one is answered.
pub(crate) struct Counting {
    pub(crate) store: Store,
    pub(crate) queries: AtomicU64,
    /// Queries wait while this is `false`.
    pub(crate) open: watch::Sender<bool>,
    /// The time of each query.
    pub(crate) delay: Mutex<Duration>,
    /// Notified when a query has read, and waits for `open`.
    pub(crate) has_read: Notify,
    running: AtomicU64,
    pub(crate) most: AtomicU64,
}

impl Counting {
    pub(crate) fn new(store: Store) -> Arc<Self> {
        Arc::new(Self {
            store,
            queries: AtomicU64::new(0),
            open: watch::Sender::new(true),
            delay: Mutex::default(),
            has_read: Notify::new(),
            running: AtomicU64::new(0),
            most: AtomicU64::new(0),
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.queries.load(Relaxed)
    }
}

impl Source for Counting {
    fn page(
        &self,
        subject: u64,
        before: Option<Cursor>,
        limit: usize,
    ) -> Answer<'_> {
        Box::pin(async move {
            self.queries.fetch_add(1, Relaxed);
            let running = Running::new(&self.running);
            self.most.fetch_max(running.0.load(Relaxed), Relaxed);
            let page = Source::page(&self.store, subject, before, limit).await;
            self.has_read.notify_one();
            let mut open = self.open.subscribe();
            let opened = open.wait_for(|open| *open).await;
            drop(opened.expect("the sender is in `self`"));
            let delay = *self.delay.lock().expect("no panic while locked");
            if !delay.is_zero() {
                sleep(delay).await;
            }
            page
        })
    }
}

/// Counts down when it is dropped.
struct Running<'a>(&'a AtomicU64);

impl<'a> Running<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A TCP address that leads to a Redis server, to another one, or to none.
pub(crate) struct Proxy {
    pub(crate) url: String,
    upstream: watch::Sender<Upstream>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone, PartialEq)]
enum Upstream {
    To(PathBuf),
    /// Connections are accepted, and nothing is answered.
    Silent,
    /// Connections are closed.
    Gone,
}

impl Proxy {
    pub(crate) async fn new(socket: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let upstream = watch::Sender::new(Upstream::To(socket.to_owned()));
        let receiver = upstream.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, receiver.clone()));
            }
        });
        let url = format!("redis://{address}");
        Self { url, upstream, _task: AbortOnDropHandle::new(task) }
    }

    /// Cuts all connections, and leads new ones to this server.
    pub(crate) fn lead_to(&self, socket: &Path) {
        self.upstream.send_replace(Upstream::To(socket.to_owned()));
    }

    /// Cuts all connections, and refuses new ones.
    pub(crate) fn cut(&self) {
        self.upstream.send_replace(Upstream::Gone);
    }

    /// Answers nothing any more, on connections that stay open.
    pub(crate) fn silence(&self) {
        self.upstream.send_replace(Upstream::Silent);
    }
}

async fn forward(
    mut client: TcpStream,
    mut upstream: watch::Receiver<Upstream>,
) {
    let now = upstream.borrow_and_update().clone();
    let Upstream::To(socket) = now else {
        if now == Upstream::Silent {
            let _ = upstream.wait_for(|now| *now != Upstream::Silent).await;
        }
        return;
    };
    let Ok(mut server) = UnixStream::connect(socket).await else { return };
    tokio::select! {
        _ended = copy_bidirectional(&mut client, &mut server) => {}
        _changed = upstream.changed() => {}
    }
    let _ = upstream.wait_for(|now| *now != Upstream::Silent).await;
}

pub(crate) fn redis_client(url: &str) -> RedisClient {
    let url = url.to_owned();
    let config = redis_client::Config { url, timeout: 200 * MS };
    RedisClient::new(&config).expect("the URL is valid")
}

/// A connected index of at most five comments.
pub(crate) async fn index(url: &str) -> Index {
    let redis = redis_client(url);
    redis.connected().await;
    let config = Config {
        size: 5,
        ttl: Duration::from_secs(100),
        empty_ttl: Duration::from_secs(10),
        lease_ttl: Duration::from_secs(5),
    };
    Index::new(redis, config)
}

pub(crate) async fn connection(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).expect("the URL is valid");
    client.get_multiplexed_async_connection().await.expect("it is ready")
}

/// A response of the API.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: serde_json::Value,
}

/// Sends a request on a connection of its own.
pub(crate) async fn request(
    address: std::net::SocketAddr,
    line: &str,
    body: &str,
) -> Response {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    // The server may answer, and close, before it has read everything.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body.as_bytes()).await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    let response = String::from_utf8_lossy(&response).into_owned();
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or_default();
    Response {
        status: status.parse().unwrap_or_default(),
        head: head.to_owned(),
        body: serde_json::from_str(body).unwrap_or_default(),
    }
}
