//! Graceful shutdown of an HTTP server. This variant spawns no tasks: `serve`
//! itself polls the listener, the token, the timer and every connection.

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

type OpenConnection =
    Pin<Box<Connection<TokioIo<TcpStream>, TowerToHyperService<Router>>>>;

/// Polls `connection`, and returns whether it is still open. A panic of its
/// handler closes it.
fn poll_is_open(
    connection: &mut OpenConnection,
    context: &mut Context<'_>,
) -> bool {
    let poll = || connection.as_mut().poll(context).is_pending();
    catch_unwind(AssertUnwindSafe(poll)).unwrap_or(false)
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
    pub async fn serve(self, stop: CancellationToken) -> Stopped {
        let Self { mut listener, router, drain } = self;
        let mut open: Vec<OpenConnection> = Vec::new();
        loop {
            let next = {
                let mut cancelled = pin!(stop.cancelled());
                let mut accepted = pin!(Listener::accept(&mut listener));
                poll_fn(|context| {
                    if cancelled.as_mut().poll(context).is_ready() {
                        return Poll::Ready(None);
                    }
                    open.retain_mut(|it| poll_is_open(it, context));
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
        let mut deadline = pin!(tokio::time::sleep(drain));
        poll_fn(|context| {
            open.retain_mut(|it| poll_is_open(it, context));
            match open.is_empty() {
                true => Poll::Ready(()),
                false => deadline.as_mut().poll(context),
            }
        })
        .await;
        Stopped { aborted: open.len() }
    }
}
