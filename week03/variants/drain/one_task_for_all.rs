//! An HTTP server that stops without losing a request. Here nothing is spawned:
//! one task polls the listener, the stop, the time and every connection.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1::{Builder, Connection};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

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

type Served =
    Pin<Box<Connection<TokioIo<TcpStream>, TowerToHyperService<Router>>>>;

/// Whether it is still open. A handler that panics closes its own.
fn polled(connection: &mut Served, context: &mut Context<'_>) -> bool {
    let poll = || connection.as_mut().poll(context).is_pending();
    catch_unwind(AssertUnwindSafe(poll)).unwrap_or(false)
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
    pub async fn serve(self, stop: CancellationToken) -> Stopped {
        let Self { mut listener, router, drain } = self;
        let mut open: Vec<Served> = Vec::new();
        loop {
            let next = {
                let mut stopped = pin!(stop.cancelled());
                let mut accepted = pin!(Listener::accept(&mut listener));
                poll_fn(|context| {
                    if stopped.as_mut().poll(context).is_ready() {
                        return Poll::Ready(None);
                    }
                    open.retain_mut(|it| polled(it, context));
                    accepted.as_mut().poll(context).map(Some)
                })
                .await
            };
            let Some((stream, _)) = next else { break };
            let service = TowerToHyperService::new(router.clone());
            let served =
                Builder::new().serve_connection(TokioIo::new(stream), service);
            open.push(Box::pin(served));
        }
        drop(listener);
        for connection in &mut open {
            connection.as_mut().graceful_shutdown();
        }
        let mut is_over = pin!(tokio::time::sleep(drain));
        poll_fn(|context| {
            open.retain_mut(|it| polled(it, context));
            match open.is_empty() {
                true => Poll::Ready(()),
                false => is_over.as_mut().poll(context),
            }
        })
        .await;
        Stopped { aborted: open.len() }
    }
}
