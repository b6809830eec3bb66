//! The storage that the business layer needs.

use std::error;

use crate::{
    Comment, CommentId, NewComment, NewSubject, Position, Query, Subject,
    SubjectId, Timestamp,
};

/// What the data layer does for the business layer.
///
/// Each call is one unit: it happens whole, or not at all. If its future is
/// dropped, it has happened whole or not at all, and holds nothing.
pub trait Repository: Send + Sync + 'static {
    /// Stores a subject. Returns `None` if the id is taken.
    fn create_subject(
        &self,
        new: &NewSubject,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Subject>, StorageError>> + Send;

    /// Reads a subject.
    fn subject(
        &self,
        id: &SubjectId,
    ) -> impl Future<Output = Result<Option<Subject>, StorageError>> + Send;

    /// Stores a comment, and counts it in its subject and in the comment that
    /// it replies to. If the author has already created a comment on this
    /// subject with the same request id, returns that comment. Returns `None`
    /// if the subject, or the comment that it replies to, does not exist.
    fn create_comment(
        &self,
        new: &NewComment,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Comment>, StorageError>> + Send;

    /// Reads a comment that is not deleted.
    fn comment(
        &self,
        subject: &SubjectId,
        id: CommentId,
    ) -> impl Future<Output = Result<Option<Comment>, StorageError>> + Send;

    /// Reads up to `limit` comments behind `after` in the order of `query`.
    fn list(
        &self,
        query: &Query,
        after: Option<Position>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Comment>, StorageError>> + Send;

    /// Stores the text, the place, the labels and the update time of
    /// `comment`, with the next version, if the stored version is
    /// `comment.version`. Returns `false` if it is not, or if the comment is
    /// deleted.
    fn update(
        &self,
        comment: &Comment,
    ) -> impl Future<Output = Result<bool, StorageError>> + Send;

    /// Marks a comment as deleted, and no longer counts it. Returns `false` if
    /// there is no such comment.
    fn delete(
        &self,
        subject: &SubjectId,
        id: CommentId,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, StorageError>> + Send;
}

/// The cause of an error, whose type only the data layer knows.
pub type Cause = Box<dyn error::Error + Send + Sync>;

/// The storage did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It does not answer now. A later call may succeed.
    #[error("the storage is not available")]
    Unavailable(#[source] Cause),
    /// It refuses a call that should be correct. The same call fails again.
    #[error("the storage failed")]
    Failed(#[source] Cause),
}
