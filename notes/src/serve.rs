//! The book in a browser, on this machine alone.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, iter};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::RwLock;
use tower_http::services::{ServeDir, ServeFile};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::book;

/// Where the notes are when nobody asks for another port, and it is free.
const PORT: u16 = 3000;

/// A rendered book, which follows the pages that it was made from.
#[derive(Debug)]
struct Site {
    root: PathBuf,
    folder: TempDir,
    /// When the newest of its sources was changed. Whoever answers a request
    /// reads, since a rendering takes all files away for a moment.
    rendered: RwLock<SystemTime>,
}

/// The book, on a port that is open.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    site: Arc<Site>,
    interrupt: Signal,
    terminate: Signal,
}

impl Server {
    /// Opens `port`, or else one that is free, and renders the notes of the
    /// workbook at `root`.
    ///
    /// # Errors
    ///
    /// When `port` is taken, or the book cannot be rendered.
    pub async fn start(root: &Path, port: Option<u16>) -> Result<Self> {
        // From here on, either of them is an end in good order.
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let listener = listen(port).await?;
        let site = Site {
            root: root.to_owned(),
            folder: TempDir::new().context("no temporary folder")?,
            rendered: RwLock::new(newest(root)),
        };
        book::render(root, site.folder.path())?;
        Ok(Self { listener, site: Arc::new(site), interrupt, terminate })
    }

    /// Where the book is read.
    ///
    /// # Errors
    ///
    /// When the system does not tell the port.
    pub fn address(&self) -> Result<String> {
        Ok(format!("http://{}/", self.listener.local_addr()?))
    }

    /// Serves until SIGINT or SIGTERM.
    ///
    /// # Errors
    ///
    /// When no connection can be accepted any more.
    pub async fn run(mut self) -> Result<()> {
        let folder = self.site.folder.path();
        let missing = ServeFile::new(folder.join("404.html"));
        let files = ServeDir::new(folder).not_found_service(missing);
        let follow = middleware::from_fn_with_state(self.site.clone(), follow);
        let router = Router::new().fallback_service(files).layer(follow).layer(
            SetResponseHeaderLayer::overriding(
                header::CACHE_CONTROL,
                HeaderValue::from_static("no-store"),
            ),
        );
        tokio::select! {
            served = axum::serve(self.listener, router) => Ok(served?),
            // No answer is worth a wait: who has half a page asks again.
            _ = self.interrupt.recv() => Ok(()),
            _ = self.terminate.recv() => Ok(()),
        }
    }
}

async fn listen(port: Option<u16>) -> Result<TcpListener> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let wanted = port.unwrap_or(PORT);
    let bound = match bind(wanted).await {
        Err(taken)
            if taken.kind() == ErrorKind::AddrInUse && port.is_none() =>
        {
            bind(0).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on port {wanted}"))
}

/// Before a page is shown, looks if its sources are newer.
async fn follow(
    State(site): State<Arc<Site>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_page = path.ends_with('/') || path.ends_with(".html");
    if is_page && let Err(error) = Site::refresh(site.clone()).await {
        let error = format!("{error:#}\n");
        return (StatusCode::INTERNAL_SERVER_ERROR, error).into_response();
    }
    let _unchanged = site.rendered.read().await;
    next.run(request).await
}

impl Site {
    async fn refresh(site: Arc<Self>) -> Result<()> {
        let work = move || {
            let newest = newest(&site.root);
            if *site.rendered.blocking_read() == newest {
                return Ok(());
            }
            let mut rendered = site.rendered.blocking_write();
            book::render(&site.root, site.folder.path())?;
            *rendered = newest;
            Ok(())
        };
        tokio::task::spawn_blocking(work).await?
    }
}

/// When the workbook was last changed, as far as pages can show it.
fn newest(root: &Path) -> SystemTime {
    const OTHER: [&str; 3] = [".git", "attempts", "target"];
    let is_shown = |path: &PathBuf| {
        !OTHER.iter().any(|other| path.file_name() == Some(OsStr::new(other)))
    };
    let mut left = vec![root.to_owned()];
    let paths = iter::from_fn(|| {
        let path = left.pop()?;
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| entry.path()).filter(is_shown));
        Some(path)
    });
    // A file that is gone has changed its folder.
    let changed = |path: PathBuf| fs::metadata(path)?.modified();
    let changes = paths.map(changed).filter_map(Result::ok);
    changes.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
