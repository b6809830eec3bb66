//! The API.
//!
//! | Request | Response |
//! |---------|----------|
//! | `POST /v1/subjects/{id}/comments` with `{"author": 7, "text": "…"}` | 202 with the id, once the comment is durable |
//! | `GET /v1/subjects/{id}/comments?limit=20&before=…&author=7` | 200 with the newest comments before the cursor |
//!
//! | Status | Meaning |
//! |--------|---------|
//! | 400 | The request is not valid. |
//! | 413 | The body is larger than 64 KiB, or the text is too long. |
//! | 429 | Too many comments wait. `Retry-After` says when to send it again. |
//! | 503 | The service cannot answer now. A comment with an id can be sent again. |
//!
//! A client that retries chooses the `id` of its comment: of two comments with
//! one id, only the first is stored, and both are answered with 202. All clients
//! are trusted here. A public API would take a key of the client, and derive the
//! id from it and the author, so that no client can take an id of another one.
//! The author stands for the user that an authentication in front of this service
//! has found.

use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::comment::{Comment, Invalid, MAX_BODY};
use crate::own::{Own, merge};
use crate::page::{Cursor, InvalidCursor};
use crate::reads::{MAX_LIMIT, ReadError, Reads};
use crate::writes::{Ids, WriteError, Writes, now_ms};

/// The longest time of a request.
const PATIENCE: Duration = Duration::from_secs(5);

const DEFAULT_LIMIT: usize = 20;

/// What the handlers need.
#[derive(Debug)]
pub struct Api {
    /// The read path.
    pub reads: Reads,
    /// The latest comments of authors.
    pub own: Own,
    /// The write path.
    pub writes: Writes,
    /// Ids for comments whose clients send none.
    pub ids: Ids,
}

#[derive(Debug, Deserialize)]
struct NewComment {
    id: Option<u64>,
    author: u64,
    text: String,
}

#[derive(Debug, Serialize)]
struct Accepted {
    id: u64,
}

#[derive(Debug, Deserialize)]
struct PageQuery {
    before: Option<String>,
    limit: Option<usize>,
    author: Option<u64>,
}

#[derive(Debug, Serialize)]
struct PageBody<'a> {
    comments: &'a [Comment],
    /// The cursor of the next page. `null` if this is the last one.
    next: Option<String>,
}

/// A request that has failed.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    #[error("a subject has at most 63 bits")]
    Subject,
    #[error("the limit is zero")]
    LimitZero,
    #[error(transparent)]
    Cursor(#[from] InvalidCursor),
    #[error("the body is not a comment")]
    Body(#[source] serde_json::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the request took too long")]
    Timeout,
}

/// Returns the routes of the API.
pub fn router(api: Arc<Api>) -> Router {
    let comments = get(page).post(create);
    Router::new()
        .route("/v1/subjects/{id}/comments", comments)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api)
}

async fn create(
    State(api): State<Arc<Api>>,
    Path(subject): Path<u64>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let new: NewComment =
        serde_json::from_slice(&body).map_err(ApiError::Body)?;
    let created_ms = now_ms();
    let NewComment { id, author, text } = new;
    let id = id.unwrap_or_else(|| api.ids.next(created_ms));
    let comment = Comment { id, subject, author, text, created_ms };
    let written = timeout(PATIENCE, api.writes.publish(&comment)).await;
    written.map_err(|_| ApiError::Timeout)??;
    api.own.remember(&comment).await;
    Ok((StatusCode::ACCEPTED, Json(Accepted { id })).into_response())
}

async fn page(
    State(api): State<Arc<Api>>,
    Path(subject): Path<u64>,
    Query(PageQuery { before, limit, author }): Query<PageQuery>,
) -> Result<Response, ApiError> {
    if i64::try_from(subject).is_err() {
        return Err(ApiError::Subject);
    }
    let before: Option<Cursor> = before.map(|b| b.parse()).transpose()?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    if limit == 0 {
        return Err(ApiError::LimitZero);
    }
    let read = api.reads.page(subject, before, limit);
    let own = async {
        match author {
            Some(author) => api.own.recent(author, subject).await,
            None => Vec::new(),
        }
    };
    let both = timeout(PATIENCE, async { tokio::join!(read, own) }).await;
    let (page, own) = both.map_err(|_| ApiError::Timeout)?;
    let page = merge(page?, own, before, limit);
    let last = page.last().filter(|_| page.len() == limit);
    let next = last.map(|comment| Cursor::of(comment).to_string());
    Ok(Json(PageBody { comments: &page, next }).into_response())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut chain = self.to_string();
        let mut source = self.source();
        while let Some(error) = source.take() {
            let _ = write!(chain, ": {error}");
            source = error.source();
        }
        let json = |error| Json(serde_json::json!({ "error": error }));
        let body = json(&chain);
        let too_large = matches!(
            self,
            Self::Write(
                WriteError::TooLarge
                    | WriteError::Invalid(Invalid::TextTooLong)
            )
        );
        if too_large {
            return (StatusCode::PAYLOAD_TOO_LARGE, body).into_response();
        }
        let message = self.to_string();
        let (status, retry_after) = match self {
            Self::Subject
            | Self::LimitZero
            | Self::Cursor(_)
            | Self::Body(_)
            | Self::Write(WriteError::Invalid(_) | WriteError::TooLarge) => {
                return (StatusCode::BAD_REQUEST, body).into_response();
            }
            Self::Write(WriteError::Overloaded { retry_after }) => {
                (StatusCode::TOO_MANY_REQUESTS, retry_after)
            }
            Self::Write(WriteError::Unavailable(_))
            | Self::Read(_)
            | Self::Timeout => {
                // The causes are names of tables and hosts: only for operators.
                tracing::warn!(chain, "a request failed");
                (StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(1))
            }
        };
        let seconds = retry_after.as_millis().div_ceil(1000).max(1);
        let head = [(RETRY_AFTER, seconds.to_string())];
        (status, head, json(&message)).into_response()
    }
}
