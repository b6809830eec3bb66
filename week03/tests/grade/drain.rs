use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response as Answer};
use futures_util::StreamExt as _;
use futures_util::stream::once;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use week03::drain::{Server, Stopped};

/// The limit of every wait, in ticks of the runtime. The server runs in the
/// same runtime, so a slow machine slows both down.
const TICKS: u32 = 150;
const TICK: Duration = Duration::from_millis(10);

/// A drain timeout longer than any test.
const LONG: Duration = Duration::MAX;

/// A drain timeout that a test waits for.
const SHORT: Duration = Duration::from_millis(60);

/// The length of a body that does not fit into the buffers of two sockets.
const BIG: usize = 32 << 20;

/// The limit of what the server does at once.
const AT_ONCE: u32 = 15;

/// Returns the output of `future`, or `None` if it takes longer than [`TICKS`].
async fn with_deadline<F: Future>(future: F) -> Option<F::Output> {
    within(TICKS, future).await
}

/// Returns the output of `future`, or `None` if it takes longer than `ticks`.
async fn within<F: Future>(ticks: u32, future: F) -> Option<F::Output> {
    let all_ticks = async {
        for _ in 0..ticks {
            sleep(TICK).await;
        }
    };
    tokio::select! {
        biased;
        output = future => Some(output),
        () = all_ticks => None,
    }
}

/// A running server on a port of its own, and the state of its handlers.
struct TestServer {
    address: SocketAddr,
    stop: CancellationToken,
    /// Returns the result of `serve`, and the number of handlers that were left
    /// when it returned.
    serving: JoinHandle<(Stopped, usize)>,
    handlers: Handlers,
}

#[derive(Clone)]
struct Handlers {
    /// Has a permit for each handler that has begun to wait.
    begun: Arc<Semaphore>,
    /// Each permit lets one handler return.
    release: Arc<Semaphore>,
    /// The number of handlers that wait and are neither completed nor dropped.
    running: Arc<AtomicUsize>,
}

/// A handler that waits. Its destructor takes a while.
struct Running {
    count: Arc<AtomicUsize>,
    drop_takes: Duration,
}

impl Drop for Running {
    fn drop(&mut self) {
        let start = Instant::now();
        while start.elapsed() < self.drop_takes {
            std::thread::yield_now();
        }
        self.count.fetch_sub(1, Relaxed);
    }
}

impl Handlers {
    fn new() -> Self {
        Self {
            begun: Arc::new(Semaphore::new(0)),
            release: Arc::new(Semaphore::new(0)),
            running: Arc::default(),
        }
    }

