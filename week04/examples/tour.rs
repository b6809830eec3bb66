//! Starts the comment service and sends requests over HTTP and gRPC, also wrong ones.
//!
//! ```console
//! $ cargo run -p week04 --example tour
//! ```

use std::error::Error;
use std::net::SocketAddr;

use lab::guess;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use week04::composition::Application;
use week04::frames::decode_fields;
use week04::wire_format::{Field, Value};
use week04::{settings, status};
use week04_api::comments::v1;
use week04_api::comments::v1::comment_service_client::CommentServiceClient;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const COMMENT: &str = "/v1/subjects/rust/comments/1";

#[tokio::main]
async fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let url = format!("sqlite://{}/tour.db", dir.path().display());
    let text = format!(r#"{{"data": {{"url": "{url}"}}}}"#);
    let options = settings::load(&text, [])?.options()?;
    let application = Application::open(options).await;
    let application = application.map_err(|failed| failed.error)?;
    let (http, grpc) = application.addresses()?;
    let stop = CancellationToken::new();
    let running = tokio::spawn(application.run(stop.clone()));

    over_http(http).await?;
    errors(http).await?;
    over_grpc(grpc).await?;

    println!("\n5. Shutdown");
    stop.cancel();
    running.await??;
    println!("Both listeners and the database are closed.");
    Ok(())
}

async fn over_http(http: SocketAddr) -> Result<()> {
    println!("1. Over HTTP");
    let title = r#"{"title": "Rust"}"#;
    send(http, "POST", "/v1/subjects?subjectId=rust", title).await?;
    let comment =
        r#"{"author": "ann", "text": "hi", "place": {"label": "Bern"}}"#;
    send(http, "POST", "/v1/subjects/rust/comments", comment).await?;
    let like = r#"{"user": "bob"}"#;
    send(http, "POST", &format!("{COMMENT}:like"), like).await?;

    println!("\n2. Partial updates");
    let question = "A PATCH has the body {\"text\": \"hello\"}, and another \
                    one has {\"place\": null}. How many\nof the three fields \
                    author, text and place still have their first value?";
    let guess = guess::ask(question)?;
    send(http, "PATCH", COMMENT, r#"{"text": "hello"}"#).await?;
    send(http, "PATCH", COMMENT, r#"{"place": null}"#).await?;
    println!(
        "1: the author. A key of the body changes its field, null clears it, \
         and an absent\nkey changes nothing.{}",
        guess::remark(guess.as_deref(), 1)
    );
    Ok(())
}

async fn errors(http: SocketAddr) -> Result<()> {
    println!("\n3. Each kind of error");
    for (method, path, body) in [
        ("POST", "/v1/subjects/rust/comments", "{"),
        ("POST", "/v1/subjects/rust/comments", r#"{"autor": "ann"}"#),
        ("POST", "/v1/subjects/rust/comments", r#"{"author": "ann"}"#),
        ("GET", "/v1/subjects/rust/comments?pageToken=x", ""),
        ("GET", "/v1/subjects/rust/comments/9", ""),
        ("POST", "/v1/subjects?subjectId=rust", r#"{"title": "Rust"}"#),
        ("PATCH", COMMENT, r#"{"text": "x", "etag": "\"1\""}"#),
        ("GET", "/v1/articles", ""),
        ("PUT", COMMENT, "{}"),
    ] {
        send(http, method, path, body).await?;
    }
    Ok(())
}

async fn over_grpc(grpc: SocketAddr) -> Result<()> {
    println!("\n4. Over gRPC");
    let channel = Endpoint::from_shared(format!("http://{grpc}"))?;
    let mut client = CommentServiceClient::new(channel.connect().await?);
    let json = r#"{"name":"subjects/rust/comments/1","user":"bob"}"#;
    let length = json.len();
    let question = format!(
        "A like has {length} bytes as JSON:\n  {json}\n\
         How many bytes does it have as protobuf?"
    );
    let guess = guess::ask(&question)?;
    let name = "subjects/rust/comments/1".to_owned();
    let user = "bob".to_owned();
    let like = v1::LikeCommentRequest { name: name.clone(), user };
    let bytes = like.encode_to_vec();
    for field in decode_fields(&bytes)? {
        println!("  {}", describe(&field));
    }
    println!(
        "{} bytes: each field has one byte for its number and type, and one \
         for its length.{}",
        bytes.len(),
        guess::remark(guess.as_deref(), bytes.len())
    );
    let liked = client.like_comment(like).await?.into_inner();
    println!("LikeComment -> {} like: bob counts once", liked.like_count);

    let name = format!("{name}0");
    let request = v1::GetCommentRequest { name: name.clone() };
    let refused = client.get_comment(request).await;
    let failure = status::from_grpc(&refused.expect_err("it does not exist"));
    println!("GetComment {name} -> {:?} {}", failure.code, failure.reason);
    Ok(())
}

/// Returns a field of a message in one line.
fn describe(field: &Field) -> String {
    let value = match &field.value {
        Value::Varint(value) => value.to_string(),
        Value::Len(bytes) => {
            format!("{:?}", String::from_utf8_lossy(bytes))
        }
        other => format!("{other:?}"),
    };
    format!(
        "field {}, wire type {}: {value}",
        field.number,
        field.value.wire_type()
    )
}

/// Sends a request, and prints it with its answer.
async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: tour\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n\
         {body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body_of_answer) =
        answer.split_once("\r\n\r\n").ok_or("the answer ends early")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    println!("{method} {path} {body}");
    println!("  {status} {}", short(body_of_answer));
    Ok(())
}

/// Returns the parts of an answer that this tour is about.
fn short(body: &str) -> String {
    let json: serde_json::Value =
        serde_json::from_str(body).unwrap_or_default();
    let error = &json["error"];
    if error.is_null() {
        let shown = ["name", "title", "author", "text", "place", "likeCount"];
        let shown = shown.iter().filter(|key| !json[**key].is_null());
        let shown = shown.map(|key| match &json[*key] {
            place @ serde_json::Value::Object(_) => {
                format!("{key}: {}", place["label"])
            }
            value => format!("{key}: {value}"),
        });
        return shown.collect::<Vec<_>>().join(", ");
    }
    let details = error["details"].as_array();
    let reason =
        details.and_then(|d| d.iter().find_map(|d| d["reason"].as_str()));
    let message = error["message"].as_str().unwrap_or_default();
    let status = error["status"].as_str().unwrap_or_default();
    format!("{status} {}\n    {message}", reason.unwrap_or_default())
}
