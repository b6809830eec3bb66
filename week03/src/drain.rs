//! An HTTP server that stops without losing a request.
//!
//! *Question.* A process is told to stop while a hundred requests are in it, a
//! thousand clients keep idle connections, and one client has sent half a
//! header. What ends, in which order, and when at the latest?
//!
//! *Idea.* Four steps. **Bind** first, so that a taken port is an error before
//! anything has begun. **Serve** until told to stop. **Drain**: close the
//! listener, close what is idle, let what is in flight end. **Abort** what is
//! left when the time is over.
//!
//! *Guarantee.* After the stop no connection is accepted. A request that is in a
//! handler by then is answered in whole, if that takes no longer than the drain.
//! [`serve`](Server::serve) returns when no connection is left, soon after the
//! drain at the latest, whatever clients do or do not send.
//!
//! *Cost.* Whoever has just connected and is not yet accepted is reset, and one
//! whose request has come and is not yet read is closed: let load balancers know
//! before the stop. A task for each connection. Upgraded connections, such as
//! WebSockets, are not waited for.
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
//! stop.cancel(); // a signal does it
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

/// A server whose port is open. Clients can connect, and are answered once it
/// serves.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    drain: Duration,
}

/// How a server has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that were still open when the drain was over.
    pub aborted: usize,
}

impl Server {
    /// Opens `address`. What is in flight when the server is told to stop has
    /// `drain` to end.
    ///
    /// # Errors
    ///
    /// When the address is taken, or not of this machine.
    pub async fn bind(
        address: SocketAddr,
        router: Router,
        drain: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, router, drain })
    }

    /// Where it listens: the port that was free, where it was bound to port 0.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled, and drains.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped aborts every connection at once.
    pub async fn serve(self, stop: CancellationToken) -> Stopped {
        let Self { mut listener, router, drain } = self;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Of those that have ended, nothing is kept: neither a handler's
                // panic nor a client that hung up is the server's failure.
                Some(_ended) = connections.join_next() => {}
                // Fails never: it waits where the process has too many files.
                (stream, _) = Listener::accept(&mut listener) => {
                    let stop = stop.clone();
                    connections.spawn(connection(stream, router.clone(), stop));
                }
            }
        }
        // First of all: who comes now must go to another server.
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        // Either all have ended, or what is left is counted.
        let _ = timeout(drain, all).await;
        let aborted = connections.len();
        // Also waits until they have ended.
        connections.shutdown().await;
        Stopped { aborted }
    }
}

/// Answers one request after another, and none after the one that is in flight
/// when `stop` is cancelled.
async fn connection(
    stream: TcpStream,
    router: Router,
    stop: CancellationToken,
) {
    let served = http1::Builder::new()
        // With it, half a header has 30 s to become a whole one.
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
    // A client that goes away has lost nothing that it waits for.
    drop(ended);
}
