//! A database, and a service upon it, for one test.

#![allow(dead_code, unreachable_pub, reason = "no test uses every item")]

use std::error::Error;
use std::iter;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use lab::servers::Postgres;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use week04::composition::Application;
use week04::data::{Database, Limits};
use week04::settings;
use week04::wire::BoxError;
use week04_api::comments::v1::comment_service_client::CommentServiceClient;
use week04_biz::{
    CommentId, NewComment, NewSubject, SubjectId, Timestamp, UserId,
};

/// A database that a test owns.
pub struct Storage {
    url: String,
    _place: Place,
}

/// Removed on drop.
enum Place {
    File(TempDir),
    Server(Postgres, Proxy),
    Elsewhere,
}

impl Storage {
    /// SQLite in a new file.
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a folder can be created");
        let url = format!("sqlite://{}/test.db", dir.path().display());
        Self { url, _place: Place::File(dir) }
    }

    /// A new Postgres server, behind a [`Proxy`].
    pub fn postgres() -> Self {
        let server = postgres_server();
        let mut proxy = Proxy::new(server.socket());
        proxy.up();
        Self { url: proxy.url(), _place: Place::Server(server, proxy) }
    }

    /// A database that the test looks after.
    pub fn at(url: String) -> Self {
        Self { url, _place: Place::Elsewhere }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Opens a pool.
    pub async fn open(&self, max_connections: u32) -> Database {
        let acquire_timeout = Duration::from_secs(5);
        let limits = Limits { max_connections, acquire_timeout };
        Database::open(&self.url, None, limits)
            .await
            .expect("the database can be opened")
    }
}

/// Starts a Postgres server.
pub fn postgres_server() -> Postgres {
    Postgres::start().unwrap_or_else(|error| {
        let chain = iter::successors(error.source(), |&e| e.source());
        let causes: String = chain.map(|cause| format!(": {cause}")).collect();
        panic!("{error}{causes}")
    })
}

/// Passes connections on to a Postgres server, as long as it is up. It runs on
/// the runtime of the test. So on one thread, each answer of the server takes a
/// turn of another task, and a client is `Pending` at each of its awaits.
pub struct Proxy {
    dir: TempDir,
    server: PathBuf,
    task: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn new(server: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a folder can be created");
        Self { dir, server, task: None }
    }

    /// The URL of the database behind this proxy.
    pub fn url(&self) -> String {
        let dir = self.dir.path().to_str().expect("the path is UTF-8");
        let host = dir.replace('/', "%2F");
        // A forgotten transaction fails a test instead of stopping it.
        let timeout = "options[lock_timeout]=5s";
        format!("postgres://postgres@{host}/postgres?{timeout}")
    }

    pub fn up(&mut self) {
        let name = self.server.file_name().expect("a socket has a name");
        let path = self.dir.path().join(name);
        let listener = UnixListener::bind(path).expect("the name is free");
        let server = self.server.clone();
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                connections.spawn(async move {
                    let mut server = UnixStream::connect(server).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        }));
    }

    /// Closes all connections, and refuses new ones.
    pub async fn down(&mut self) {
        let task = self.task.take().expect("the proxy is up");
        task.abort();
        let _ = task.await;
        let name = self.server.file_name().expect("a socket has a name");
        std::fs::remove_file(self.dir.path().join(name)).expect("it exists");
    }
}

/// The number of microseconds after 1970 at which a test creates something.
pub fn at(micros: i64) -> Timestamp {
    Timestamp { micros }
}

pub fn subject(id: &str) -> SubjectId {
    SubjectId::new(id).expect("the id is valid")
}

pub fn new_subject(id: &str) -> NewSubject {
    NewSubject { id: subject(id), title: format!("About {id}") }
}

/// A comment on the subject `rust`.
pub fn new_comment(text: &str) -> NewComment {
    NewComment {
        subject: subject("rust"),
        author: UserId::new("author", "ann").expect("the id is valid"),
        text: text.to_owned(),
        reply_to: None,
        place: None,
        labels: [].into(),
        request_id: None,
    }
}

pub fn reply(to: CommentId, text: &str) -> NewComment {
    NewComment { reply_to: Some(to), ..new_comment(text) }
}

/// A service that runs until it is dropped.
pub struct Running {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub stop: CancellationToken,
    pub ended: JoinHandle<Result<(), BoxError>>,
    storage: Storage,
}

/// The answer to an HTTP request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Running {
    /// Starts a service on SQLite.
    pub async fn start() -> Self {
        Self::start_with(Storage::sqlite(), "").await
    }

    /// Starts a service with some settings: `"path": value, …`, in JSON.
    pub async fn start_with(storage: Storage, settings: &str) -> Self {
        let url = &storage.url;
        let text = format!(
            r#"{{"data": {{"url": "{url}", "acquireTimeout": "1s"}}{settings}}}"#
        );
        let options = settings::load(&text, []).and_then(|s| s.options());
        let options = options.expect("the settings are valid");
        let application = Application::open(options).await;
        let application = application.expect("the service can start");
        let (http, grpc) =
            application.addresses().expect("both ports are open");
        let stop = CancellationToken::new();
        let ended = tokio::spawn(application.run(stop.clone()));
        let running = Self { http, grpc, stop, ended, storage };
        while running.get("/healthz").await.status != 200 {
            tokio::task::yield_now().await;
        }
        running
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, "", body).await
    }

    pub async fn patch(&self, path: &str, body: &str) -> Answer {
        self.send("PATCH", path, "", body).await
    }

    /// Sends a request with some header lines, each of which ends with CRLF.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Answer {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\n\
             connection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        );
        self.send_raw(request.as_bytes()).await
    }

    pub async fn send_raw(&self, request: &[u8]) -> Answer {
        let stream = TcpStream::connect(self.http).await;
        let mut stream = stream.expect("the port is open");
        stream.write_all(request).await.expect("the server reads");
        let mut answer = Vec::new();
        // A server that closes early may reset the connection.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).expect("the answer is UTF-8");
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        Answer {
            status: status.unwrap_or(0),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    /// Connects a gRPC client.
    pub async fn client(&self) -> CommentServiceClient<Channel> {
        CommentServiceClient::new(self.channel().await)
    }

    /// Opens a connection for any gRPC client.
    pub async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.grpc);
        let endpoint = Endpoint::from_shared(address);
        let channel = endpoint.expect("the address is valid").connect().await;
        channel.expect("the port is open")
    }

    /// Creates the subject `rust` with one comment of `ann`.
    pub async fn prepare(&self) {
        let path = "/v1/subjects?subjectId=rust";
        let created = self.post(path, r#"{"title": "Rust"}"#).await;
        assert_eq!(created.status, 200, "{created:?}");
        let body = r#"{"author": "ann", "text": "first"}"#;
        let created = self.post("/v1/subjects/rust/comments", body).await;
        assert_eq!(created.status, 200, "{created:?}");
        assert_eq!(created.json()["name"], "subjects/rust/comments/1");
    }

    pub async fn storage(&self, connections: u32) -> Database {
        self.storage.open(connections).await
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The reason of an error.
    pub fn reason(&self) -> String {
        let json = self.json();
        let details = json["error"]["details"].as_array().cloned();
        let details = details.unwrap_or_default();
        let reason = details.iter().find_map(|d| d["reason"].as_str());
        reason.unwrap_or_default().to_owned()
    }
}
