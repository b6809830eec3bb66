//! Layered architecture: a use case, the repository that it declares, and the
//! repository in SQL. Your turn.
//!
//! These rules are graded, and nothing else.
//!
//! The business layer, `biz`:
//!
//! - `like` first checks the user's id with `UserId::new("user", user)`. If the
//!   id is invalid, `like` returns `Error::Invalid` with the field `user`, and
//!   does not call the repository.
//! - Otherwise `like` calls `add` exactly once, with its own arguments: nothing
//!   is trimmed, converted or tried again. It returns the number that `add`
//!   returns. If `add` returns `None`, `like` returns `Error::NotFound` with
//!   the kind `comment` and the id of the comment.
//! - If `add` fails, `like` returns the error with the same cause:
//!   `StorageError::Unavailable` becomes `Error::Unavailable`, and
//!   `StorageError::Failed` becomes `Error::Internal`. `like` does not inspect
//!   the cause: its type and its text never change the result.
//! - The dependency rule: inside `mod biz { … }`, each path and each `use`
//!   leads to `std`, to `core`, to `week04_biz`, or to an item of `biz` itself.
//!   So there is no `crate`, no `super` that leaves `biz`, and no `extern
//!   crate`. Macros are those of `std`, or declared in `biz`. Modules in `biz`
//!   are inline: there is no `mod name;`.
//!
//! The data layer, `SqlLikes`. The tables are in `week04/migrations`:
//!
//! - `likes` has one row for each user who likes a comment, and `like_count` of
//!   the comment in `comment_index` is the number of these rows, at any time.
//! - `add` stores the like, unless it is already stored, and returns the number
//!   of likes after that. Every other column and table stays the same.
//! - If n new users like a comment at the same time, the calls return 1 to n,
//!   each number once. If one user likes it n times at the same time, every
//!   call succeeds and returns the same number. The calls can come from several
//!   processes.
//! - `add` returns `None` and changes nothing if there is no comment with this
//!   id, if it belongs to another subject, or if it is deleted: its
//!   `delete_time` is not null. This also holds for a user who already likes
//!   it, and if the comment is deleted while `add` runs. `None` is not a
//!   failure: the connection goes back to the pool, and is not closed.
//! - If a statement or the commit fails, `add` returns an error, and nothing
//!   has changed. The error is `Unavailable` if `classify` returns `Busy`,
//!   `Lost` or `TimedOut`, and `Failed` in all other cases. The `sqlx::Error`
//!   is in its source chain.
//! - If the future of `add` is dropped at any `.await`, the like is stored and
//!   counted, or neither. After that the pool works as before: the next write
//!   of another caller is not lost, and no transaction stays open.
//! - All of this holds on SQLite and on Postgres. The last group of tests
//!   (rung) needs Postgres installed, and starts a server of its own.
//!
//! Help: `Database::begin` returns a `Transaction`. If it is dropped at any
//! moment, also during `begin`, the database rolls back, which
//! `sqlx::Transaction` does not guarantee. But a drop closes the connection,
//! and `rollback` keeps it. Pass `transaction.connection()` to `execute`, whose
//! result has `rows_affected`, or to `fetch_optional`. One SQL text with `$1`,
//! `$2` works on both databases. On SQLite, writing transactions run one after
//! the other. On Postgres they run at the same time, each statement sees what
//! was committed before the statement began, and a row that was updated stays
//! locked until the transaction ends. `data::storage_error` is private to the
//! service: write your own conversion.

/// The business layer: the rules, and the storage that they need.
pub mod biz {
    use week04_biz::{CommentId, Error, StorageError, SubjectId, UserId};

    /// The storage of likes.
    pub trait LikeRepository: Send + Sync + 'static {
        /// Stores that `user` likes the comment, unless it is already stored.
        /// Returns the number of users who like the comment, or `None` if this
        /// subject has no such comment, or if the comment is deleted.
        ///
        /// # Cancel safety
        ///
        /// If the future is dropped, the like is stored and counted, or
        /// neither. No transaction stays open.
        fn add(
            &self,
            subject: &SubjectId,
            comment: CommentId,
            user: &UserId,
        ) -> impl Future<Output = Result<Option<i64>, StorageError>> + Send;
    }

    /// The use case: a user likes a comment.
    #[derive(Debug, Clone)]
    pub struct Likes<R> {
        repository: R,
    }

    impl<R: LikeRepository> Likes<R> {
        /// Creates the use case on a storage.
        pub fn new(repository: R) -> Self {
            Self { repository }
        }

        /// Adds the like of `user`. Returns the number of likes.
        pub async fn like(
            &self,
            _subject: &SubjectId,
            _comment: CommentId,
            _user: &str,
        ) -> Result<i64, Error> {
            todo!("what does each answer of the repository mean to the caller?")
        }
    }
}

/// The data layer: SQL.
pub mod data {
    use week02::classify::{Class, classify};
    use week04_biz::{CommentId, StorageError, SubjectId, UserId};

    use super::biz::LikeRepository;
    use crate::data::Database;

    /// The likes in a database.
    #[derive(Debug, Clone)]
    pub struct SqlLikes {
        database: Database,
    }

    impl SqlLikes {
        /// Creates the storage on `database`.
        pub fn new(database: Database) -> Self {
            Self { database }
        }

        /// Runs the statements of one transaction. An error is the driver's.
        async fn insert(
            &self,
            _subject: &SubjectId,
            _comment: CommentId,
            _user: &UserId,
        ) -> sqlx::Result<Option<i64>> {
            todo!("which statement takes the lock, and what may change before?")
        }
    }

    impl LikeRepository for SqlLikes {
        async fn add(
            &self,
            _subject: &SubjectId,
            _comment: CommentId,
            _user: &UserId,
        ) -> Result<Option<i64>, StorageError> {
            todo!("how does a driver's error say whether to retry?")
        }
    }
}
