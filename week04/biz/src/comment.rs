//! Subjects, comments, and the rules that one value can check by itself.

use std::collections::BTreeMap;
use std::fmt;

use crate::Invalid;

/// The id of a subject: 1 to 63 letters `a` to `z`, digits and hyphens, of
/// which the first is not a hyphen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectId(String);

/// The id of a user: 1 to 64 characters without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

/// The id of a comment, which the storage chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommentId(pub i64);

/// A point in time: microseconds since 1970, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub micros: i64,
}

/// Something that users comment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its id.
    pub id: SubjectId,
    /// The text that readers see.
    pub title: String,
    /// The number of comments that are not deleted, with replies.
    pub comment_count: i64,
    /// When it was created.
    pub created: Timestamp,
}

/// A comment, as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Comment {
    /// Its id.
    pub id: CommentId,
    /// The subject that it is for.
    pub subject: SubjectId,
    /// The user who wrote the comment.
    pub author: UserId,
    /// The text that readers see.
    pub text: String,
    /// The comment that this one replies to.
    pub reply_to: Option<CommentId>,
    /// The place where the comment was written.
    pub place: Option<Place>,
    /// Text of the client that the service does not read.
    pub labels: BTreeMap<String, String>,
    /// The number of users who like it.
    pub like_count: i64,
    /// The number of replies that are not deleted.
    pub reply_count: i64,
    /// When it was created.
    pub created: Timestamp,
    /// When its text, place or labels last changed.
    pub updated: Timestamp,
    /// Goes up by one with each update.
    pub version: i64,
}

/// A place on the map.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The text that readers see.
    pub label: String,
    /// In degrees, from -90 to 90.
    pub latitude: f64,
    /// In degrees, from -180 to 180.
    pub longitude: f64,
}

/// A subject that is to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSubject {
    /// Its id.
    pub id: SubjectId,
    /// The text that readers see.
    pub title: String,
}

/// A comment that is to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct NewComment {
    /// The subject that it is for.
    pub subject: SubjectId,
    /// The user who wrote the comment.
    pub author: UserId,
    /// The text that readers see.
    pub text: String,
    /// The comment that this one replies to.
    pub reply_to: Option<CommentId>,
    /// The place where the comment was written.
    pub place: Option<Place>,
    /// Text of the client that the service does not read.
    pub labels: BTreeMap<String, String>,
    /// What the client has chosen so that a retry creates no second comment.
    pub request_id: Option<String>,
}

/// The comments that a list contains, and their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The subject of the comments.
    pub subject: SubjectId,
    /// If set, only replies to this comment. Otherwise only comments that are
    /// not replies.
    pub reply_to: Option<CommentId>,
    /// The order of the comments.
    pub order: Order,
}

/// The order of a list. Comments with the same key are ordered by their id, in
/// the same direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By creation time, newest first.
    Newest,
    /// By creation time, oldest first.
    Oldest,
    /// By number of likes, most likes first.
    MostLiked,
}

/// The position of a comment in the order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The creation time in microseconds, or the number of likes.
    pub key: i64,
    /// The comment, which makes the position unique.
    pub id: CommentId,
}

impl SubjectId {
    /// Checks an id.
    ///
    /// # Errors
    ///
    /// Returns [`Invalid`] if the id does not have the form that
    /// [`SubjectId`] describes.
    pub fn new(id: impl Into<String>) -> Result<Self, Invalid> {
        let id = id.into();
        let form = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if (1..=63).contains(&id.len())
            && id.bytes().all(form)
            && !id.starts_with('-')
        {
            Ok(Self(id))
        } else {
            Err(Invalid {
                field: "subject_id",
                problem: "expected 1 to 63 letters a to z, digits and hyphens, \
                          and no hyphen at the start",
            })
        }
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UserId {
    /// Checks an id. `field` is the name of the field that contains it.
    ///
    /// # Errors
    ///
    /// Returns [`Invalid`] if the id does not have the form that [`UserId`]
    /// describes.
    pub fn new(
        field: &'static str,
        id: impl Into<String>,
    ) -> Result<Self, Invalid> {
        let id = id.into();
        let problem = "expected 1 to 64 characters, and no control characters";
        if (1..=64).contains(&id.chars().count())
            && !id.chars().any(char::is_control)
        {
            Ok(Self(id))
        } else {
            Err(Invalid { field, problem })
        }
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for CommentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Comment {
    /// Returns the position of this comment in a list with the order `order`.
    #[must_use]
    pub fn position(&self, order: Order) -> Position {
        let key = match order {
            Order::Newest | Order::Oldest => self.created.micros,
            Order::MostLiked => self.like_count,
        };
        Position { key, id: self.id }
    }
}

/// Checks what a user has written.
pub(crate) fn check_content(
    text: &str,
    place: Option<&Place>,
    labels: &BTreeMap<String, String>,
) -> Result<(), Invalid> {
    let invalid = |field, problem| Err(Invalid { field, problem });
    if text.trim().is_empty() {
        return invalid("text", "expected a text that is not blank");
    }
    if text.chars().count() > 10_000 {
        return invalid("text", "expected up to 10,000 characters");
    }
    if text.contains('\0') {
        return invalid("text", "expected no NUL character");
    }
    if let Some(Place { label, latitude, longitude }) = place {
        if label.contains('\0') || label.chars().count() > 200 {
            let problem = "expected up to 200 characters, and no NUL character";
            return invalid("place.label", problem);
        }
        // Not a number is in no range.
        if !(-90.0..=90.0).contains(latitude) {
            return invalid("place.latitude", "expected -90 to 90 degrees");
        }
        if !(-180.0..=180.0).contains(longitude) {
            return invalid("place.longitude", "expected -180 to 180 degrees");
        }
    }
    let size: usize = labels.iter().map(|(k, v)| k.len() + v.len()).sum();
    if labels.len() > 64 || size > 4096 {
        return invalid("labels", "expected up to 64 labels and 4,096 bytes");
    }
    Ok(())
}

/// Checks the title of a subject.
pub(crate) fn check_title(title: &str) -> Result<(), Invalid> {
    let field = "title";
    if title.trim().is_empty() || title.chars().count() > 200 {
        let problem = "expected 1 to 200 characters that are not all blank";
        return Err(Invalid { field, problem });
    }
    if title.contains('\0') {
        let problem = "expected no NUL character";
        return Err(Invalid { field, problem });
    }
    Ok(())
}
