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

/// Nobody waits longer for what has to happen. Counted in turns of the runtime in
/// which the server runs as well: what slows it down slows them down.
const TURNS: u32 = 200;
const TURN: Duration = Duration::from_millis(10);

/// A drain that no test outlives.
const LONG: Duration = Duration::from_secs(3600);

/// A drain that is soon over.
const SHORT: Duration = Duration::from_millis(100);

/// More than the buffers of two sockets hold.
const BIG: usize = 32 << 20;

/// What `future` returns, unless it waits for what does not happen.
async fn in_time<F: Future>(future: F) -> Option<F::Output> {
    let all_turns = async {
        for _ in 0..TURNS {
            sleep(TURN).await;
        }
    };
    tokio::select! {
        biased;
        output = future => Some(output),
        () = all_turns => None,
    }
}

/// A server on a port of its own, and what its handlers do.
struct Site {
    address: SocketAddr,
    stop: CancellationToken,
    /// With the handlers that were left when `serve` returned.
    served: JoinHandle<(Stopped, usize)>,
    gates: Gates,
}

#[derive(Clone)]
struct Gates {
    /// Handlers that have begun to wait.
    begun: Arc<Semaphore>,
    /// Lets a handler go on.
    go_on: Arc<Semaphore>,
    /// Handlers that wait, or were dropped in their wait and are not gone yet.
    inside: Arc<AtomicUsize>,
}

struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Gates {
    fn new() -> Self {
        Self {
            begun: Arc::new(Semaphore::new(0)),
            go_on: Arc::new(Semaphore::new(0)),
            inside: Arc::default(),
        }
    }

    async fn wait(self) -> &'static str {
        self.inside.fetch_add(1, Relaxed);
        let _inside = Inside(Arc::clone(&self.inside));
        self.begun.add_permits(1);
        self.go_on.acquire().await.expect("it stays open").forget();
        "waited"
    }

    /// `/quick`, `/big`, `/panics`, and what waits to be let go on: `/waits`, and
    /// `/waits_and_panics`.
    fn router(&self) -> Router {
        let gates = self.clone();
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
            .route("/waits", get(move || gates.clone().wait()))
            .route("/waits_and_panics", get(panics_late))
    }
}

impl Site {
    async fn open(drain: Duration) -> Self {
        let gates = Gates::new();
        let server = bound(gates.router(), drain).await;
        let address = server.local_addr().expect("it has an address");
        let stop = CancellationToken::new();
        let serving = server.serve(stop.clone());
        let inside = Arc::clone(&gates.inside);
        let served = tokio::spawn(async move {
            let stopped = serving.await;
            // At once: a moment later they may have gone by themselves.
            (stopped, inside.load(Relaxed))
        });
        Self { address, stop, served, gates }
    }

    async fn client(&self) -> Client {
        Client::connect(self.address).await.expect("the port is open")
    }

    /// A client whose request is in its handler.
    async fn client_that_waits(&self) -> Client {
        self.client_inside("/waits").await
    }

    async fn client_inside(&self, path: &str) -> Client {
        let mut client = self.client().await;
        client.asks(path).await;
        let begun = in_time(self.gates.begun.acquire()).await;
        begun.expect("the handler begins").expect("it stays open").forget();
        client
    }

    /// Tells it to stop, and lets it hear that: it has no thread of its own.
    async fn stops(&self) {
        self.stop.cancel();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    async fn stopped(self) -> Stopped {
        let (stopped, _left) = self.stopped_and_left().await;
        stopped
    }

    async fn stopped_and_left(self) -> (Stopped, usize) {
        let stopped = in_time(self.served).await.expect("`serve` returns");
        stopped.expect("`serve` does not panic")
    }
}

async fn bound(router: Router, drain: Duration) -> Server {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    Server::bind(any, router, drain).await.expect("some port is free")
}

/// One connection, of somebody who writes HTTP by hand.
struct Client {
    stream: TcpStream,
    /// Of the next answers: what has come.
    come: Vec<u8>,
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    closes: bool,
}

impl Client {
    async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = in_time(TcpStream::connect(address)).await;
        let stream = stream.expect("a connection is made or refused")?;
        Ok(Self { stream, come: Vec::new() })
    }

    async fn sends(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("it is read");
    }

