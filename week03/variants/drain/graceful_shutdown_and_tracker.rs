//! Graceful shutdown of an HTTP server. In this variant, hyper-util's
//! `GracefulShutdown` drains the connections, a `TaskTracker` counts them, and
//! a token aborts them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A server with an open port.
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
    /// Opens a port at `address`.
    pub async fn bind(
        address: SocketAddr,
        router: Router,
        drain: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, router, drain })
    }

    /// Returns the address of the listener.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled, and then drains.
    pub async fn serve(mut self, stop: CancellationToken) -> Stopped {
        let graceful = GracefulShutdown::new();
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        let _abort_on_drop = abort.clone().drop_guard();

        let accept = async {
            loop {
                let (stream, _) = Listener::accept(&mut self.listener).await;
                let service = TowerToHyperService::new(self.router.clone());
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                let connection = graceful.watch(connection);
                tasks
                    .spawn(abort.clone().run_until_cancelled_owned(connection));
            }
        };
        stop.run_until_cancelled(accept).await;

        drop(self.listener);
        tasks.close();
        let drained = async {
            graceful.shutdown().await;
            tasks.wait().await;
        };
        let aborted = match tokio::time::timeout(self.drain, drained).await {
            Ok(()) => 0,
            Err(_) => tasks.len(),
        };
        abort.cancel();
        tasks.wait().await;
        Stopped { aborted }
    }
}
