//! Layered architecture: the business layer declares its repository.
//!
//! *Question.* A user likes a comment. Which layer checks the user's id, which
//! one knows SQL, and how is the rule tested without a database?
//!
//! *Idea.* **Dependency inversion.** The business layer declares the storage
//! that it needs as a trait, in terms of the domain. The data layer depends on
//! the business layer and implements the trait. So a use case runs on a fake in
//! a test and on SQL in the service, and the code with the rules names neither
//! a driver nor a table.
//!
//! *Guarantee.* A user counts once, however often and from however many tasks
//! the like arrives. The number of likes is always the number of users who like
//! the comment, also if a call fails or is dropped halfway. An error of the
//! database says whether a retry may succeed, and keeps its cause.
//!
//! *Cost.* One trait, and a translation of errors at each border. A method of
//! the trait is a whole transaction: two calls can never be one unit. All likes
//! of one comment wait for the lock of one row.
//!
//! ```
//! use week04::layers::biz::{LikeRepository, Likes};
//! use week04_biz::{CommentId, StorageError, SubjectId, UserId};
//!
//! struct NoComments; // a fake storage
//!
//! impl LikeRepository for NoComments {
//!     async fn add(
//!         &self,
//!         _: &SubjectId,
//!         _: CommentId,
//!         _: &UserId,
//!     ) -> Result<Option<i64>, StorageError> {
//!         Ok(None)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let subject = SubjectId::new("rust")?;
//! let liked = Likes::new(NoComments).like(&subject, CommentId(7), "ann").await;
//! assert_eq!(liked.unwrap_err().to_string(), "there is no comment 7");
//! # Ok(())
//! # }
//! ```

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
        ///
        /// # Errors
        ///
        /// Returns [`Error::Invalid`] with the field `user`,
        /// [`Error::NotFound`], or the error of the storage.
        pub async fn like(
            &self,
            subject: &SubjectId,
            comment: CommentId,
            user: &str,
        ) -> Result<i64, Error> {
            let user = UserId::new("user", user)?;
            let likes = self.repository.add(subject, comment, &user).await?;
            likes.ok_or_else(|| Error::NotFound {
                kind: "comment",
                id: comment.to_string(),
            })
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
        #[must_use]
        pub fn new(database: Database) -> Self {
            Self { database }
        }

        async fn insert(
            &self,
            subject: &SubjectId,
            comment: CommentId,
            user: &UserId,
        ) -> sqlx::Result<Option<i64>> {
            let mut transaction = self.database.begin().await?;
            let insert = "INSERT INTO likes (comment_id, user_id) \
                          SELECT id, $1 FROM comment_index WHERE id = $2 \
                          ON CONFLICT DO NOTHING";
            let inserted = sqlx::query(insert)
                .bind(user.as_str())
                .bind(comment.0)
                .execute(transaction.connection())
                .await?;
            // 0 if the like is already counted. Then the UPDATE only reads.
            let new = i64::try_from(inserted.rows_affected())
                .expect("one row, or none");
            // It is tempting to check the comment before the first write. But
            // on Postgres it could be deleted right after the check. UPDATE
            // locks the row that it has checked.
            let count = "UPDATE comment_index SET like_count = like_count + $1 \
                         WHERE id = $2 AND subject_id = $3 \
                         AND delete_time IS NULL RETURNING like_count";
            let likes = sqlx::query_scalar(count)
                .bind(new)
                .bind(comment.0)
                .bind(subject.as_str())
                .fetch_optional(transaction.connection())
                .await?;
            match likes {
                Some(_) => transaction.commit().await?,
                None => transaction.rollback().await?, // also of the INSERT
            }
            Ok(likes)
        }
    }

    impl LikeRepository for SqlLikes {
        async fn add(
            &self,
            subject: &SubjectId,
            comment: CommentId,
            user: &UserId,
        ) -> Result<Option<i64>, StorageError> {
            let added = self.insert(subject, comment, user).await;
            added.map_err(|error| match classify(&error) {
                Class::Busy | Class::Lost | Class::TimedOut => {
                    StorageError::Unavailable(error.into())
                }
                Class::Conflict
                | Class::Rejected
                | Class::Corrupt
                | Class::Unexpected => StorageError::Failed(error.into()),
            })
        }
    }
}