    async fn asks(&mut self, path: &str) {
        self.sends(&format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n")).await;
    }

    /// Reads on until `is_enough`. Whether it came so far.
    async fn reads(&mut self, is_enough: impl Fn(&[u8]) -> bool) -> bool {
        while !is_enough(&self.come) {
            let read = self.stream.read_buf(&mut self.come);
            match in_time(read).await {
                Some(Ok(1..)) => {}
                Some(Ok(0) | Err(_)) => return false,
                None => panic!("neither an answer nor an end"),
            }
        }
        true
    }

    /// Reads one answer, or none.
    async fn answer(&mut self) -> Option<Answer> {
        const END: &[u8] = b"\r\n\r\n";
        let end = |come: &[u8]| come.windows(4).position(|it| it == END);
        if !self.reads(|come| end(come).is_some()).await {
            return None;
        }
        let head_ends = end(&self.come).unwrap() + END.len();
        let head = String::from_utf8_lossy(&self.come[..head_ends]);
        let head = head.to_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.split("content-length: ").nth(1)?;
        let length: usize = length.split("\r\n").next()?.parse().ok()?;
        let closes = head.contains("\r\nconnection: close\r\n");
        let all = head_ends + length;
        let is_whole = self.reads(|come| come.len() >= all).await;
        let body = self.come.split_off(head_ends.min(self.come.len()));
        self.come.clear();
        is_whole.then_some(Answer { status, body, closes })
    }

    /// Whether the server has closed, and sent nothing more.
    async fn is_left(&mut self) -> bool {
        !self.reads(|come| !come.is_empty()).await
    }
}

/// Text, as tests compare it.
fn text(answer: Option<Answer>) -> Option<(u16, String)> {
    let answer = answer?;
    Some((answer.status, String::from_utf8(answer.body).ok()?))
}

fn said(status: u16, body: &str) -> Option<(u16, String)> {
    Some((status, body.to_owned()))
}

mod serves {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_an_error_before_anything_is_served() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let bound = Server::bind(address, Router::new(), LONG).await;
        let error = bound.map(|_| ()).map_err(|error| error.kind());
        assert_eq!(error, Err(io::ErrorKind::AddrInUse));
    }

    #[tokio::test]
    async fn its_port_is_open_before_it_serves() {
        let server = bound(Gates::new().router(), LONG).await;
        let address = server.local_addr().unwrap();
        let mut early = Client::connect(address).await.expect("an open port");
        early.asks("/quick").await;
        let serving = tokio::spawn(server.serve(CancellationToken::new()));
        assert_eq!(text(early.answer().await), said(200, "quick"));
        serving.abort();
    }

    #[tokio::test]
    async fn one_client_waits_for_no_other() {
        let site = Site::open(LONG).await;
        let mut slow = site.client_that_waits().await;
        let mut silent = site.client().await;
        silent.sends("GET /qui").await;
        let mut quick = site.client().await;
        for _ in 0..3 {
            quick.asks("/quick").await;
            assert_eq!(text(quick.answer().await), said(200, "quick"));
        }
        site.gates.go_on.add_permits(1);
        assert_eq!(text(slow.answer().await), said(200, "waited"));
    }

    #[tokio::test]
    async fn a_handler_that_panics_takes_nobody_along() {
        let site = Site::open(LONG).await;
        let mut other = site.client_that_waits().await;
        let mut unlucky = site.client().await;
        unlucky.asks("/panics").await;
        assert!(unlucky.is_left().await, "its connection ends");
        let mut next = site.client().await;
        next.asks("/quick").await;
        assert_eq!(text(next.answer().await), said(200, "quick"));
        site.gates.go_on.add_permits(1);
        assert_eq!(text(other.answer().await), said(200, "waited"));
    }
}

mod drains {
    use super::*;

    #[tokio::test]
    async fn a_request_in_flight_is_answered() {
        let site = Site::open(LONG).await;
        let mut client = site.client_that_waits().await;
        site.stops().await;
        site.gates.go_on.add_permits(1);
        let answer = client.answer().await.expect("the answer it waits for");
        assert_eq!((answer.status, &*answer.body), (200, &b"waited"[..]));
        assert!(answer.closes, "its `connection: close` tells to go elsewhere");
        assert!(client.is_left().await, "and then the connection ends");
        assert_eq!(site.stopped().await, Stopped { aborted: 0 });
    }

    #[tokio::test]
    async fn an_answer_is_sent_to_its_end() {
        let site = Site::open(LONG).await;
        let mut client = site.client().await;
        client.asks("/big").await;
        assert!(client.reads(|come| !come.is_empty()).await, "it begins");
        site.stops().await;
        let answer = client.answer().await.expect("the rest of the answer");
        assert_eq!(answer.body.len(), BIG, "bytes of the answer");
        assert_eq!(site.stopped().await, Stopped { aborted: 0 });
    }

    #[tokio::test]
    async fn a_panic_meanwhile_takes_nobody_along() {
        let site = Site::open(LONG).await;
        // The first one to wait is the first one to be let go on.
        let mut unlucky = site.client_inside("/waits_and_panics").await;
        let mut other = site.client_that_waits().await;
        site.stops().await;
        site.gates.go_on.add_permits(1);
        assert!(unlucky.is_left().await, "its connection ends");
        site.gates.go_on.add_permits(1);
        assert_eq!(text(other.answer().await), said(200, "waited"));
        assert_eq!(site.stopped().await, Stopped { aborted: 0 });
    }

