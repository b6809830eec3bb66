//! Variant: error types without thiserror, and a typed context at the edge.
//!
//! `Display` and `Error` are implemented by hand. The edge's context is a type,
//! so that a program can read the request's id after a downcast.

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

/// The context that the edge adds.
#[derive(Debug)]
struct RequestContext {
    id: String,
    route: &'static str,
}

impl fmt::Display for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed (request {})", self.route, self.id)
    }
}

/// The error of the business layer: a comment was not published.
#[derive(Debug)]
pub struct PublishError {
    article: i64,
    cause: ReadError,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "article {} takes no comment now", self.article)
    }
}

impl Error for PublishError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

/// The error of the data layer: an account was not read.
#[derive(Debug)]
pub struct ReadError {
    id: i64,
    cause: Box<sqlx::Error>,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SELECT from accounts, id {}", self.id)
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // Return the error in the box: `Box<_>` is an error too, but of another
        // type, and a downcast to `sqlx::Error` would fail.
        Some(&*self.cause)
    }
}

/// Handles a request at the edge. Returns the name to show above the comment.
pub fn handle(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    request: &Request,
) -> anyhow::Result<String> {
    match publish(query, request.article, request.author) {
        Ok(name) => Ok(name),
        Err(error) => {
            let Request { id, route, .. } = request.clone();
            Err(anyhow::Error::new(error).context(RequestContext { id, route }))
        }
    }
}

/// Publishes a comment of `author` on `article`, in the business layer. Returns
/// the author's name.
pub fn publish(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    article: i64,
    author: i64,
) -> Result<String, PublishError> {
    match read_author(query, author) {
        Ok(name) => Ok(name),
        Err(cause) => Err(PublishError { article, cause }),
    }
}

/// Reads the author's name from `accounts` by `query`, in the data layer.
pub fn read_author(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    author: i64,
) -> Result<String, ReadError> {
    match query(author) {
        Ok(name) => Ok(name),
        Err(cause) => Err(ReadError { id: author, cause: Box::new(cause) }),
    }
}
