//! Variant: no thiserror, and a typed context at the edge.
//!
//! What the derive writes, written out. The edge's context is a type too, so
//! that whoever holds the error can get the request's id back by a downcast.

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

/// What the edge adds.
#[derive(Debug)]
struct Served {
    id: String,
    route: &'static str,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed (request {})", self.route, self.id)
    }
}

/// The business layer could not publish.
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

/// The data layer could not read an account.
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
        // The error in the box: a `&Box<_>` is an error too, but another type.
        Some(&*self.cause)
    }
}

/// The edge: answers a request with the name to show above the comment.
pub fn handle(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    request: &Request,
) -> anyhow::Result<String> {
    match publish(query, request.article, request.author) {
        Ok(name) => Ok(name),
        Err(error) => {
            let Request { id, route, .. } = request.clone();
            Err(anyhow::Error::new(error).context(Served { id, route }))
        }
    }
}

/// The business layer: publishes a comment of `author` on `article`, and
/// returns the author's name.
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

/// The data layer: reads the author's name from `accounts`, by `query`.
pub fn read_author(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    author: i64,
) -> Result<String, ReadError> {
    match query(author) {
        Ok(name) => Ok(name),
        Err(cause) => Err(ReadError { id: author, cause: Box::new(cause) }),
    }
}
