//! An HTTP client that keeps connections open.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lab::load::Outcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A clone uses the same connections.
#[derive(Clone)]
pub(crate) struct Client {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Arc::default() }
    }

    /// Reads the newest page of a subject.
    pub(crate) async fn read(
        &self,
        subject: u64,
        patience: Duration,
    ) -> Outcome {
        let request = format!(
            "GET /v1/subjects/{subject}/comments HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        self.send(&request, patience).await
    }

    /// Sends a comment.
    pub(crate) async fn write(
        &self,
        subject: u64,
        patience: Duration,
    ) -> Outcome {
        let body = r#"{"author": 1, "text": "I was there."}"#;
        let request = format!(
            "POST /v1/subjects/{subject}/comments HTTP/1.1\r\nHost: a\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.send(&request, patience).await
    }

    /// After the patience, the connection is closed: the server notices it, and
    /// drops the request.
    async fn send(&self, request: &str, patience: Duration) -> Outcome {
        match timeout(patience, self.exchange(request)).await {
            Ok(Ok(200..=299)) => Outcome::Served,
            Ok(Ok(429 | 503)) => Outcome::Refused,
            Ok(Ok(_) | Err(_)) | Err(_) => Outcome::Failed,
        }
    }

    /// Returns the status of the response.
    async fn exchange(&self, request: &str) -> io::Result<u16> {
        let idle = self.idle().pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => TcpStream::connect(self.address).await?,
        };
        stream.set_nodelay(true)?;
        stream.write_all(request.as_bytes()).await?;
        let mut response = Vec::with_capacity(4096);
        loop {
            if stream.read_buf(&mut response).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(status) = complete(&response) {
                self.idle().push(stream);
                return Ok(status);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.idle.lock().expect("no code panics with the lock held")
    }
}

/// Returns the status of a response that has all of its body.
fn complete(response: &[u8]) -> Option<u16> {
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = str::from_utf8(&response[..end]).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.parse::<usize>().ok())?
    });
    let is_complete = response.len() >= end + 4 + length.unwrap_or(0);
    let status = head.split(' ').nth(1)?.parse().ok()?;
    is_complete.then_some(status)
}
