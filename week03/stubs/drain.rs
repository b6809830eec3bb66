//! An HTTP server that stops without losing a request. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - `bind` opens the port, or says that it is taken. From then on clients can
//!   connect; `serve` answers them, each on its own: none waits for another, and
//!   a handler that panics ends its own connection alone.
//! - Once `stop` is cancelled, no connection is let in: the port is closed while
//!   the server drains, and not only afterwards.
//! - A request that is in a handler by then is answered, and an answer is sent to
//!   its end. What is answered after the stop says `connection: close`, and then
//!   the connection ends.
//! - Connections without a request in them, used or fresh, end at once.
//! - `serve` returns as soon as no connection is left, and at the latest when
//!   `drain` is over, counted once, from the stop. By then each connection has
//!   ended and each handler is gone. `aborted` says how many connections had to
//!   be cut off; half a request need not be counted.
//! - Half a request, or a single byte of it, does not hold it up any longer.
//! - When the future of `serve` is dropped, the port is free and the connections
//!   end.
//!
//! `axum::serve(…).with_graceful_shutdown(…)` is not enough: it waits for half a
//! request for ever, and has no handle to what it should abort. Below it lies
//! `hyper::server::conn::http1::Builder`, whose `serve_connection` takes a
//! `TokioIo` and a `TowerToHyperService` (both from `hyper_util`) around the
//! router, and returns a future with a method `graceful_shutdown`. The future is
//! polled through `Pin`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio_util::sync::CancellationToken;

/// A server whose port is open. Clients can connect, and are answered once it
/// serves.
#[derive(Debug)]
pub struct Server {}

/// How a server has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that were still open when the drain was over.
    pub aborted: usize,
}

impl Server {
    /// Opens `address`. What is in flight when the server is told to stop has
    /// `drain` to end.
    pub async fn bind(
        _address: SocketAddr,
        _router: Router,
        _drain: Duration,
    ) -> io::Result<Self> {
        todo!("what can fail before anything is served?")
    }

    /// Where it listens: the port that was free, where it was bound to port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        todo!("who knows which port was free?")
    }

    /// Serves until `stop` is cancelled, and drains.
    pub async fn serve(self, _stop: CancellationToken) -> Stopped {
        todo!("bound, serving, draining, aborting: what ends each of them?")
    }
}
