//! Variant: all layers share one generic error type.
//!
//! `WithFact<Fact, Source>` is written once. Each layer adds a type for its
//! fact, and an alias. This is short when there are many layers. In exchange no
//! layer can add a method or a second variant to its own error.

use std::error::Error;
use std::fmt;

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
pub type PublishError = WithFact<Article, ReadError>;

/// The error of the data layer: an account was not read.
pub type ReadError = WithFact<Account, sqlx::Error>;

/// An error, and the fact that a layer adds to it.
#[derive(Debug)]
pub struct WithFact<Fact, Source> {
    fact: Fact,
    source: Source,
}

/// The fact of the business layer: the id of the article.
#[derive(Debug)]
pub struct Article(i64);

/// The fact of the data layer: the id of the account.
#[derive(Debug)]
pub struct Account(i64);

impl<Fact: fmt::Display, Source> fmt::Display for WithFact<Fact, Source> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fact.fmt(f)
    }
}

impl<Fact, Source> Error for WithFact<Fact, Source>
where
    Fact: fmt::Debug + fmt::Display,
    Source: Error + 'static,
{
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

impl fmt::Display for Article {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "publishing on article {}", self.0)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reading accounts[{}]", self.0)
    }
}

trait ResultExt<T, Source> {
    fn with_fact<Fact>(self, fact: Fact) -> Result<T, WithFact<Fact, Source>>;
}

impl<T, Source> ResultExt<T, Source> for Result<T, Source> {
    fn with_fact<Fact>(self, fact: Fact) -> Result<T, WithFact<Fact, Source>> {
        self.map_err(|source| WithFact { fact, source })
    }
}

/// Handles a request at the edge. Returns the name to show above the comment.
pub fn handle(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    request: &Request,
) -> anyhow::Result<String> {
    publish(query, request.article, request.author)
        .with_context(|| format!("{}, id {}", request.route, request.id))
}

/// Publishes a comment of `author` on `article`, in the business layer. Returns
/// the author's name.
pub fn publish(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    article: i64,
    author: i64,
) -> Result<String, PublishError> {
    read_author(query, author).with_fact(Article(article))
}

/// Reads the author's name from `accounts` by `query`, in the data layer.
pub fn read_author(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    author: i64,
) -> Result<String, ReadError> {
    query(author).with_fact(Account(author))
}