    async fn wait(self, drop_takes: Duration) -> &'static str {
        let count = Arc::clone(&self.running);
        count.fetch_add(1, Relaxed);
        let _running = Running { count, drop_takes };
        self.begun.add_permits(1);
        self.release.acquire().await.expect("never closed").forget();
        "waited"
    }

    /// Waits before it reads the part `read` of the request body. Responds with
    /// `length` bytes.
    async fn upload(
        self,
        read: &str,
        length: usize,
        body: Body,
    ) -> (StatusCode, String) {
        let body = (read != "drops").then_some(body);
        self.wait(Duration::ZERO).await;
        let mut frames = body.map(Body::into_data_stream);
        match (read, &mut frames) {
            ("first", Some(frames)) => drop(frames.next().await),
            ("all", Some(frames)) => while frames.next().await.is_some() {},
            _ => {}
        }
        (StatusCode::PAYLOAD_TOO_LARGE, "x".repeat(length))
    }

    /// Responds with a few bytes, and then with what `end` says.
    fn stream(self, end: &str) -> Body {
        let end = end.to_owned();
        let part = async { Ok::<_, io::Error>(Bytes::from("part")) };
        let rest = once(async move {
            self.wait(Duration::ZERO).await;
            match &*end {
                "fails" => Err(io::Error::other("on purpose: a body fails")),
                "panics" => panic!("on purpose: a body panics"),
                _ => Ok(Bytes::from("rest")),
            }
        });
        Body::from_stream(once(part).chain(rest))
    }

    /// Responds to `/quick` and `/big` at once. The others wait for a permit of
    /// `release`.
    async fn respond(self, uri: Uri, body: Body) -> Answer {
        let path: Vec<_> = uri.path().split('/').skip(1).collect();
        match *path {
            ["quick"] => "quick".into_response(),
            ["big"] => "x".repeat(BIG).into_response(),
            ["waits"] => self.wait(Duration::ZERO).await.into_response(),
            ["drops_slowly"] => self.wait(SHORT / 5).await.into_response(),
            ["waits_and_panics"] => {
                self.wait(Duration::ZERO).await;
                panic!("on purpose: a handler's bug")
            }
            ["upload", read, length] => {
                let length = length.parse().expect("a length");
                self.upload(read, length, body).await.into_response()
            }
            ["stream", end] => self.stream(end).into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    /// One handler for all paths compiles faster than a route for each.
    fn router(&self) -> Router {
        let this = self.clone();
        Router::new().fallback(move |uri, body| this.clone().respond(uri, body))
    }
}

impl TestServer {
    async fn start(drain: Duration) -> Self {
        let handlers = Handlers::new();
        let server = bind(handlers.router(), drain).await;
        let address = server.local_addr().expect("a bound server");
        let stop = CancellationToken::new();
        let serve = server.serve(stop.clone());
        let running = Arc::clone(&handlers.running);
        let serving = tokio::spawn(async move {
            let stopped = serve.await;
            // Read at once: a moment later, aborted handlers may have ended.
            (stopped, running.load(Relaxed))
        });
        Self { address, stop, serving, handlers }
    }

    async fn client(&self) -> Client {
        let client = Client::connect(self.address).await;
        client.expect("expected an open port")
    }

    /// Returns a client whose request is in its handler.
    async fn waiting_client(&self) -> Client {
        self.client_in_handler("/waits").await
    }

    async fn client_in_handler(&self, path: &str) -> Client {
        let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n");
        self.client_that_sent(&request).await
    }

    /// Returns a client that has sent `text`, so that a handler has begun to
    /// wait.
    async fn client_that_sent(&self, text: &str) -> Client {
        let mut client = self.client().await;
        client.send(text).await;
        let begun = with_deadline(self.handlers.begun.acquire()).await;
        let request = text.lines().next().unwrap_or_default();
        let begun = begun.unwrap_or_else(|| {
            panic!("the handler of {request} was not called")
        });
        begun.expect("never closed").forget();
        client
    }

    /// Begins shutdown, and runs the server until it has noticed. The server
    /// has no thread of its own.
    async fn shut_down(&self) {
        self.stop.cancel();
        self.run_until_idle().await;
    }

    /// Runs the server until it waits for its clients.
    async fn run_until_idle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the result of `serve`, which returns at once.
    async fn stopped_at_once(self) -> Stopped {
        let stopped = within(AT_ONCE, self.serving).await;
        let stopped = stopped.expect(
            "expected `serve` to return as soon as no connection was left",
        );
        stopped.expect("`serve` panicked").0
    }

    async fn stopped(self) -> Stopped {
        let stopped = with_deadline(self.serving).await;
        let stopped = stopped.expect("`serve` did not return after shutdown");
        stopped.expect("`serve` panicked").0
    }
}

async fn bind(router: Router, drain: Duration) -> Server {
    let any_port = (Ipv4Addr::LOCALHOST, 0).into();
    let server = Server::bind(any_port, router, drain).await;
    server.expect("`bind` failed for port 0")
}

/// A connection of a client that writes HTTP by hand.
struct Client {
    stream: TcpStream,
    /// Bytes of the responses that are not returned yet.
    received: Vec<u8>,
}

#[derive(Debug, PartialEq)]
struct Response {
    status: u16,
    body: Vec<u8>,
    /// Whether it has the header `connection: close`.
    closes: bool,
}

impl Client {
    async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = with_deadline(TcpStream::connect(address)).await;
        let stream = stream.expect("`connect` neither succeeded nor failed")?;
        Ok(Self { stream, received: Vec::new() })
    }

    async fn send(&mut self, text: &str) {
        let sent = self.stream.write_all(text.as_bytes()).await;
        sent.expect("the server closed the connection before the request");
    }

    async fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n")).await;
    }

    /// Reads until `is_enough` is true of the received bytes. Returns false if
    /// the connection was closed before that.
    async fn read_until(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> bool {
        while !is_enough(&self.received) {
            let read = self.stream.read_buf(&mut self.received);
            match with_deadline(read).await {
                Some(Ok(1..)) => {}
                Some(Ok(0) | Err(_)) => return false,
                None => panic!(
                    "the client got neither a response nor the end of its \
                     connection; it has received {} bytes",
                    self.received.len()
                ),
            }
        }
        true
    }

    /// Returns the next response, or `None` if the connection was closed before
    /// its end.
    async fn response(&mut self) -> Option<Response> {
        const END: &[u8] = b"\r\n\r\n";
        let end = |bytes: &[u8]| bytes.windows(4).position(|it| it == END);
        if !self.read_until(|bytes| end(bytes).is_some()).await {
            return None;
        }
        let head_ends = end(&self.received).unwrap() + END.len();
        let head = String::from_utf8_lossy(&self.received[..head_ends]);
        let head = head.to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.split("content-length: ").nth(1)?;
        let length: usize = length.split("\r\n").next()?.parse().ok()?;
        let closes = head.contains("\r\nconnection: close\r\n");
        let all = head_ends + length;
        let is_whole = self.read_until(|bytes| bytes.len() >= all).await;
        let rest = self.received.split_off(all.min(self.received.len()));
        let body = self.received.split_off(head_ends);
        self.received = rest;
        is_whole.then_some(Response { status, body, closes })
    }

    /// Waits until the server closes the connection. Returns false if it sends
    /// something before that.
    async fn is_closed(&mut self) -> bool {
        !self.read_until(|bytes| !bytes.is_empty()).await
    }

    /// Waits until the server closes the connection of a panicked handler.
    /// Returns false if it sends something else than a 500 before that.
    async fn ends_after_panic(&mut self) -> bool {
        match self.response().await {
            None => true,
            Some(Response { status: 500, closes: true, .. }) => {
                self.is_closed().await
            }
            Some(_) => false,
        }
    }

    /// Reads until the end of the connection: the number of bytes, or the error
    /// that ended it.
    async fn read_to_end(&mut self) -> io::Result<usize> {
        let read = self.stream.read_to_end(&mut self.received);
        let read = with_deadline(read).await;
        read.expect("the server did not close the connection")
    }
}

