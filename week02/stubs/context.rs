//! One error, three layers, one fact from each. Your turn.
//!
//! What is graded, and nothing else:
//!
//! - A name comes back as it was read. The query is asked once, for the author.
//! - A [`ReadError`] says the table, `accounts`, and the author's id. Its source
//!   is the driver's own `sqlx::Error`.
//! - A [`PublishError`] says the article's id. Its source is the [`ReadError`].
//! - What [`handle`] returns says the request's id and its route. Below it are
//!   the [`PublishError`], the [`ReadError`] and the `sqlx::Error`: four links,
//!   and anyhow's own `downcast_ref` finds the [`PublishError`].
//! - No link repeats the text of a link below it, and each of these stands once
//!   in the whole chain (`{:#}`): request id, route, article id, `accounts`,
//!   author id, and what the driver said.
//! - The errors of the two lower layers are `std::error::Error + Send + Sync +
//!   'static`, so that anybody can match on them. `anyhow` is for the edge.
//! - One backtrace is captured, by anyhow, when `RUST_BACKTRACE` is 1. None of
//!   the lower errors holds another. Without the variable, there is none.
//!
//! Use thiserror, or write `Display` and `Error` by hand: then the shells below
//! are where to start. Fields are yours to choose.

use std::error::Error;
use std::fmt;

/// A request to publish a comment.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the client and the log both know this request by.
    pub id: String,
    /// The pattern, without the ids: those belong to the layers below.
    pub route: &'static str,
    /// What is commented on.
    pub article: i64,
    /// Who comments.
    pub author: i64,
}

/// The business layer could not publish.
#[derive(Debug)]
pub struct PublishError {}

impl fmt::Display for PublishError {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!("what does this layer know that no other does?")
    }
}

impl Error for PublishError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        todo!("which error made this one?")
    }
}

/// The data layer could not read an account.
#[derive(Debug)]
pub struct ReadError {}

impl fmt::Display for ReadError {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!("which row of which table?")
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        todo!("the driver's error: is it still there, as a value?")
    }
}

/// The edge: answers a request with the name to show above the comment.
pub fn handle(
    _query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    _request: &Request,
) -> anyhow::Result<String> {
    todo!("which facts are known here and nowhere below?")
}

/// The business layer: publishes a comment of `author` on `article`, and
/// returns the author's name.
pub fn publish(
    _query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    _article: i64,
    _author: i64,
) -> Result<String, PublishError> {
    todo!("what does the layer below leave unsaid?")
}

/// The data layer: reads the author's name from `accounts`, by `query`.
pub fn read_author(
    _query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    _author: i64,
) -> Result<String, ReadError> {
    todo!("what would somebody on call ask about a failed read?")
}
