//! Error context: each of three layers adds one fact.
//!
//! **Question.** An error passes through the data layer, the business layer and
//! the edge. What does each of them add, and what does it leave unchanged?
//!
//! **Idea.** Each layer adds the fact that no layer below knows: the row, the
//! article, the request. It adds the fact once, as a new link of the `source`
//! chain. `Display` prints the fact of its own link and never the text of its
//! source; code that prints the chain joins the texts. The two lower layers
//! have error types of their own. `anyhow` begins at the edge, where no caller
//! matches on the error.
//!
//! **Guarantee.** [`handle`] returns a chain of four links: request, article,
//! row, driver. The chain contains every fact once, because each `Display`
//! prints only the fields of its own type. A downcast finds every error type in
//! the chain, because each layer stores the error below as a value and not as
//! text. At most one backtrace is captured, and only by `anyhow`.
//!
//! **Cost.** Each layer needs a type and a `map_err`. Only the edge allocates:
//! a text and a box. Below the edge a result is moved by value, a success as
//! well as an error, in at most 64 bytes. The backtrace starts where the error
//! becomes an `anyhow::Error`: it shows how the request reached the edge, and
//! not where the driver failed. The chain has to show where the driver failed.
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
//! // A program can still find the types in the chain.
//! assert!(error.chain().any(|link| link.is::<ReadError>()));
//! ```

use anyhow::Context as _;

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
#[derive(Debug, thiserror::Error)]
#[error("cannot publish on article {article}")]
pub struct PublishError {
    article: i64,
    source: ReadError,
}

/// The error of the data layer: an account was not read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read row {author} of accounts")]
pub struct ReadError {
    author: i64,
    source: sqlx::Error,
}

/// Handles a request at the edge. Returns the name to show above the comment.
pub fn handle(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    request: &Request,
) -> anyhow::Result<String> {
    // A closure, so that only a failure formats the text.
    publish(query, request.article, request.author)
        .with_context(|| format!("request {}, {}", request.id, request.route))
}

/// Publishes a comment of `author` on `article`, in the business layer. Returns
/// the author's name.
pub fn publish(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    article: i64,
    author: i64,
) -> Result<String, PublishError> {
    // This error omits the author's id, because the layer below adds it.
    read_author(query, author)
        .map_err(|source| PublishError { article, source })
}

/// Reads the author's name from `accounts` by `query`, in the data layer.
pub fn read_author(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    author: i64,
) -> Result<String, ReadError> {
    query(author).map_err(|source| ReadError { author, source })
}
