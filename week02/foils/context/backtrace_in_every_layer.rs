//! One error, three layers, one fact from each.
//!
//! **Question.** An error passes through the data layer, the business layer and
//! the edge. What does each of them add, and what does it leave alone?
//!
//! **Idea.** Each layer adds the one fact that only it knows: which row, which
//! article, which request. It adds it once, on the way up, as a new link of the
//! `source` chain. `Display` is the link's own sentence and never includes the
//! link below: whoever prints the chain joins the sentences. The layers that
//! others build upon have error types; `anyhow` begins at the edge, where
//! nobody is left to match on one.
//!
//! **Guarantee.** What [`handle`] returns is a chain of four links: request,
//! article, row, driver. Every fact stands in it once, because each `Display`
//! prints only the fields of its own type. Every type in it can be found again,
//! because each layer keeps the error below as a value and not as text. One
//! backtrace at most is captured: `anyhow` takes it, and only it.
//!
//! **Cost.** A type and a `map_err` for each layer. Only the edge allocates, a
//! text and a box; below it an error is moved, 64 bytes at most, and so is a
//! success. The backtrace starts where `anyhow` does: it shows how the request
//! came in, not where the driver failed. The chain has to say that.
//!
//! ```
//! use week02::context::{ReadError, Request, handle};
//!
//! let request = Request {
//!     id: "req-81".to_owned(),
//!     route: "POST /articles/{article}/comments",
//!     article: 20,
//!     author: 7,
//! };
//! let error = handle(|_| Err(sqlx::Error::PoolClosed), &request).unwrap_err();
//!
//! assert_eq!(
//!     format!("{error:#}"),
//!     "request req-81, POST /articles/{article}/comments: \
//!      cannot publish on article 20: \
//!      cannot read row 7 of accounts: \
//!      attempted to acquire a connection on a closed pool"
//! );
//! // The types are still there, for whoever has to decide.
//! assert!(error.chain().any(|link| link.is::<ReadError>()));
//! ```

use std::backtrace::Backtrace;

use anyhow::Context as _;

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
#[derive(Debug, thiserror::Error)]
#[error("cannot publish on article {article}")]
pub struct PublishError {
    article: i64,
    trace: Box<Backtrace>,
    source: ReadError,
}

/// The data layer could not read an account.
#[derive(Debug, thiserror::Error)]
#[error("cannot read row {author} of accounts")]
pub struct ReadError {
    author: i64,
    trace: Box<Backtrace>,
    source: sqlx::Error,
}

/// The edge: answers a request with the name to show above the comment.
pub fn handle(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    request: &Request,
) -> anyhow::Result<String> {
    // A closure: the text is made when there is an error to put it on.
    publish(query, request.article, request.author)
        .with_context(|| format!("request {}, {}", request.id, request.route))
}

/// The business layer: publishes a comment of `author` on `article`, and
/// returns the author's name.
pub fn publish(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    article: i64,
    author: i64,
) -> Result<String, PublishError> {
    // It knows the author too, but so does the layer below, which says it.
    read_author(query, author).map_err(|source| {
        let trace = Box::new(Backtrace::capture());
        PublishError { article, trace, source }
    })
}

/// The data layer: reads the author's name from `accounts`, by `query`.
pub fn read_author(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    author: i64,
) -> Result<String, ReadError> {
    query(author).map_err(|source| {
        let trace = Box::new(Backtrace::capture());
        ReadError { author, trace, source }
    })
}
