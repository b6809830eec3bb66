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
//! no longer than the drain. [`serve`](Server::serve) returns when no
//! connection is left, and at the latest soon after the drain deadline,
//! whatever clients send or do not send.
//!
//! *Cost.* If a client has connected but is not accepted yet, its connection is
//! reset. If a request has arrived but is not read yet, it is lost with its
//! connection. So load balancers have to stop sending before the shutdown. Each
//! connection is a task. `serve` does not wait for upgraded connections, such
//! as WebSockets.
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
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A server with an open port. Clients can connect, and get a response once
/// [`serve`](Self::serve) runs.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    drain: Duration,
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
        Ok(Self { listener, router, drain })
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
        let Self { mut listener, router, drain } = self;
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
                    connections.spawn(connection(stream, router.clone(), stop));
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
    stop: CancellationToken,
) {
    let served = http1::Builder::new()
        // Switches on hyper's limit of 30 s for a client to send a whole
        // header.
        .timer(TokioTimer::new())
        .serve_connection(
            TokioIo::new(stream),
            TowerToHyperService::new(router),
        );
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    // An error means that the client has disconnected: it needs no response.
    drop(ended);
}