/// Returns the status and the body of a response, as tests compare them.
fn status_and_body(response: Option<Response>) -> Option<(u16, String)> {
    let response = response?;
    Some((response.status, String::from_utf8(response.body).ok()?))
}

fn ok(body: &str) -> Option<(u16, String)> {
    Some((200, body.to_owned()))
}

/// Checks that a handler panic ends only its own connection. Another request is
/// in flight meanwhile.
async fn check_a_panic(shuts_down: bool) {
    let server = TestServer::start(LONG).await;
    // Handlers are released in the order in which they began to wait.
    let mut panics = server.client_in_handler("/waits_and_panics").await;
    let mut other = server.waiting_client().await;
    if shuts_down {
        server.shut_down().await;
    }
    server.handlers.release.add_permits(1);
    assert!(
        panics.ends_after_panic().await,
        "expected the connection of a panicked handler to be closed, without a \
         response or after a 500 with `connection: close`"
    );
    if !shuts_down {
        let mut next = server.client().await;
        next.get("/quick").await;
        assert_eq!(
            status_and_body(next.response().await),
            ok("quick"),
            "response to a client that connected after the panic"
        );
    }
    server.handlers.release.add_permits(1);
    assert_eq!(
        status_and_body(other.response().await),
        ok("waited"),
        "response to a request that was in flight during the panic"
    );
    if shuts_down {
        assert_eq!(server.stopped().await, Stopped { aborted: 0 });
    }
}

mod serves {
    use super::*;

