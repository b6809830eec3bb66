//! Measures what the layers, the transcoding and the middleware cost: the
//! service against bare handlers of axum and tonic over the same SQL.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use lab::ratio::Ratio;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request as Call, Response, Status};
use week03::drain;
use week04::composition::Application;
use week04::data::{Database, Limits, SqlRepository};
use week04::{server, settings};
use week04_api::comments::v1;
use week04_api::comments::v1::comment_service_client::CommentServiceClient;
use week04_api::comments::v1::comment_service_server::{
    CommentService, CommentServiceServer,
};
use week04_biz::{
    Comment, CommentId, NewComment, NewSubject, Repository as _, SubjectId,
    Timestamp, UserId,
};

/// The number of clients, each with a connection of its own.
const CLIENTS: usize = 8;

/// The number of requests of each client in one sample.
const REQUESTS: usize = 100;

const ROUNDS: usize = 15;

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().expect("a folder can be created");
    let ours = ours(&dir).await;
    let bare = bare(&dir).await;
    println!(
        "{CLIENTS} clients, {ROUNDS} rounds; throughput of the service \
         divided by that of the bare handler"
    );
    for create in [false, true] {
        let name = if create { "Create" } else { "Get" };
        compare(&format!("{name} HTTP"), async |is_ours: bool| {
            let address = if is_ours { ours.0 } else { bare.0 };
            http_sample(address, create).await
        })
        .await;
        compare(&format!("{name} gRPC"), async |is_ours: bool| {
            let address = if is_ours { ours.1 } else { bare.1 };
            grpc_sample(address, create).await
        })
        .await;
    }
}

/// The latencies of one sample, and its whole duration.
type Sample = (Vec<Duration>, Duration);

async fn compare(name: &str, sample: impl AsyncFn(bool) -> Sample) {
    // Opens the connections of the pools, and fills the caches.
    sample(true).await;
    sample(false).await;
    let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut took = [Duration::ZERO; 2];
        for is_ours in [true, false, false, true] {
            let (latencies, whole) = sample(is_ours).await;
            took[usize::from(is_ours)] += whole;
            if is_ours { &mut ours } else { &mut bare }.extend(latencies);
        }
        ratios.push(took[0].as_secs_f64() / took[1].as_secs_f64());
    }
    println!(
        "{name}: {}; p50 {:.0} and {:.0} us, p99 {:.0} and {:.0} us",
        Ratio::of(&ratios),
        quantile(&mut ours, 0.5),
        quantile(&mut bare, 0.5),
        quantile(&mut ours, 0.99),
        quantile(&mut bare, 0.99),
    );
}

/// Returns a quantile in microseconds.
fn quantile(latencies: &mut [Duration], q: f64) -> f64 {
    latencies.sort_unstable();
    let last = latencies.len() - 1;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a sample has fewer than 2^52 latencies"
    )]
    let position = (last as f64 * q).round() as usize;
    latencies[position].as_secs_f64() * 1e6
}

async fn http_sample(address: SocketAddr, create: bool) -> Sample {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(address).await);
    }
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(REQUESTS);
            for _ in 0..REQUESTS {
                let begin = Instant::now();
                http_call(&mut client, create).await;
                latencies.push(begin.elapsed());
            }
            latencies
        });
    }
    (tasks.join_all().await.concat(), begin.elapsed())
}

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("it is open");
    stream.set_nodelay(true).expect("a TCP option");
    let (client, connection) =
        handshake(TokioIo::new(stream)).await.expect("it is HTTP");
    tokio::spawn(connection);
    client
}

async fn http_call(client: &mut SendRequest<Full<Bytes>>, create: bool) {
    let (method, path, body) = match create {
        true => (Method::POST, "/v1/subjects/rust/comments", BODY),
        false => (Method::GET, "/v1/subjects/rust/comments/1", ""),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "bench")
        .header("content-type", "application/json")
        .body(Full::from(body));
    let request = request.expect("the request is valid");
    let answer = client.send_request(request).await.expect("it answers");
    assert_eq!(answer.status(), 200);
    let body = answer.collect().await.expect("it ends").to_bytes();
    assert!(body.starts_with(b"{\"name\":"), "{body:?}");
}

