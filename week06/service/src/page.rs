//! A page of comments, newest first, and the position at which it ends.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use crate::comment::Comment;

/// The position of a comment in the order of its subject: by time, and of equal
/// times by id. Its text is `time-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The time of the comment.
    pub created_ms: u64,
    /// The comment's id.
    pub id: u64,
}

/// Comments of a subject, newest first. A clone shares them.
#[derive(Debug, Clone)]
pub struct Page {
    comments: Arc<[Comment]>,
    from: usize,
    to: usize,
}

/// The text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is a time, a hyphen and an id")]
pub struct InvalidCursor;

impl Cursor {
    /// Returns the position of a comment.
    #[must_use]
    pub fn of(comment: &Comment) -> Self {
        Self { created_ms: comment.created_ms, id: comment.id }
    }
}

impl Page {
    /// Returns the first `limit` comments before the cursor.
    #[must_use]
    pub fn older_than(&self, before: Option<Cursor>, limit: usize) -> Self {
        let from = before.map_or(0, |before| {
            self.partition_point(|comment| Cursor::of(comment) >= before)
        });
        let from = self.from + from;
        let to = self.to.min(from.saturating_add(limit));
        Self { comments: Arc::clone(&self.comments), from, to }
    }
}

impl From<Vec<Comment>> for Page {
    fn from(comments: Vec<Comment>) -> Self {
        let to = comments.len();
        Self { comments: comments.into(), from: 0, to }
    }
}

impl Deref for Page {
    type Target = [Comment];

    fn deref(&self) -> &[Comment] {
        &self.comments[self.from..self.to]
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.created_ms, self.id)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (time, id) = text.split_once('-').ok_or(InvalidCursor)?;
        let number = |text: &str| text.parse().map_err(|_| InvalidCursor);
        Ok(Self { created_ms: number(time)?, id: number(id)? })
    }
}