    #[tokio::test]
    async fn bind_returns_an_error_if_the_port_is_taken() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = TestServer::start(LONG).await;
        let owners = ["another program", "another `Server`"];
        let addresses = [other.local_addr().unwrap(), server.address];
        for (owner, address) in owners.into_iter().zip(addresses) {
            let bound = Server::bind(address, Router::new(), LONG).await;
            let error = bound.map(|_| ()).map_err(|error| error.kind());
            let expected = Err(io::ErrorKind::AddrInUse);
            assert_eq!(error, expected, "`bind` to a port of {owner}");
        }
    }

    #[tokio::test]
    async fn a_port_is_free_as_soon_as_its_server_has_stopped() {
        let server = TestServer::start(LONG).await;
        let address = server.address;
        let mut client = server.client().await;
        client.get("/quick").await;
        assert_eq!(status_and_body(client.response().await), ok("quick"));
        // The server closes the connection first: it is in TIME_WAIT.
        server.stop.cancel();
        assert_eq!(server.stopped().await, Stopped { aborted: 0 });
        assert!(client.is_closed().await, "expected an idle client's end");
        drop(client);
        // A process that another test starts may inherit the port for a moment.
        let bound = with_deadline(async {
            while Server::bind(address, Router::new(), LONG).await.is_err() {
                sleep(TICK).await;
            }
        });
        bound.await.expect("expected `bind` to succeed after a server's end");
    }

    #[tokio::test]
    async fn clients_can_connect_before_serve_is_called() {
        for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            let any_port = SocketAddr::new(ip, 0);
            if std::net::TcpListener::bind(any_port).is_err() {
                continue; // a machine without IPv6
            }
            let router = Handlers::new().router();
            let server = Server::bind(any_port, router, LONG).await;
            let server = server.expect("`bind` failed for port 0");
            let address = server.local_addr().unwrap();
            assert_eq!(address.ip(), ip, "address of the server");
            let early = Client::connect(address).await;
            let mut early = early.expect("expected an open port after `bind`");
            early.get("/quick").await;
            let serving = tokio::spawn(server.serve(CancellationToken::new()));
            assert_eq!(
                status_and_body(early.response().await),
                ok("quick"),
                "response to a request that was sent before `serve`"
            );
            serving.abort();
        }
    }

    #[tokio::test]
    async fn a_slow_client_does_not_delay_other_clients() {
        let server = TestServer::start(LONG).await;
        let mut slow = server.waiting_client().await;
        let _silent = server.client().await;
        let mut partial = server.client().await;
        partial.send("GET /qui").await;
        let mut quick = server.client().await;
        for _ in 0..3 {
            quick.get("/quick").await;
            assert_eq!(
                status_and_body(quick.response().await),
                ok("quick"),
                "response while another request is in its handler"
            );
        }
        server.handlers.release.add_permits(1);
        assert_eq!(
            status_and_body(slow.response().await),
            ok("waited"),
            "response to the slow request"
        );
    }

    #[tokio::test]
    async fn a_handler_panic_ends_only_its_own_connection() {
        check_a_panic(false).await;
    }
}

mod drains {
    use super::*;

    #[tokio::test]
    async fn a_client_that_has_closed_its_sending_half_gets_its_response() {
        for shuts_down in [false, true] {
            let server = TestServer::start(LONG).await;
            let mut client = server.waiting_client().await;
            client.stream.shutdown().await.expect("an open connection");
            server.run_until_idle().await;
            if shuts_down {
                server.shut_down().await;
            }
            server.handlers.release.add_permits(1);
            assert_eq!(
                status_and_body(client.response().await),
                ok("waited"),
                "response to a client that has closed its sending half; \
                 response during the drain: {shuts_down}"
            );
            server.stop.cancel();
            assert_eq!(server.stopped_at_once().await, Stopped { aborted: 0 });
        }
    }

    /// Returns the head of an upload and the encoded body, which has `length`
    /// bytes.
    fn upload(path: &str, length: usize, is_chunked: bool) -> (String, String) {
        let body = "y".repeat(length);
        let (header, body) = match is_chunked {
            true => (
                "transfer-encoding: chunked".to_owned(),
                format!("{length:x}\r\n{body}\r\n0\r\n\r\n"),
            ),
            false => (format!("content-length: {length}"), body),
        };
        let post = format!("POST {path} HTTP/1.1\r\nHost: here\r\n");
        (format!("{post}{header}\r\n\r\n"), body)
    }