    #[tokio::test]
    async fn after_the_stop_nobody_is_let_in() {
        let site = Site::open(LONG).await;
        let mut client = site.client_that_waits().await;
        site.stop.cancel();
        // While it drains, and not only when it has.
        let is_closed = async {
            while let Ok(client) = Client::connect(site.address).await {
                drop(client);
                sleep(TURN).await;
            }
        };
        in_time(is_closed).await.expect("nobody is let in");
        site.gates.go_on.add_permits(1);
        assert_eq!(text(client.answer().await), said(200, "waited"));
        assert_eq!(site.stopped().await, Stopped { aborted: 0 });
    }

    #[tokio::test]
    async fn who_is_idle_does_not_hold_it_up() {
        let site = Site::open(LONG).await;
        let mut used = site.client().await;
        used.asks("/quick").await;
        assert_eq!(text(used.answer().await), said(200, "quick"));
        let mut fresh = site.client().await;
        // By then the server has seen the one before.
        let mut last = site.client().await;
        last.asks("/quick").await;
        assert_eq!(text(last.answer().await), said(200, "quick"));
        site.stop.cancel();
        assert_eq!(site.stopped().await, Stopped { aborted: 0 });
        for client in [&mut used, &mut fresh, &mut last] {
            assert!(client.is_left().await, "each connection ends");
        }
    }
}

mod aborts {
    use super::*;

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_cut_off() {
        let site = Site::open(SHORT).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(site.client_that_waits().await);
        }
        let start = Instant::now();
        site.stop.cancel();
        let (stopped, left) = site.stopped_and_left().await;
        assert_eq!(stopped, Stopped { aborted: 3 });
        assert_eq!(left, 0, "handlers that still run");
        let took = start.elapsed();
        assert!(took >= SHORT, "cut off after {took:?} of {SHORT:?}");
        for mut client in clients {
            assert!(client.is_left().await, "each connection ends");
        }
    }

    #[tokio::test]
    async fn half_a_request_does_not_hold_it_up() {
        for half in ["G", "GET /quick HTTP/1.1\r\nHost: he"] {
            let site = Site::open(SHORT).await;
            let mut client = site.client().await;
            client.sends(half).await;
            // By then the server has seen the one before.
            let mut other = site.client().await;
            other.asks("/quick").await;
            assert_eq!(text(other.answer().await), said(200, "quick"));
            site.stop.cancel();
            let stopped = in_time(site.served).await;
            assert!(stopped.is_some(), "{half:?} holds it up for ever");
            assert!(client.is_left().await, "its connection ends");
        }
    }

    #[tokio::test]
    async fn the_drain_is_one_for_all() {
        let site = Site::open(SHORT).await;
        let mut clients = Vec::new();
        // One after the other, they would take 20 s.
        for _ in 0..200 {
            clients.push(site.client_that_waits().await);
        }
        site.stop.cancel();
        assert_eq!(site.stopped().await, Stopped { aborted: 200 });
    }

    #[tokio::test]
    async fn the_drain_does_not_begin_again() {
        const STEP: Duration = Duration::from_millis(100);
        let site = Site::open(4 * STEP).await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(site.client_that_waits().await);
        }
        let go_on = Arc::clone(&site.gates.go_on);
        site.stop.cancel();
        // One ends at each step: all of them would take 7.
        let steps = tokio::spawn(async move {
            let mut steps = tokio::time::interval(STEP);
            loop {
                steps.tick().await;
                go_on.add_permits(1);
            }
        });
        let Stopped { aborted } = site.stopped().await;
        steps.abort();
        assert!(aborted > 0, "after 4 steps of 7 none was aborted");
    }

    #[tokio::test]
    async fn what_ends_in_time_is_not_aborted() {
        // The machine may be too slow for the shorter one.
        for drain in [2 * SHORT, 20 * SHORT] {
            let (site, opened) = (Site::open(drain).await, Instant::now());
            let mut ends = site.client_that_waits().await;
            let mut is_late = site.client_that_waits().await;
            let mut quick = site.client().await;
            // For longer than it drains: that is counted from the stop.
            while opened.elapsed() < drain + SHORT {
                quick.asks("/quick").await;
                assert_eq!(text(quick.answer().await), said(200, "quick"));
            }
            let start = Instant::now();
            site.stops().await;
            site.gates.go_on.add_permits(1);
            let answer = ends.answer().await;
            if answer.is_none() && start.elapsed() >= drain {
                continue;
            }
            assert_eq!(text(answer), said(200, "waited"));
            assert_eq!(site.stopped().await, Stopped { aborted: 1 });
            assert!(is_late.is_left().await, "its connection ends");
            return;
        }
        panic!("no drain is long enough for what ends at once");
    }

    #[tokio::test]
    async fn serving_that_is_given_up_leaves_nothing() {
        let site = Site::open(LONG).await;
        let mut client = site.client_that_waits().await;
        site.served.abort();
        assert!(client.is_left().await, "the connection ends");
        // A process that another test starts may have it a moment longer.
        let is_free = async {
            while std::net::TcpListener::bind(site.address).is_err() {
                sleep(TURN).await;
            }
        };
        in_time(is_free).await.expect("the port is free again");
    }
}
