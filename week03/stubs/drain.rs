//! Graceful shutdown of an HTTP server: no request is lost. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - `bind` opens a port at an IPv4 or IPv6 address. If the port is taken, also
//!   by another `Server`, it returns an error. Once the port is open, clients
//!   can connect. Their requests are answered once `serve` runs. The port of a
//!   server that has stopped is free at once.
//! - Clients do not wait for each other. A handler that panics ends only its
//!   own connection: without a response, or after a 500 with the header
//!   `connection: close`.
//! - A client gets its response, too, if it has closed its sending half after
//!   its request.
//! - A client gets its whole response, too, if it still sends: a body that the
//!   handler does not read to its end, or one more request, even a malformed
//!   one. If the server has not read all of that after the last response, it
//!   closes only its sending half. Then it reads and discards what the client
//!   sends, until the client closes its own half, has sent nothing for a
//!   second, or has sent on for 30 seconds. (If a socket with unread data is
//!   closed, the system resets the connection, and the client loses the end of
//!   the response.)
//! - A response that is cut off ends with a reset of the connection, and not
//!   with its regular end. Causes are the drain deadline, an error or a panic
//!   in the body of the response, and dropping the future of `serve`. (In
//!   HTTP/1.0, the regular end of a connection also ends a response without a
//!   length, so half a response would look complete.)
//! - *Shutdown* begins when `stop` is cancelled. The port is closed at once, and
//!   not only after the drain: from then on, new connections are refused.
//! - A request that has reached its handler when shutdown begins is answered,
//!   and a response that has begun is sent in full, if the drain deadline
//!   allows it.
//! - A response that begins after shutdown has begun carries the header
//!   `connection: close`, and its connection is closed after it.
//! - When shutdown begins, connections without a request are closed at once:
//!   idle connections, and new connections that have sent nothing yet. The
//!   server does not wait until such a client closes its own half. A client
//!   that has not read its last response yet still gets all of it.
//! - The *drain deadline* comes when the time `drain` has passed since the
//!   beginning of shutdown: any time from zero to `Duration::MAX`. The deadline
//!   is set once, and all connections share it.
//! - `serve` returns as soon as no connection is left, and at the latest at the
//!   drain deadline, whatever clients send or do not send. When `serve` returns,
//!   every connection is closed, and every handler has completed or is dropped.
//! - `aborted` is the number of connections that were aborted at the deadline.
//!   A connection that has sent only part of a request need not be counted, nor
//!   a connection whose last response has been sent.
//! - A connection that has sent only part of a request, even a single byte,
//!   delays `serve` until the drain deadline at most.
//! - Dropping the future of `serve`, also during the drain, frees the port and
//!   closes all connections.
//!
//! `axum::serve(…).with_graceful_shutdown(…)` is not enough: it waits for a
//! partial request without a limit, and has no handle to abort connections. Use
//! the layer below axum, `hyper::server::conn::http1::Builder`. Its method
//! `serve_connection` takes a `TokioIo` around the stream and a
//! `TowerToHyperService` around the router; both types are in `hyper_util`.
//! This method returns a future, which is polled through `Pin` and has a method
//! `graceful_shutdown`: hyper adds `connection: close` to responses that begin
//! after this call. Once the future has completed, `into_parts` returns the
//! stream. `TcpStream::set_zero_linger` lets a close reset the connection. To
//! see whether a handler reads the whole request body, wrap the body in a type
//! that implements `hyper::body::Body`, in a `hyper::service::service_fn`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio_util::sync::CancellationToken;

/// A server with an open port. Clients can connect, and get a response once
/// `serve` runs.
#[derive(Debug)]
pub struct Server {}

/// The result of a shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// The number of connections that were aborted at the drain deadline.
    pub aborted: usize,
}

impl Server {
    /// Opens a port at `address`. The drain deadline comes when the time
    /// `drain` has passed since the token given to `serve` was cancelled.
    pub async fn bind(
        _address: SocketAddr,
        _router: Router,
        _drain: Duration,
    ) -> io::Result<Self> {
        todo!("which error must be reported before the first request?")
    }

    /// Returns the address of the listener. After a bind to port 0, this is the
    /// port that the system has chosen.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        todo!("after a bind to port 0, which object knows the real port?")
    }

    /// Serves until `stop` is cancelled, and then drains.
    pub async fn serve(self, _stop: CancellationToken) -> Stopped {
        todo!("what ends each state: bound, serving, draining, aborting?")
    }
}
