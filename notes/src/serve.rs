//! Serves the book to browsers on this machine.

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

/// The port that is used unless the reader chooses another or it is taken.
const DEFAULT_PORT: u16 = 3000;

/// A rendered book. It is rendered again when a source file has changed.
#[derive(Debug)]
struct Site {
    root: PathBuf,
    folder: TempDir,
    /// The time of the last change that is rendered. Rendering removes all files
    /// for a moment, so a request holds the read lock, and `refresh` the write
    /// lock.
    rendered: RwLock<SystemTime>,
}

/// An HTTP server with an open port and a rendered book.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    site: Arc<Site>,
    interrupt: Signal,
    terminate: Signal,
}

impl Server {
    /// Opens `port`, and renders the notes of the workbook at `root`. Without a
    /// `port`, opens the default port, or a free port if the default is taken.
    ///
    /// # Errors
    ///
    /// When `port` cannot be opened, or the book cannot be rendered.
    pub async fn start(root: &Path, port: Option<u16>) -> Result<Self> {
        // Register the signals first: then they never kill the process while
        // the temporary folder exists.
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let listener = listen(port).await?;
        let site = Site {
            root: root.to_owned(),
            folder: TempDir::new()
                .context("cannot create a temporary folder")?,
            rendered: RwLock::new(last_change(root)),
        };
        book::render(root, site.folder.path())?;
        Ok(Self { listener, site: Arc::new(site), interrupt, terminate })
    }

    /// Returns the URL of the book.
    ///
    /// # Errors
    ///
    /// When the operating system does not return the port.
    pub fn address(&self) -> Result<String> {
        Ok(format!("http://{}/", self.listener.local_addr()?))
    }

    /// Serves until SIGINT or SIGTERM.
    ///
    /// # Errors
    ///
    /// When the server can accept no more connections.
    pub async fn run(mut self) -> Result<()> {
        let folder = self.site.folder.path();
        let missing = ServeFile::new(folder.join("404.html"));
        let files = ServeDir::new(folder).not_found_service(missing);
        let refresh =
            middleware::from_fn_with_state(self.site.clone(), refresh);
        let router = Router::new()
            .fallback_service(files)
            .layer(refresh)
            .layer(SetResponseHeaderLayer::overriding(
                header::CACHE_CONTROL,
                HeaderValue::from_static("no-store"),
            ));
        tokio::select! {
            served = axum::serve(self.listener, router) => Ok(served?),
            // Stop at once, without waiting for responses: a browser can
            // reload the page.
            _ = self.interrupt.recv() => Ok(()),
            _ = self.terminate.recv() => Ok(()),
        }
    }
}

/// Binds `port`, or the default port, or a free port.
async fn listen(port: Option<u16>) -> Result<TcpListener> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let preferred = port.unwrap_or(DEFAULT_PORT);
    let bound = match bind(preferred).await {
        Err(taken)
            if taken.kind() == ErrorKind::AddrInUse && port.is_none() =>
        {
            bind(0).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on port {preferred}"))
}

/// Renders the book again before a page is sent, if a source file has changed.
async fn refresh(
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
    let _guard = site.rendered.read().await;
    next.run(request).await
}

impl Site {
    /// Renders the book again if a source file has changed.
    async fn refresh(site: Arc<Self>) -> Result<()> {
        let work = move || {
            let changed = last_change(&site.root);
            if *site.rendered.blocking_read() == changed {
                return Ok(());
            }
            let mut rendered = site.rendered.blocking_write();
            book::render(&site.root, site.folder.path())?;
            *rendered = changed;
            Ok(())
        };
        tokio::task::spawn_blocking(work).await?
    }
}

/// Returns the time of the last change in the workbook, except in folders that
/// no page shows.
fn last_change(root: &Path) -> SystemTime {
    const IGNORED: [&str; 3] = [".git", "attempts", "target"];
    let is_shown = |path: &PathBuf| {
        !IGNORED.iter().any(|name| path.file_name() == Some(OsStr::new(name)))
    };
    let mut pending = vec![root.to_owned()];
    let paths = iter::from_fn(|| {
        let path = pending.pop()?;
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        pending.extend(entries.map(|entry| entry.path()).filter(is_shown));
        Some(path)
    });
    // Folders count too: removing a file changes the time of its folder.
    let changed = |path: PathBuf| fs::metadata(path)?.modified();
    let changes = paths.map(changed).filter_map(Result::ok);
    changes.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
