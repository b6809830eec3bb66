//! The options of each component: plain structs.
//!
//! A component takes its own options. It knows of no file, no variable and no
//! default. [`Settings::options`](crate::settings::Settings::options) makes
//! them.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use week04_api::conf::v1;

use crate::problem::{Fault, Layer, Line, Problem};

/// The options of all components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The HTTP listener.
    pub http: ListenerOptions,
    /// The gRPC listener.
    pub grpc: ListenerOptions,
    /// The database.
    pub data: DataOptions,
    /// The shutdown of the process.
    pub shutdown: ShutdownOptions,
}

/// The options of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Port 0 stands for any free port.
    pub address: SocketAddr,
    /// The longest time that one request may take.
    pub timeout: Duration,
    /// The largest request body.
    pub max_body_bytes: usize,
}

/// The options of the database pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataOptions {
    /// The database, without a password.
    pub url: String,
    /// The password, if the database needs one.
    pub password: Option<Secret>,
    /// The largest number of connections.
    pub max_connections: NonZeroU32,
    /// The longest wait for a free connection.
    pub acquire_timeout: Duration,
}

/// The options of a shutdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownOptions {
    /// How long requests are still served after shutdown has begun.
    pub lame_duck: Duration,
    /// The longest time that the whole shutdown may take.
    pub budget: Duration,
}

/// A value that is never printed. It has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `value`.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// Returns the value. Search for this name to find each use.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Parses values, and collects the problems. So one call reports all of them.
#[derive(Debug)]
pub struct Parser<'a> {
    lines: &'a [Line],
    /// The problems so far.
    pub problems: Vec<Problem>,
}

impl<'a> Parser<'a> {
    /// Creates a parser for settings with these lines.
    pub fn new(lines: &'a [Line]) -> Self {
        Self { lines, problems: Vec::new() }
    }

    /// Returns the parsed value of the setting `path`. If it is an error,
    /// reports `fault` for the layer of the value, and returns `None`.
    pub fn parsed<T, E>(
        &mut self,
        path: &str,
        parsed: Result<T, E>,
        fault: Fault,
    ) -> Option<T> {
        if parsed.is_err() {
            let line = self.lines.iter().find(|line| line.path == path);
            let layer = line.map_or(Layer::Default, |line| line.layer);
            self.problems.push(Problem { path: path.to_owned(), layer, fault });
        }
        parsed.ok()
    }

    /// Returns the duration, or reports that it is negative.
    pub fn duration(
        &mut self,
        path: &str,
        value: Option<prost_types::Duration>,
    ) -> Option<Duration> {
        self.parsed(path, value.unwrap_or_default().try_into(), Fault::Negative)
    }

    /// Returns the options of the database pool.
    // Parses all values before the first `?`, so that all are reported.
    pub fn data(&mut self, section: v1::Data) -> Option<DataOptions> {
        let max_connections = self.parsed(
            "data.max_connections",
            section.max_connections().try_into(),
            Fault::Zero,
        );
        let acquire_timeout =
            self.duration("data.acquire_timeout", section.acquire_timeout);
        Some(DataOptions {
            url: section.url.unwrap_or_default(),
            password: section.password.map(Secret::new),
            max_connections: max_connections?,
            acquire_timeout: acquire_timeout?,
        })
    }

    /// Returns the options of the shutdown.
    pub fn shutdown(
        &mut self,
        section: v1::Shutdown,
    ) -> Option<ShutdownOptions> {
        let lame_duck = self.duration("shutdown.lame_duck", section.lame_duck);
        let budget = self.duration("shutdown.budget", section.budget);
        Some(ShutdownOptions { lame_duck: lame_duck?, budget: budget? })
    }
}
