//! An HTTP server that stops without losing a request. Here hyper-util watches
//! the connections, a tracker counts them, and a token ends them.

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

/// A server whose port is open.
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
    /// Opens `address`.
    pub async fn bind(
        address: SocketAddr,
        router: Router,
        drain: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, router, drain })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled, and drains.
    pub async fn serve(mut self, stop: CancellationToken) -> Stopped {
        let watched = GracefulShutdown::new();
        let tasks = TaskTracker::new();
        let end = CancellationToken::new();
        let _end_on_drop = end.clone().drop_guard();

        let accept = async {
            loop {
                let (stream, _) = Listener::accept(&mut self.listener).await;
                let service = TowerToHyperService::new(self.router.clone());
                let connection = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                let connection = watched.watch(connection);
                tasks.spawn(end.clone().run_until_cancelled_owned(connection));
            }
        };
        stop.run_until_cancelled(accept).await;

        drop(self.listener);
        tasks.close();
        let drained = async {
            watched.shutdown().await;
            tasks.wait().await;
        };
        let aborted = match tokio::time::timeout(self.drain, drained).await {
            Ok(()) => 0,
            Err(_) => tasks.len(),
        };
        end.cancel();
        tasks.wait().await;
        Stopped { aborted }
    }
}
