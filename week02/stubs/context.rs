//! Error context: each of three layers adds one fact. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - The query returns the author's name. On success, every layer returns this
//!   name unchanged. The query is called once, with the author's id.
//! - `Display` of a [`ReadError`] contains the table, `accounts`, and the
//!   author's id. Its source is the `sqlx::Error` itself.
//! - `Display` of a [`PublishError`] contains the article's id. Its source is
//!   the [`ReadError`].
//! - `Display` of the error that [`handle`] returns contains the request's id
//!   and its route. Its chain begins with four links: this error, the
//!   [`PublishError`], the [`ReadError`] and the `sqlx::Error`. The sources of
//!   the `sqlx::Error`, if it has any, follow. `anyhow::Error::downcast_ref`
//!   finds the [`PublishError`].
//! - Each of these three texts contains each of its own facts exactly once,
//!   unchanged, and besides them no digit and no fact of another link. This also
//!   holds if two facts are equal (article 7 by author 7), or if one contains
//!   another (request id `accounts/7`).
//! - `Display` of a link contains neither the `Display` text nor the `Debug`
//!   text of a link below it, nor a value of the `sqlx::Error`, such as its
//!   message, its kind or a constraint. A derived `Debug` may contain them.
//! - These rules hold for `{}` and for `{:#}`, for all ids and routes, and for
//!   every kind of `sqlx::Error`. A request id and a route may be empty or
//!   long. No test uses one that is an ordinary English word.
//! - The errors of the two lower layers are `std::error::Error + Send + Sync +
//!   'static`, so that callers can match on them. Only the edge uses `anyhow`.
//! - If `RUST_BACKTRACE` is `1` or `full`, a failed request captures one
//!   backtrace, which `anyhow` captures. The two lower layers capture none, and
//!   neither does a request that succeeds. If the variable is `0` or is not set,
//!   no backtrace is captured. (`RUST_LIB_BACKTRACE` is not set in the tests.)
//! - A failed request keeps no memory after its error is dropped.
//!
//! Use thiserror, or write `Display` and `Error` by hand, starting from the
//! empty implementations below. The fields of the error types are up to you.

use std::error::Error;
use std::fmt;

/// A request to publish a comment.
#[derive(Debug, Clone)]
pub struct Request {
    /// The request id, known to the client and to the log.
    pub id: String,
    /// The pattern of the route, without ids: the layers below add those.
    pub route: &'static str,
    /// The id of the article that the comment is for.
    pub article: i64,
    /// The id of the comment's author.
    pub author: i64,
}

/// The error of the business layer: a comment was not published.
#[derive(Debug)]
pub struct PublishError {}

impl fmt::Display for PublishError {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!("which fact does the data layer not know?")
    }
}

impl Error for PublishError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        todo!("which error caused this one?")
    }
}

/// The error of the data layer: an account was not read.
#[derive(Debug)]
pub struct ReadError {}

impl fmt::Display for ReadError {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!("which row of which table could not be read?")
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        todo!("which field stores the driver's error itself, not its text?")
    }
}

/// Handles a request at the edge. Returns the name to show above the comment.
pub fn handle(
    _query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    _request: &Request,
) -> anyhow::Result<String> {
    todo!("which facts does only the edge know?")
}

/// Publishes a comment of `author` on `article`, in the business layer. Returns
/// the author's name.
pub fn publish(
    _query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    _article: i64,
    _author: i64,
) -> Result<String, PublishError> {
    todo!("which fact is missing in the error from below?")
}

/// Reads the author's name from `accounts` by `query`, in the data layer.
pub fn read_author(
    _query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    _author: i64,
) -> Result<String, ReadError> {
    todo!("what does an on-call engineer need to know about a failed read?")
}
