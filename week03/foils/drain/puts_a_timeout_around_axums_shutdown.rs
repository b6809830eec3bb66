//! Graceful shutdown of an HTTP server, with a timeout around axum's.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
    drain: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    pub aborted: usize,
}

impl Server {
    pub async fn bind(
        address: SocketAddr,
        router: Router,
        drain: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, router, drain })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    pub async fn serve(self, stop: CancellationToken) -> Stopped {
        let stopped = stop.clone().cancelled_owned();
        let serving = axum::serve(self.listener, self.router)
            .with_graceful_shutdown(stopped);
        let serving = tokio::spawn(serving.into_future());
        stop.cancelled().await;
        let drained = timeout(self.drain, serving).await;
        Stopped { aborted: usize::from(drained.is_err()) }
    }
}
