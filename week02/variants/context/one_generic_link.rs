//! Variant: one generic link, and a layer is its fact.
//!
//! `At<Fact, Below>` is written once; each layer brings a fact that can be
//! displayed, and an alias. Short when there are many layers. The price: the
//! layers' errors are one type with parameters, so no layer can give its own
//! a method, or a second variant, without leaving the scheme.

use std::error::Error;
use std::fmt;

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
pub type PublishError = At<Article, ReadError>;

/// The data layer could not read an account.
pub type ReadError = At<Account, sqlx::Error>;

/// A fact, and the error that it is about.
#[derive(Debug)]
pub struct At<Fact, Below> {
    fact: Fact,
    below: Below,
}

/// What the business layer knows.
#[derive(Debug)]
pub struct Article(i64);

/// What the data layer knows.
#[derive(Debug)]
pub struct Account(i64);

impl<Fact: fmt::Display, Below> fmt::Display for At<Fact, Below> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fact.fmt(f)
    }
}

impl<Fact, Below> Error for At<Fact, Below>
where
    Fact: fmt::Debug + fmt::Display,
    Below: Error + 'static,
{
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.below)
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

trait ResultExt<T, Below> {
    fn at<Fact>(self, fact: Fact) -> Result<T, At<Fact, Below>>;
}

impl<T, Below> ResultExt<T, Below> for Result<T, Below> {
    fn at<Fact>(self, fact: Fact) -> Result<T, At<Fact, Below>> {
        self.map_err(|below| At { fact, below })
    }
}

/// The edge: answers a request with the name to show above the comment.
pub fn handle(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    request: &Request,
) -> anyhow::Result<String> {
    publish(query, request.article, request.author)
        .with_context(|| format!("{}, id {}", request.route, request.id))
}

/// The business layer: publishes a comment of `author` on `article`, and
/// returns the author's name.
pub fn publish(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    article: i64,
    author: i64,
) -> Result<String, PublishError> {
    read_author(query, author).at(Article(article))
}

/// The data layer: reads the author's name from `accounts`, by `query`.
pub fn read_author(
    query: impl FnOnce(i64) -> Result<String, sqlx::Error>,
    author: i64,
) -> Result<String, ReadError> {
    query(author).at(Account(author))
}
