use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use week03::drain::{Server, Stopped};

/// The limit of every wait, in ticks of the runtime. The server runs in the
/// same runtime, so a slow machine slows both down.
const TICKS: u32 = 200;
const TICK: Duration = Duration::from_millis(10);

/// A drain timeout longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// A drain timeout that a test waits for.
const SHORT: Duration = Duration::from_millis(100);

/// The length of a body that does not fit into the buffers of two sockets.
const BIG: usize = 32 << 20;

/// Returns the output of `future`, or `None` if it takes longer than [`TICKS`].
async fn with_deadline<F: Future>(future: F) -> Option<F::Output> {
    let all_ticks = async {
        for _ in 0..TICKS {
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

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
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

    async fn wait(self) -> &'static str {
        self.running.fetch_add(1, Relaxed);
        let _running = Running(Arc::clone(&self.running));
        self.begun.add_permits(1);
        self.release.acquire().await.expect("never closed").forget();
        "waited"
    }

    /// Routes `/quick`, `/big` and `/panics` answer at once. `/waits` and
    /// `/waits_and_panics` wait for a permit of `release`.
    fn router(&self) -> Router {
        let handlers = self.clone();
        let panics =
            async || -> &'static str { panic!("on purpose: a handler's bug") };
        let late = self.clone();
        let panics_late = async || -> &'static str {
            late.wait().await;
            panic!("on purpose: a handler's bug")
        };
        Router::new()
            .route("/quick", get(async || "quick"))
            .route("/big", get(async || "x".repeat(BIG)))
            .route("/panics", get(panics))
            .route("/waits", get(move || handlers.clone().wait()))
            .route("/waits_and_panics", get(panics_late))
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
        let mut client = self.client().await;
        client.get(path).await;
        let begun = with_deadline(self.handlers.begun.acquire()).await;
        let begun = begun.unwrap_or_else(|| {
            panic!("the handler of GET {path} was not called")
        });
        begun.expect("never closed").forget();
        client
    }

    /// Begins shutdown, and runs the server until it has noticed. The server
    /// has no thread of its own.
    async fn shut_down(&self) {
        self.stop.cancel();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    async fn stopped(self) -> Stopped {
        let (stopped, _running) = self.stopped_and_running().await;
        stopped
    }

    async fn stopped_and_running(self) -> (Stopped, usize) {
        let stopped = with_deadline(self.serving).await;
        let stopped = stopped.expect("`serve` did not return after shutdown");
        stopped.expect("`serve` panicked")
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
        let body = self.received.split_off(head_ends.min(self.received.len()));
        self.received.clear();
        is_whole.then_some(Response { status, body, closes })
    }

    /// Waits until the server closes the connection. Returns false if it sends
    /// something before that.
    async fn is_closed(&mut self) -> bool {
        !self.read_until(|bytes| !bytes.is_empty()).await
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

mod serves {
    use super::*;

    #[tokio::test]
    async fn bind_returns_an_error_if_the_port_is_taken() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let bound = Server::bind(address, Router::new(), LONG).await;
        let error = bound.map(|_| ()).map_err(|error| error.kind());
        let expected = Err(io::ErrorKind::AddrInUse);
        assert_eq!(error, expected, "result of `bind` to a taken port");
    }

    #[tokio::test]
    async fn clients_can_connect_before_serve_is_called() {
        let server = bind(Handlers::new().router(), LONG).await;
        let address = server.local_addr().unwrap();
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

    #[tokio::test]
    async fn a_slow_client_does_not_delay_other_clients() {
        let server = TestServer::start(LONG).await;
        let mut slow = server.waiting_client().await;
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
        let server = TestServer::start(LONG).await;
        let mut other = server.waiting_client().await;
        let mut panicked = server.client().await;
        panicked.get("/panics").await;
        assert!(
            panicked.is_closed().await,
            "expected the connection of a panicked handler to be closed, \
             without a response"
        );
        let mut next = server.client().await;
        next.get("/quick").await;
        assert_eq!(
            status_and_body(next.response().await),
            ok("quick"),
            "response to a client that connected after the panic"
        );
        server.handlers.release.add_permits(1);
        assert_eq!(
            status_and_body(other.response().await),
            ok("waited"),
            "response to a request that was in flight during the panic"
        );
    }
}

mod drains {
    use super::*;

    #[tokio::test]
    async fn a_request_in_flight_gets_a_response_with_a_connection_close_header()
     {
        let server = TestServer::start(LONG).await;
        let mut client = server.waiting_client().await;
        server.shut_down().await;
        server.handlers.release.add_permits(1);
        let response = client.response().await.expect(
            "a request in flight at shutdown got no response: its connection \
             was closed",
        );
        assert_eq!(
            (response.status, &*response.body),
            (200, &b"waited"[..]),
            "response to a request in flight at shutdown"
        );
        assert!(
            response.closes,
            "expected the header `connection: close` in a response during the \
             drain"
        );
        assert!(
            client.is_closed().await,
            "expected the connection to be closed after its last response"
        );
        assert_eq!(server.stopped().await, Stopped { aborted: 0 });
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
        let response = client.response().await.unwrap_or_else(|| {
            panic!(
                "a response of {BIG} bytes was cut off by shutdown after it \
                 had begun"
            )
        });
        assert_eq!(response.body.len(), BIG, "length of the body");
        assert_eq!(server.stopped().await, Stopped { aborted: 0 });
    }

    #[tokio::test]
    async fn a_handler_panic_during_the_drain_ends_only_its_own_connection() {
        let server = TestServer::start(LONG).await;
        // Handlers are released in the order in which they began to wait.
        let mut panics = server.client_in_handler("/waits_and_panics").await;
        let mut other = server.waiting_client().await;
        server.shut_down().await;
        server.handlers.release.add_permits(1);
        assert!(
            panics.is_closed().await,
            "expected the connection of a panicked handler to be closed, \
             without a response"
        );
        server.handlers.release.add_permits(1);
        assert_eq!(
            status_and_body(other.response().await),
            ok("waited"),
            "response to a request that was in flight during the panic"
        );
        assert_eq!(server.stopped().await, Stopped { aborted: 0 });
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
        let closed = with_deadline(is_closed).await;
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
        last.get("/quick").await;
        assert_eq!(status_and_body(last.response().await), ok("quick"));
        server.stop.cancel();
        assert_eq!(server.stopped().await, Stopped { aborted: 0 });
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
    async fn requests_in_flight_at_the_drain_deadline_are_aborted() {
        let server = TestServer::start(SHORT).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(server.waiting_client().await);
        }
        let start = Instant::now();
        server.stop.cancel();
        let (stopped, running) = server.stopped_and_running().await;
        assert_eq!(
            stopped,
            Stopped { aborted: 3 },
            "result with 3 requests in flight at the deadline"
        );
        assert_eq!(running, 0, "handlers that still run after `serve`");
        let took = start.elapsed();
        assert!(
            took >= SHORT,
            "requests were aborted after {took:?}, before the drain deadline \
             of {SHORT:?}"
        );
        for mut client in clients {
            assert!(
                client.is_closed().await,
                "expected an aborted connection to be closed, without a \
                 response"
            );
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
        // With a deadline for each, one after the other, they would take 20 s.
        for _ in 0..200 {
            clients.push(server.waiting_client().await);
        }
        server.stop.cancel();
        assert_eq!(
            server.stopped().await,
            Stopped { aborted: 200 },
            "result with 200 requests in flight at the deadline"
        );
    }

    #[tokio::test]
    async fn the_drain_deadline_does_not_restart_when_a_connection_ends() {
        const STEP: Duration = Duration::from_millis(100);
        let server = TestServer::start(4 * STEP).await;
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
            "expected aborted connections: the deadline was after 4 steps, and \
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
