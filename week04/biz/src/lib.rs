//! The business layer of the comment service.
//!
//! It knows subjects, comments and their rules. It declares the storage that it
//! needs as a trait, [`Repository`], which the data layer implements. It cannot
//! name a database driver, a transport or a generated type: this package does
//! not depend on any of them, so such a name does not compile.

#![forbid(unsafe_code)]

mod comment;
mod comments;
mod error;
mod repository;

pub use comment::{
    Comment, CommentId, NewComment, NewSubject, Order, Place, Position, Query,
    Subject, SubjectId, Timestamp, UserId,
};
pub use comments::{Comments, Page, PageRequest};
pub use error::{Error, Invalid};
pub use repository::{Cause, Repository, StorageError};
