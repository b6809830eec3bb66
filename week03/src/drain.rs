//! Graceful shutdown of an HTTP server: no request is lost.
//!
//! *Question.* A process receives SIGTERM. A hundred requests are in flight, a
//! thousand connections are idle, and one client has sent half a header. In
//! which order does the server close them, and what limits the wait?
//!
//! *Idea.* Four states. **Bind** first, so that a taken port is an error before
//! anything else has begun. **Serve** until `stop` is cancelled. **Drain**:
//! close the listener and the idle connections, and let in-flight requests
//! complete. **Abort** the remaining connections at the drain deadline.
//!
//! *Guarantee.* Once `stop` is cancelled, no connection is accepted. A request
//! that has reached its handler by then gets its whole response, if that takes
//! no longer than the drain. This is also true if the client has closed its
//! sending half, and if it still sends a body that the handler does not read. A
//! response that is cut off ends with a reset, so that no client takes it for a
//! whole one. [`serve`](Server::serve) returns when no connection is left, and
//! at the latest soon after the drain deadline, whatever clients send or do not
//! send.
//!
//! *Cost.* If a client has connected but is not accepted yet, its connection is
//! reset. If a request has arrived but is not read yet, it is lost with its
//! connection. So load balancers have to stop sending before the shutdown. Each
//! connection is a task. A client that disconnects looks like a client that has
//! closed its sending half: its handler runs on, unless
//! [`half_close`](Server::half_close) is off. `serve` does not wait for upgraded
//! connections, such as WebSockets.
//!
//! ```
//! use std::net::Ipv4Addr;
//! use std::time::Duration;
//!
//! use axum::{Router, routing::get};
//! use tokio_util::sync::CancellationToken;
//! use week03::drain::Server;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let router = Router::new().route("/", get(async || "hello"));
//! let drain = Duration::from_secs(20);
//! let address = (Ipv4Addr::LOCALHOST, 0).into(); // any free port
//! let server = Server::bind(address, router, drain).await?;
//! println!("http://{}/", server.local_addr()?);
//!
//! let stop = CancellationToken::new();
//! stop.cancel(); // in a service, a signal handler does this
//! let stopped = server.serve(stop).await;
//! assert_eq!(stopped.aborted, 0);
//! # Ok(())
//! # }
//! ```

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::serve::Listener;
use futures_util::FutureExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a lingering close waits for a client that sends nothing.
const QUIET: Duration = Duration::from_secs(1);

/// How long a lingering close reads what a client sends.
const LINGER: Duration = Duration::from_secs(30);

/// A server with an open port. Clients can connect, and get a response once
/// [`serve`](Self::serve) runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    drain: Duration,
    half_close: bool,
}

/// The result of a shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// The number of connections that were aborted at the drain deadline.
    pub aborted: usize,
}

impl Server {
    /// Opens a port at `address`. The drain deadline is `drain` after the
    /// cancellation of `stop`.
    ///
    /// # Errors
    ///
    /// Returns an error if the address is in use, or does not belong to this
    /// machine.
    pub async fn bind(
        address: SocketAddr,
        router: Router,
        drain: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, router, drain, half_close: true })
    }

    /// Sets whether a client may close its sending half and wait for its
    /// response. By default, it may. Without this, the handler of a client that
    /// disconnects is dropped, and so are its queries and calls.
    #[must_use]
    pub fn half_close(mut self, allowed: bool) -> Self {
        self.half_close = allowed;
        self
    }

    /// Returns the address of the listener. After a bind to port 0, this is the
    /// port that the system has chosen.
    ///
    /// # Errors
    ///
    /// Returns an error if the system cannot return the address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled, and then drains.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the port and aborts every connection at once.
    pub async fn serve(self, stop: CancellationToken) -> Stopped {
        let Self { mut listener, router, drain, half_close } = self;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // The result is ignored: neither a panic of a handler nor a
                // client that disconnects is a failure of the server.
                Some(_ended) = connections.join_next() => {}
                // Never fails: it waits if the process has too many open files.
                (stream, _) = Listener::accept(&mut listener) => {
                    let stop = stop.clone();
                    let router = router.clone();
                    connections
                        .spawn(connection(stream, router, half_close, stop));
                }
            }
        }
        // First: new clients are refused, and can go to another server.
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        // After a timeout, the remaining connections are counted and aborted.
        let _ = timeout(drain, all).await;
        let aborted = connections.len();
        // Aborts the tasks, and waits until they have ended.
        connections.shutdown().await;
        Stopped { aborted }
    }
}

/// Serves the requests of one connection. Once `stop` is cancelled, completes
/// the request that is in flight and closes the connection.
async fn connection(
    stream: TcpStream,
    router: Router,
    half_close: bool,
    stop: CancellationToken,
) {
    // Whatever drops the stream (an abort, a panic, an error) now resets the
    // connection. Otherwise, a response without a length would seem complete.
    let _ = stream.set_zero_linger();
    let is_unread = Arc::new(AtomicBool::new(false));
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        router.call(request.map(|body| {
            is_unread.store(!body.is_end_stream(), Relaxed);
            RequestBody { body, is_unread: Arc::clone(&is_unread) }
        }))
    });
    let mut served = http1::Builder::new()
        // Switches on hyper's limit of 30 s for a client to send a whole
        // header.
        .timer(TokioTimer::new())
        .half_close(half_close)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            Pin::new(&mut served).graceful_shutdown();
            if let Some(ended) = (&mut served).now_or_never() {
                // An idle connection: hyper has read the last request.
                is_unread.store(false, Relaxed);
                ended
            } else {
                (&mut served).await
            }
        }
    };
    // The body of a response has failed. Other errors are the client's.
    if ended.is_err_and(|it| it.is_user() || it.is_body_write_aborted()) {
        return;
    }
    let http1::Parts { io, read_buf, .. } = served.into_parts();
    let is_unread = is_unread.load(Relaxed) || !read_buf.is_empty();
    close(io.into_inner(), is_unread).await;
}

/// Closes a connection without a reset. hyper has closed the sending half. If
/// the client still sends, this function first reads on for a while ("lingering
/// close"): closing a socket with unread data resets the connection, and the
/// client loses the end of the response.
async fn close(mut stream: TcpStream, is_unread: bool) {
    #[expect(deprecated, reason = "without a duration, it does not block")]
    let _ = stream.set_linger(None);
    if !is_unread && !matches!(stream.try_read(&mut [0]), Ok(1..)) {
        return;
    }
    let mut discarded = vec![0; 16 << 10];
    let read_on = async {
        let mut read = async || stream.read(&mut discarded).await;
        while let Ok(Ok(1..)) = timeout(QUIET, read()).await {}
    };
    let _ = timeout(LINGER, read_on).await;
}

/// The body of a request. Notes whether the handler has read all of it.
struct RequestBody {
    body: Incoming,
    is_unread: Arc<AtomicBool>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.is_unread.store(false, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