const BODY: &str =
    r#"{"author": "ann", "text": "a comment of the usual length"}"#;

async fn grpc_sample(address: SocketAddr, create: bool) -> Sample {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.expect("the address is valid");
        let channel = endpoint.connect().await.expect("it is open");
        clients.push(CommentServiceClient::new(channel));
    }
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(REQUESTS);
            for _ in 0..REQUESTS {
                let begin = Instant::now();
                grpc_call(&mut client, create).await;
                latencies.push(begin.elapsed());
            }
            latencies
        });
    }
    (tasks.join_all().await.concat(), begin.elapsed())
}

async fn grpc_call(client: &mut CommentServiceClient<Channel>, create: bool) {
    let answer = if create {
        let comment = v1::Comment {
            author: "ann".to_owned(),
            text: "a comment of the usual length".to_owned(),
            ..Default::default()
        };
        let request = v1::CreateCommentRequest {
            parent: "subjects/rust".to_owned(),
            comment: Some(comment),
            ..Default::default()
        };
        client.create_comment(request).await
    } else {
        let name = "subjects/rust/comments/1".to_owned();
        client.get_comment(v1::GetCommentRequest { name }).await
    };
    assert_eq!(answer.expect("it answers").get_ref().author, "ann");
}

/// Starts the service. Returns the addresses for HTTP and gRPC.
async fn ours(dir: &TempDir) -> (SocketAddr, SocketAddr) {
    let url = format!("sqlite://{}/ours.db", dir.path().display());
    prepare(&url).await;
    let text = format!(r#"{{"data": {{"url": "{url}"}}}}"#);
    let options = settings::load(&text, []).and_then(|s| s.options());
    let options = options.expect("the settings are valid");
    let application = Application::open(options).await.expect("it starts");
    let addresses = application.addresses().expect("its ports are open");
    tokio::spawn(application.run(CancellationToken::new()));
    addresses
}

/// Creates a subject with one comment.
async fn prepare(url: &str) -> SqlRepository {
    let limits =
        Limits { max_connections: 4, acquire_timeout: Duration::from_secs(2) };
    let database = Database::open(url, None, limits).await.expect("it opens");
    let repository = SqlRepository::new(database);
    let new = NewSubject { id: rust(), title: "Rust".to_owned() };
    repository.create_subject(&new, now()).await.expect("it answers");
    repository.create_comment(&new_comment("first"), now()).await.expect("ok");
    repository
}

/// Starts handlers that call the same SQL, without anything in between.
async fn bare(dir: &TempDir) -> (SocketAddr, SocketAddr) {
    let url = format!("sqlite://{}/bare.db", dir.path().display());
    let repository = prepare(&url).await;
    let router = Router::new()
        .route("/v1/subjects/rust/comments/{id}", get(bare_get))
        .route("/v1/subjects/rust/comments", post(bare_create))
        .with_state(repository.clone());
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let drain = Duration::from_secs(1);
    let http = drain::Server::bind(any, router, drain).await.expect("a port");
    let service = CommentServiceServer::new(Bare(repository));
    let router = tonic::service::Routes::new(service).into_axum_router();
    let grpc = server::grpc::Server::bind(any, router, drain).await;
    let grpc = grpc.expect("a port");
    let addresses = (
        http.local_addr().expect("it is open"),
        grpc.local_addr().expect("it is open"),
    );
    tokio::spawn(http.serve(CancellationToken::new()));
    tokio::spawn(grpc.serve(CancellationToken::new()));
    addresses
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CommentJson {
    name: String,
    author: String,
    text: String,
    like_count: String,
    reply_count: String,
    create_time: i64,
    update_time: i64,
    etag: String,
}

#[derive(Deserialize)]
struct NewCommentJson {
    author: String,
    text: String,
}

impl From<Comment> for CommentJson {
    fn from(comment: Comment) -> Self {
        Self {
            name: format!(
                "subjects/{}/comments/{}",
                comment.subject, comment.id
            ),
            author: comment.author.as_str().to_owned(),
            text: comment.text,
            like_count: comment.like_count.to_string(),
            reply_count: comment.reply_count.to_string(),
            create_time: comment.created.micros,
            update_time: comment.updated.micros,
            etag: comment.version.to_string(),
        }
    }
}

async fn bare_get(
    State(repository): State<SqlRepository>,
    Path(id): Path<i64>,
) -> Json<CommentJson> {
    let comment = repository.comment(&rust(), CommentId(id)).await;
    Json(comment.expect("it answers").expect("it exists").into())
}

async fn bare_create(
    State(repository): State<SqlRepository>,
    Json(new): Json<NewCommentJson>,
) -> Json<CommentJson> {
    let author = UserId::new("author", new.author).expect("it is valid");
    let new = NewComment { author, ..new_comment(&new.text) };
    let created = repository.create_comment(&new, now()).await;
    Json(created.expect("it answers").expect("the subject exists").into())
}

/// A gRPC service of two methods.
struct Bare(SqlRepository);

impl Bare {
    fn message(comment: Comment) -> Response<v1::Comment> {
        Response::new(v1::Comment {
            name: format!(
                "subjects/{}/comments/{}",
                comment.subject, comment.id
            ),
            author: comment.author.as_str().to_owned(),
            text: comment.text,
            like_count: comment.like_count,
            reply_count: comment.reply_count,
            etag: comment.version.to_string(),
            ..Default::default()
        })
    }
}

#[tonic::async_trait]
impl CommentService for Bare {
    async fn get_comment(
        &self,
        request: Call<v1::GetCommentRequest>,
    ) -> Result<Response<v1::Comment>, Status> {
        let name = &request.get_ref().name;
        let id = name.rsplit('/').next().and_then(|id| id.parse().ok());
        let id = CommentId(id.expect("the name has an id"));
        let comment = self.0.comment(&rust(), id).await;
        Ok(Self::message(comment.expect("it answers").expect("it exists")))
    }

    async fn create_comment(
        &self,
        request: Call<v1::CreateCommentRequest>,
    ) -> Result<Response<v1::Comment>, Status> {
        let comment = request.into_inner().comment.expect("it is sent");
        let author = UserId::new("author", comment.author).expect("valid");
        let new = NewComment { author, ..new_comment(&comment.text) };
        let created = self.0.create_comment(&new, now()).await;
        Ok(Self::message(created.expect("it answers").expect("it exists")))
    }

    async fn create_subject(
        &self,
        _: Call<v1::CreateSubjectRequest>,
    ) -> Result<Response<v1::Subject>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn get_subject(
        &self,
        _: Call<v1::GetSubjectRequest>,
    ) -> Result<Response<v1::Subject>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_comments(
        &self,
        _: Call<v1::ListCommentsRequest>,
    ) -> Result<Response<v1::ListCommentsResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn update_comment(
        &self,
        _: Call<v1::UpdateCommentRequest>,
    ) -> Result<Response<v1::Comment>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn delete_comment(
        &self,
        _: Call<v1::DeleteCommentRequest>,
    ) -> Result<Response<()>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn like_comment(
        &self,
        _: Call<v1::LikeCommentRequest>,
    ) -> Result<Response<v1::LikeCommentResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

fn rust() -> SubjectId {
    SubjectId::new("rust").expect("the id is valid")
}

fn new_comment(text: &str) -> NewComment {
    NewComment {
        subject: rust(),
        author: UserId::new("author", "ann").expect("the id is valid"),
        text: text.to_owned(),
        reply_to: None,
        place: None,
        labels: [].into(),
        request_id: None,
    }
}

fn now() -> Timestamp {
    Timestamp { micros: 0 }
}
