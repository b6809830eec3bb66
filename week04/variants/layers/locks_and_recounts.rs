//! The first statement locks the row of the comment, and checks it. All likes
//! of the comment then run one after the other, so the new number can be
//! counted from the rows instead of added up. A count that was ever wrong is
//! right again after the next like. Each like reads all likes of the comment,
//! and the answer reads none.
//!
//! The business layer has a module for the port and one for the use case. No
//! `async fn` is used: the use case returns a future that it builds itself.

pub mod biz {
    //! The rules. They know the domain as `domain`.
    use week04_biz as domain;

    pub use self::ports::LikeRepository;
    pub use self::use_case::Likes;

    /// What the rules need from outside.
    mod ports {
        use super::domain::{CommentId, StorageError, SubjectId, UserId};

        pub trait LikeRepository: Send + Sync + 'static {
            fn add(
                &self,
                subject: &SubjectId,
                comment: CommentId,
                user: &UserId,
            ) -> impl Future<Output = Result<Option<i64>, StorageError>> + Send;
        }
    }

    /// The rules themselves.
    mod use_case {
        use super::{domain, ports};

        #[derive(Clone)]
        pub struct Likes<R> {
            port: R,
        }

        impl<R: ports::LikeRepository> Likes<R> {
            pub fn new(port: R) -> Self {
                Self { port }
            }

            pub fn like(
                &self,
                subject: &domain::SubjectId,
                comment: domain::CommentId,
                user: &str,
            ) -> impl Future<Output = Result<i64, domain::Error>> + Send
            {
                let user = domain::UserId::new("user", user);
                async move {
                    let user = user.map_err(domain::Error::Invalid)?;
                    match self.port.add(subject, comment, &user).await {
                        Ok(Some(likes)) => Ok(likes),
                        Ok(None) => Err(domain::Error::NotFound {
                            kind: "comment",
                            id: format!("{comment}"),
                        }),
                        Err(domain::StorageError::Unavailable(cause)) => {
                            Err(domain::Error::Unavailable(cause))
                        }
                        Err(domain::StorageError::Failed(cause)) => {
                            Err(domain::Error::Internal(cause))
                        }
                    }
                }
            }
        }

        impl<R> std::fmt::Debug for Likes<R> {
            fn fmt(
                &self,
                f: &mut ::core::fmt::Formatter<'_>,
            ) -> ::core::fmt::Result {
                f.debug_struct("Likes").finish_non_exhaustive()
            }
        }
    }
}

pub mod data {
    use week02::classify::{Class, classify};
    use week04_biz::{CommentId, StorageError, SubjectId, UserId};

    use super::biz::LikeRepository;
    use crate::data::{Database, Transaction};

    #[derive(Debug, Clone)]
    pub struct SqlLikes {
        database: Database,
    }

    impl SqlLikes {
        pub fn new(database: Database) -> Self {
            Self { database }
        }
    }

    impl LikeRepository for SqlLikes {
        async fn add(
            &self,
            subject: &SubjectId,
            comment: CommentId,
            user: &UserId,
        ) -> Result<Option<i64>, StorageError> {
            let begun = self.database.begin().await;
            let mut transaction = begun.map_err(storage_error)?;
            let found = lock(&mut transaction, subject, comment).await;
            if !found.map_err(storage_error)? {
                let ended = transaction.rollback().await;
                return ended.map(|()| None).map_err(storage_error);
            }
            let likes = store(&mut transaction, comment, user).await;
            let likes = likes.map_err(storage_error)?;
            transaction.commit().await.map_err(storage_error)?;
            Ok(Some(likes))
        }
    }

    /// Locks the row of the comment by a change that changes nothing. SQLite
    /// has no `SELECT … FOR UPDATE`.
    async fn lock(
        transaction: &mut Transaction,
        subject: &SubjectId,
        comment: CommentId,
    ) -> sqlx::Result<bool> {
        let lock = "UPDATE comment_index SET like_count = like_count \
                    WHERE id = $1 AND subject_id = $2 AND delete_time IS NULL";
        let found = sqlx::query(lock)
            .bind(comment.0)
            .bind(subject.as_str())
            .execute(transaction.connection())
            .await?;
        Ok(found.rows_affected() == 1)
    }

    async fn store(
        transaction: &mut Transaction,
        comment: CommentId,
        user: &UserId,
    ) -> sqlx::Result<i64> {
        let insert = "INSERT INTO likes (comment_id, user_id) \
                      SELECT CAST($1 AS BIGINT), CAST($2 AS TEXT) \
                      WHERE NOT EXISTS (SELECT 1 FROM likes \
                      WHERE comment_id = $1 AND user_id = $2)";
        sqlx::query(insert)
            .bind(comment.0)
            .bind(user.as_str())
            .execute(transaction.connection())
            .await?;
        let count = "UPDATE comment_index SET like_count = \
                     (SELECT count(*) FROM likes WHERE comment_id = $1) \
                     WHERE id = $1 RETURNING like_count";
        sqlx::query_scalar(count)
            .bind(comment.0)
            .fetch_one(transaction.connection())
            .await
    }

    fn storage_error(error: sqlx::Error) -> StorageError {
        let class = classify(&error);
        if matches!(class, Class::Busy | Class::Lost | Class::TimedOut) {
            StorageError::Unavailable(Box::new(error))
        } else {
            StorageError::Failed(Box::new(error))
        }
    }
}
