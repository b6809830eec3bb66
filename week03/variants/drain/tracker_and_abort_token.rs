//! Graceful shutdown of an HTTP server. In this variant, a `TaskTracker` counts
//! the connections, and a token aborts them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::serve::Listener;
use futures_util::FutureExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a lingering close waits for a client that sends nothing.
const QUIET: Duration = Duration::from_secs(1);

/// How long a lingering close reads what a client sends.
const LINGER: Duration = Duration::from_secs(30);

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
    pub async fn serve(self, stop: CancellationToken) -> Stopped {
        let Self { mut listener, router, drain } = self;
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        let abort_on_drop = abort.clone().drop_guard();
        let accept = async {
            loop {
                let (stream, _) = Listener::accept(&mut listener).await;
                let served = connection(stream, router.clone(), stop.clone());
                tasks.spawn(abort.clone().run_until_cancelled_owned(served));
            }
        };
        stop.run_until_cancelled(accept).await;

        drop(listener);
        tasks.close();
        let _ = timeout(drain, tasks.wait()).await;
        let aborted = tasks.len();
        drop(abort_on_drop);
        tasks.wait().await;
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
    // Whatever drops the stream (an abort, a panic, an error) now resets the
    // connection. Otherwise, a response without a length would seem complete.
    let _ = stream.set_zero_linger();
    let is_unread = Arc::new(AtomicBool::new(false));
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        router.call(request.map(|body| {
            is_unread.store(!body.is_end_stream(), Relaxed);
            RequestBody { body, is_unread: Arc::clone(&is_unread) }
        }))
    });
    let mut served = http1::Builder::new()
        // Switches on hyper's limit of 30 s for a client to send a whole
        // header.
        .timer(TokioTimer::new())
        // A client may close its sending half and wait for the response.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop.cancelled() => {
            Pin::new(&mut served).graceful_shutdown();
            if let Some(ended) = (&mut served).now_or_never() {
                // An idle connection: hyper has read the last request.
                is_unread.store(false, Relaxed);
                ended
            } else {
                (&mut served).await
            }
        }
    };
    // The body of a response has failed. Other errors are the client's.
    if ended.is_err_and(|it| it.is_user() || it.is_body_write_aborted()) {
        return;
    }
    let http1::Parts { io, read_buf, .. } = served.into_parts();
    let is_unread = is_unread.load(Relaxed) || !read_buf.is_empty();
    close(io.into_inner(), is_unread).await;
}

/// Closes a connection without a reset. hyper has closed the sending half. If
/// the client still sends, this function first reads on for a while ("lingering
/// close"): closing a socket with unread data resets the connection, and the
/// client loses the end of the response.
async fn close(mut stream: TcpStream, is_unread: bool) {
    #[expect(deprecated, reason = "without a duration, it does not block")]
    let _ = stream.set_linger(None);
    if !is_unread && !matches!(stream.try_read(&mut [0]), Ok(1..)) {
        return;
    }
    let mut discarded = vec![0; 16 << 10];
    let read_on = async {
        let mut read = async || stream.read(&mut discarded).await;
        while let Ok(Ok(1..)) = timeout(QUIET, read()).await {}
    };
    let _ = timeout(LINGER, read_on).await;
}

/// The body of a request. Notes whether the handler has read all of it.
struct RequestBody {
    body: Incoming,
    is_unread: Arc<AtomicBool>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.is_unread.store(false, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