    #[tokio::test]
    async fn a_client_that_still_sends_its_request_gets_the_whole_response() {
        const READS: [&str; 4] = ["drops", "nothing", "first", "all"];
        // A client that sends more than fits into buffers before it reads the
        // response can only get a short one.
        const LENGTHS: [(usize, usize); 4] =
            [(1, 5), (17, BIG / 8), (70_000, BIG / 8), (BIG / 8, 5)];
        for (case, (sends, gets)) in
            LENGTHS.into_iter().cycle().take(16).enumerate()
        {
            let read = READS[case / 4];
            for (shuts_down, is_chunked) in
                [(false, case % 2 == 0), (true, true), (true, false)]
            {
                let server = TestServer::start(LONG).await;
                let path = format!("/upload/{read}/{gets}");
                let (head, body) = upload(&path, sends, is_chunked);
                let mut client = server.client_that_sent(&head).await;
                if shuts_down {
                    server.shut_down().await;
                }
                server.handlers.release.add_permits(1);
                server.run_until_idle().await;
                let mut sent = Some(Ok(()));
                let (first, rest) = body.split_at(body.len().min(8));
                for part in [first, rest] {
                    let write = client.stream.write_all(part.as_bytes());
                    sent = with_deadline(write).await;
                    server.run_until_idle().await;
                }
                let sent = sent.map(|it| it.is_ok());
                let response = client.response().await;
                let seen = response.map(|it| (it.status, it.body.len()));
                assert_eq!(
                    (sent, seen),
                    (Some(true), Some((413, gets))),
                    "whether the client could send a body of {sends} bytes \
                     (chunked: {is_chunked}), and status and length of the \
                     response; read by the handler: {read}; response during \
                     the drain: {shuts_down}"
                );
                drop(client);
                server.stop.cancel();
                let stopped = server.stopped_at_once().await;
                assert_eq!(stopped, Stopped { aborted: 0 });
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_slowly_gets_the_whole_response() {
        let server = TestServer::start(LONG).await;
        let (head, _) = upload("/upload/drops/5", BIG, false);
        let mut silent = server.client_that_sent(&head).await;
        let (head, _) = upload("/upload/drops/1500000", BIG, false);
        let mut slow = server.client_that_sent(&head).await;
        server.shut_down().await;
        server.handlers.release.add_permits(2);
        let status = silent.response().await.map(|it| it.status);
        assert_eq!(
            (status, within(AT_ONCE, silent.is_closed()).await),
            (Some(413), Some(true)),
            "status, and whether the server then closed its sending half"
        );
        // In ticks. All of the pauses take longer than a second.
        for pause in [2; 55].into_iter().chain([20, 2, 2]) {
            let sent = slow.stream.write_all(b"y").await;
            sent.expect("expected to be able to send: no pause takes a second");
            sleep(pause * TICK).await;
        }
        let seen = slow.response().await.map(|it| it.body.len());
        assert_eq!(seen, Some(1_500_000), "length of an early response");
        drop(slow);
        // The other client has been silent for more than a second.
        assert_eq!(server.stopped_at_once().await, Stopped { aborted: 0 });
    }

    #[tokio::test]
    async fn a_client_that_reads_late_gets_the_whole_response() {
        // The client may have sent one more request, even a malformed one.
        const NEXT: [&str; 3] = ["", "/quick?", "/not a path "];
        let lengths = [1, 17, 130_000, 1_500_000, BIG / 8].repeat(6);
        for (case, length) in lengths.into_iter().enumerate() {
            let (next, shuts_down) = (NEXT[case / 10], case % 10 < 5);
            let server = TestServer::start(LONG).await;
            let (head, _) = upload(&format!("/upload/all/{length}"), 0, false);
            let mut client = server.client_that_sent(&head).await;
            if !next.is_empty() {
                client.get(&format!("{next}{}", "x".repeat(60_000))).await;
            }
            if shuts_down {
                server.shut_down().await;
            }
            server.handlers.release.add_permits(1);
            // The server writes all that fits into the buffers, and may close.
            server.run_until_idle().await;
            server.shut_down().await;
            let response = client.response().await;
            assert_eq!(
                response.map(|it| (it.status, it.body.len())),
                Some((413, length)),
                "status and length of a response that is read late; next \
                 request: {next:?}; response during the drain: {shuts_down}"
            );
            drop(client);
            assert_eq!(server.stopped_at_once().await, Stopped { aborted: 0 });
        }
    }

    #[tokio::test]
    async fn connections_in_the_backlog_do_not_delay_shutdown() {
        let server = bind(Handlers::new().router(), LONG).await;
        let address = server.local_addr().expect("a bound server");
        let stop = CancellationToken::new();
        // This test polls the server itself. Between two polls, clients connect
        // and shutdown begins.
        let mut serve = pin!(server.serve(stop.clone()));
        assert!(within(2, &mut serve).await.is_none(), "`serve` ended early");
        let connect = || std::net::TcpStream::connect(address);
        let waiting: Vec<_> = std::iter::repeat_with(connect)
            .take(100)
            .collect::<io::Result<_>>()
            .expect("expected an open port");
        stop.cancel();
        let stopped = within(AT_ONCE, serve).await;
        stopped.expect(
            "expected `serve` to return at once: no connection had a request",
        );
        for stream in waiting {
            stream.set_nonblocking(true).expect("an open socket");
            let stream = TcpStream::from_std(stream).expect("a runtime");
            let mut client = Client { stream, received: Vec::new() };
            assert!(
                client.is_closed().await,
                "expected a connection in the backlog to be closed"
            );
        }
    }

    #[tokio::test]
    async fn a_request_in_flight_gets_a_response_with_a_connection_close_header()
     {
        // The first two cannot be added to an `Instant`.
        let seconds = [u64::MAX, 1 << 61, 10].map(Duration::from_secs);
        for drain in seconds.into_iter().chain([LONG]) {
            let server = TestServer::start(drain).await;
            let mut client = server.waiting_client().await;
            server.shut_down().await;
            server.handlers.release.add_permits(1);
            let response = client.response().await;
            let is_closing = response.as_ref().is_some_and(|it| it.closes);
            assert_eq!(
                (status_and_body(response), is_closing),
                (ok("waited"), true),
                "response to a request in flight at shutdown, and whether it \
                 has the header `connection: close`; time of the drain: \
                 {drain:?}"
            );
            assert!(
                client.is_closed().await,
                "expected the connection to be closed after its last response"
            );
            drop(client);
            assert_eq!(server.stopped().await, Stopped { aborted: 0 });
        }
    }

    #[tokio::test]
    async fn a_response_begun_before_shutdown_is_sent_in_full() {
        let server = TestServer::start(LONG).await;
        let mut client = server.client().await;
        client.get("/big").await;
        assert!(
            client.read_until(|bytes| !bytes.is_empty()).await,
            "expected a response to GET /big before shutdown"
        );
        server.shut_down().await;
        let length = client.response().await.map(|it| it.body.len());
        assert_eq!(length, Some(BIG), "length of a response, begun earlier");
        assert_eq!(server.stopped().await, Stopped { aborted: 0 });
    }

    #[tokio::test]
    async fn a_handler_panic_during_the_drain_ends_only_its_own_connection() {
        check_a_panic(true).await;
    }

    #[tokio::test]
    async fn new_connections_are_refused_during_the_drain() {
        let server = TestServer::start(LONG).await;
        let mut client = server.waiting_client().await;
        server.stop.cancel();
        // The request in flight keeps the server draining.
        let is_closed = async {
            while let Ok(client) = Client::connect(server.address).await {
                drop(client);
                sleep(TICK).await;
            }
        };
        let closed = within(AT_ONCE, is_closed).await;
        closed.expect("clients can still connect while the server drains");
        server.handlers.release.add_permits(1);
        assert_eq!(
            status_and_body(client.response().await),
            ok("waited"),
            "response to a request in flight at shutdown"
        );
        assert_eq!(server.stopped().await, Stopped { aborted: 0 });
    }

    #[tokio::test]
    async fn idle_connections_do_not_delay_shutdown() {
        let server = TestServer::start(LONG).await;
        let mut used = server.client().await;
        used.get("/quick").await;
        assert_eq!(status_and_body(used.response().await), ok("quick"));
        let mut new = server.client().await;
        // Once this request is answered, `new` has been accepted, too.
        let mut last = server.client().await;
        let (head, body) = upload("/quick", 17, false);
        last.send(&format!("{head}{body}")).await;
        assert_eq!(status_and_body(last.response().await), ok("quick"));
        server.stop.cancel();
        assert_eq!(server.stopped_at_once().await, Stopped { aborted: 0 });
        for (name, client) in [
            ("an idle connection", &mut used),
            ("a connection that has sent nothing", &mut new),
            ("an idle connection", &mut last),
        ] {
            assert!(
                client.is_closed().await,
                "expected {name} to be closed by shutdown"
            );
        }
    }
}

mod aborts {
    use super::*;

    #[tokio::test]
    async fn a_response_that_is_cut_off_ends_with_a_reset() {
        const CAUSES: [&str; 4] = ["deadline", "drop", "fails", "panics"];
        for case in 0..16 {
            let (cause, shuts_down) = (CAUSES[case % 4], case % 8 < 4);
            let drain = if cause == "deadline" { SHORT } else { LONG };
            let server = TestServer::start(drain).await;
            // In HTTP/1.0, only the end of the connection ends the response.
            let version = if case < 8 { "1.0" } else { "1.1\r\nHost: here" };
            let request = format!("GET /stream/{cause} HTTP/{version}\r\n\r\n");
            let mut client = server.client_that_sent(&request).await;
            let has_part =
                |it: &[u8]| it.ends_with(b"part") || it.ends_with(b"part\r\n");
            assert!(client.read_until(has_part).await, "expected a first part");
            if shuts_down {
                server.shut_down().await;
            }
            match cause {
                "deadline" => server.stop.cancel(),
                "fails" | "panics" => server.handlers.release.add_permits(1),
                _ => server.serving.abort(),
            }
            let seen = client.read_to_end().await.map_err(|it| it.kind());
            assert_eq!(
                seen,
                Err(io::ErrorKind::ConnectionReset),
                "end of a response that is cut off; cause: {cause}; during \
                 the drain: {shuts_down}; request: {request:?}"
            );
            if cause == "drop" {
                continue;
            }
            server.stop.cancel();
            assert_eq!(
                server.stopped_at_once().await,
                Stopped { aborted: usize::from(cause == "deadline") },
                "result after a response that was cut off; cause: {cause}"
            );
        }
    }

    #[tokio::test]
    async fn an_unfinished_upload_delays_shutdown_only_until_the_deadline() {
        for sends_on in [true, false] {
            let server = TestServer::start(SHORT).await;
            let request = "POST /upload/drops/5 HTTP/1.1\r\nHost: here\r\n\
                           content-length: 999999999\r\n\r\n";
            let mut client = server.client_that_sent(request).await;
            server.shut_down().await;
            server.handlers.release.add_permits(1);
            let sends = async {
                while sends_on && client.stream.write_all(b"y").await.is_ok() {
                    sleep(TICK).await;
                }
            };
            let both = async { tokio::join!(server.serving, sends).0 };
            assert!(
                within(4 * AT_ONCE, both).await.is_some(),
                "`serve` did not return after the drain deadline of {SHORT:?}: \
                 a client has an unread body, and sends on: {sends_on}"
            );
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_in_flight_at_the_drain_deadline_are_aborted() {
        for drain in [Duration::ZERO, 2 * SHORT] {
            let server = TestServer::start(drain).await;
            let mut clients = Vec::new();
            for _ in 0..3 {
                clients.push(server.client_in_handler("/drops_slowly").await);
            }
            let start = Instant::now();
            server.stop.cancel();
            let ticks = (drain.as_millis() / TICK.as_millis()) as u32;
            let stopped = within(ticks + 2 * AT_ONCE, server.serving).await;
            let stopped = stopped.unwrap_or_else(|| {
                panic!("`serve` did not return at the deadline of {drain:?}")
            });
            let (stopped, running) = stopped.expect("`serve` panicked");
            assert_eq!(
                stopped,
                Stopped { aborted: 3 },
                "result with 3 requests in flight at the deadline of {drain:?}"
            );
            assert_eq!(running, 0, "handlers that still run after `serve`");
            let took = start.elapsed();
            assert!(
                took >= drain,
                "requests were aborted after {took:?}, before the drain \
                 deadline of {drain:?}"
            );
            for mut client in clients {
                assert!(
                    client.is_closed().await,
                    "expected an aborted connection to be closed, without a \
                     response"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_partial_request_delays_shutdown_only_until_the_deadline() {
        for part in ["G", "GET /quick HTTP/1.1\r\nHost: he"] {
            let server = TestServer::start(SHORT).await;
            let mut client = server.client().await;
            client.send(part).await;
            // Once this request is answered, `client` has been accepted, too.
            let mut other = server.client().await;
            other.get("/quick").await;
            assert_eq!(status_and_body(other.response().await), ok("quick"));
            server.stop.cancel();
            let stopped = with_deadline(server.serving).await;
            assert!(
                stopped.is_some(),
                "`serve` did not return after the drain deadline of {SHORT:?}: \
                 a client has sent only {part:?}"
            );
            assert!(
                client.is_closed().await,
                "expected a connection that has sent only {part:?} to be \
                 closed, without a response"
            );
        }
    }

    #[tokio::test]
    async fn all_connections_share_one_drain_deadline() {
        let server = TestServer::start(SHORT).await;
        let mut clients = Vec::new();
        // With a deadline for each, one after the other, they would take 15 s.
        for _ in 0..260 {
            clients.push(server.waiting_client().await);
        }
        server.stop.cancel();
        assert_eq!(
            server.stopped().await,
            Stopped { aborted: 260 },
            "result with 260 requests in flight at the deadline"
        );
    }

    #[tokio::test]
    async fn the_drain_deadline_does_not_restart_when_a_connection_ends() {
        const STEP: Duration = Duration::from_millis(80);
        let server = TestServer::start(3 * STEP).await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(server.waiting_client().await);
        }
        let release = Arc::clone(&server.handlers.release);
        server.stop.cancel();
        // One request ends at each step. All of them would take 7 steps.
        let steps = tokio::spawn(async move {
            let mut steps = tokio::time::interval(STEP);
            loop {
                steps.tick().await;
                release.add_permits(1);
            }
        });
        let Stopped { aborted } = server.stopped().await;
        steps.abort();
        assert!(
            aborted > 0,
            "expected aborted connections: the deadline was after 3 steps, and \
             the 8 requests take 7; seen: {aborted}"
        );
    }

    #[tokio::test]
    async fn a_request_answered_before_the_deadline_is_not_aborted() {
        // A slow machine may need the longer timeout.
        for drain in [2 * SHORT, 20 * SHORT] {
            let (server, started) =
                (TestServer::start(drain).await, Instant::now());
            let mut answered = server.waiting_client().await;
            let mut aborted = server.waiting_client().await;
            let mut quick = server.client().await;
            // Serves for longer than the drain timeout, which must not count
            // before shutdown begins.
            while started.elapsed() < drain + SHORT {
                quick.get("/quick").await;
                assert_eq!(
                    status_and_body(quick.response().await),
                    ok("quick"),
                    "response before shutdown"
                );
            }
            let start = Instant::now();
            server.shut_down().await;
            server.handlers.release.add_permits(1);
            let response = answered.response().await;
            if response.is_none() && start.elapsed() >= drain {
                continue;
            }
            assert_eq!(
                status_and_body(response),
                ok("waited"),
                "response to a request that ends before the drain deadline of \
                 {drain:?}"
            );
            drop(answered);
            assert_eq!(
                server.stopped().await,
                Stopped { aborted: 1 },
                "result with 1 of 2 requests in flight at the deadline"
            );
            assert!(
                aborted.is_closed().await,
                "expected the aborted connection to be closed, without a \
                 response"
            );
            return;
        }
        panic!(
            "a request that ends when the drain begins was not answered, with \
             a drain timeout of {:?}",
            20 * SHORT
        );
    }

    #[tokio::test]
    async fn dropping_serve_frees_the_port_and_closes_connections() {
        let server = TestServer::start(LONG).await;
        let mut client = server.waiting_client().await;
        server.serving.abort();
        assert!(
            client.is_closed().await,
            "expected the connection to be closed when `serve` was dropped"
        );
        // A process that another test starts may inherit the port for a moment.
        let is_free = async {
            while std::net::TcpListener::bind(server.address).is_err() {
                sleep(TICK).await;
            }
        };
        let free = with_deadline(is_free).await;
        free.expect("the port is still in use after `serve` was dropped");
    }
}
