//! What a use case answers if it does not succeed.

use crate::{Cause, StorageError};

/// The reason why a use case has changed nothing, or cannot say whether it has.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such subject or comment, or it is deleted.
    #[error("there is no {kind} {id}")]
    NotFound {
        /// `subject` or `comment`.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// The id is taken.
    #[error("there is already a {kind} {id}")]
    AlreadyExists {
        /// `subject`.
        kind: &'static str,
        /// Its id.
        id: String,
    },
    /// A rule of the domain forbids a value.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Another update came first. Read the comment again.
    #[error("comment {id} has changed")]
    Changed {
        /// The id of the comment.
        id: String,
    },
    /// The storage does not answer now. A retry may succeed. Whether the change
    /// was made is unknown.
    #[error("the storage is not available")]
    Unavailable(#[source] Cause),
    /// The storage refused a request that should be correct.
    #[error("the storage failed")]
    Internal(#[source] Cause),
}

/// A value that a rule of the domain forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field that contains the value, as in the contract.
    pub field: &'static str,
    /// What was expected.
    pub problem: &'static str,
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Unavailable(cause) => Self::Unavailable(cause),
            StorageError::Failed(cause) => Self::Internal(cause),
        }
    }
}
