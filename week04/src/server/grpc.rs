//! A gRPC listener: HTTP/2 without TLS, with a graceful shutdown.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, join};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use week03::drain::Stopped;

/// What a client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a client may take to send the preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an idle connection is asked whether its client is still there, and
/// how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A server with an open port, as [`week03::drain::Server`] is one for HTTP/1.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    drain: Duration,
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

    /// Returns the address of the listener.
    ///
    /// # Errors
    ///
    /// Returns an error if the system cannot return the address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled. Then closes the port, asks clients to
    /// send no more requests (GOAWAY), and completes those in flight. Aborts
    /// the remaining connections at the drain deadline.
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
                // A client that disconnects is no failure of the server.
                Some(_ended) = connections.join_next() => {}
                (stream, _) = Listener::accept(&mut listener) => {
                    let stop = stop.clone();
                    connections.spawn(connection(stream, router.clone(), stop));
                }
            }
        }
        drop(listener);
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(drain, all).await;
        let aborted = connections.len();
        connections.shutdown().await;
        Stopped { aborted }
    }
}

/// Serves one connection until it ends.
async fn connection(
    stream: TcpStream,
    router: Router,
    stop: CancellationToken,
) {
    // Small frames follow each other: do not wait for the answer to the first.
    let _ = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    // hyper has no limit for a client that connects and sends nothing.
    let mut preface = [0; PREFACE.len()];
    tokio::select! {
        () = stop.cancelled() => return,
        read = timeout(PREFACE_TIMEOUT, reader.read_exact(&mut preface)) => {
            if !matches!(read, Ok(Ok(_))) || preface != *PREFACE {
                return;
            }
        }
    }
    let stream = join((&preface[..]).chain(reader), writer);
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(
            TokioIo::new(stream),
            TowerToHyperService::new(router),
        );
    let mut served = pin!(served);
    // An error means that the client has disconnected: it needs no answer.
    let _ = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
}
