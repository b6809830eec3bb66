//! Implements [`Repository`] in SQL.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row as _};
use week04_biz::{
    Comment, CommentId, NewComment, NewSubject, Order, Place, Position, Query,
    Repository, StorageError, Subject, SubjectId, Timestamp, UserId,
};

use super::{Database, Transaction, storage_error};

/// Subjects and comments in a database.
#[derive(Debug, Clone)]
pub struct SqlRepository {
    database: Database,
}

/// A `SELECT` of whole comments, with the rest of the statement.
macro_rules! select_comments {
    ($rest:literal) => {
        concat!(
            "SELECT i.id, i.subject_id, i.author, i.reply_to, i.like_count, \
             i.reply_count, i.version, i.create_time, i.update_time, c.text, \
             c.place_label, c.place_latitude, c.place_longitude, c.labels \
             FROM comment_index i JOIN comment_content c ON c.comment_id = i.id \
             WHERE ",
            $rest
        )
    };
}

impl SqlRepository {
    /// Creates a repository over `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    async fn insert_comment(
        &self,
        new: &NewComment,
        now: Timestamp,
    ) -> sqlx::Result<Option<Comment>> {
        let mut transaction = self.database.begin().await?;
        // First: this locks the subject's row. A retry waits here for the
        // request that it repeats, and then finds its comment.
        if !count_in_subject(&mut transaction, &new.subject, 1).await? {
            transaction.rollback().await?;
            return Ok(None);
        }
        if let Some(request) = &new.request_id {
            let select = select_comments!(
                "i.subject_id = $1 AND i.author = $2 AND i.request_id = $3"
            );
            let created = sqlx::query_as::<_, CommentRow>(select)
                .bind(new.subject.as_str())
                .bind(new.author.as_str())
                .bind(request.as_str())
                .fetch_optional(transaction.connection())
                .await?;
            if let Some(CommentRow(comment)) = created {
                transaction.rollback().await?;
                return Ok(Some(comment));
            }
        }
        if let Some(parent) = new.reply_to
            && !count_reply(&mut transaction, &new.subject, parent, 1).await?
        {
            transaction.rollback().await?;
            return Ok(None);
        }
        let insert = "INSERT INTO comment_index (subject_id, author, reply_to, \
                      request_id, create_time, update_time) \
                      VALUES ($1, $2, $3, $4, $5, $5) RETURNING id";
        let id = sqlx::query_scalar::<_, i64>(insert)
            .bind(new.subject.as_str())
            .bind(new.author.as_str())
            .bind(new.reply_to.map_or(0, |id| id.0))
            .bind(new.request_id.as_deref())
            .bind(now.micros)
            .fetch_one(transaction.connection())
            .await?;
        let insert = "INSERT INTO comment_content (comment_id, text, \
                      place_label, place_latitude, place_longitude, labels) \
                      VALUES ($1, $2, $3, $4, $5, $6)";
        let place = new.place.as_ref();
        sqlx::query(insert)
            .bind(id)
            .bind(new.text.as_str())
            .bind(place.map(|place| place.label.as_str()))
            .bind(place.map(|place| place.latitude))
            .bind(place.map(|place| place.longitude))
            .bind(labels_to_json(&new.labels))
            .execute(transaction.connection())
            .await?;
        transaction.commit().await?;
        let NewComment {
            subject, author, text, reply_to, place, labels, ..
        } = new.clone();
        Ok(Some(Comment {
            id: CommentId(id),
            subject,
            author,
            text,
            reply_to,
            place,
            labels,
            like_count: 0,
            reply_count: 0,
            created: now,
            updated: now,
            version: 1,
        }))
    }

    async fn store_update(&self, comment: &Comment) -> sqlx::Result<bool> {
        let mut transaction = self.database.begin().await?;
        let update = "UPDATE comment_index \
                      SET version = version + 1, update_time = $1 \
                      WHERE id = $2 AND subject_id = $3 AND version = $4 \
                      AND delete_time IS NULL";
        let updated = sqlx::query(update)
            .bind(comment.updated.micros)
            .bind(comment.id.0)
            .bind(comment.subject.as_str())
            .bind(comment.version)
            .execute(transaction.connection())
            .await?;
        if updated.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
        let update = "UPDATE comment_content SET text = $1, place_label = $2, \
                      place_latitude = $3, place_longitude = $4, labels = $5 \
                      WHERE comment_id = $6";
        let place = comment.place.as_ref();
        sqlx::query(update)
            .bind(comment.text.as_str())
            .bind(place.map(|place| place.label.as_str()))
            .bind(place.map(|place| place.latitude))
            .bind(place.map(|place| place.longitude))
            .bind(labels_to_json(&comment.labels))
            .bind(comment.id.0)
            .execute(transaction.connection())
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn mark_deleted(
        &self,
        subject: &SubjectId,
        id: CommentId,
        now: Timestamp,
    ) -> sqlx::Result<bool> {
        let mut transaction = self.database.begin().await?;
        // Rows are locked in the same order as by `insert_comment`: subject,
        // parent, comment. Otherwise two requests could deadlock.
        if !count_in_subject(&mut transaction, subject, -1).await? {
            transaction.rollback().await?;
            return Ok(false);
        }
        let parent = "SELECT reply_to FROM comment_index WHERE id = $1";
        let parent = sqlx::query_scalar::<_, i64>(parent)
            .bind(id.0)
            .fetch_optional(transaction.connection())
            .await?;
        if let Some(parent @ 1..) = parent {
            let parent = CommentId(parent);
            // The comment that it replies to may be deleted itself.
            count_reply(&mut transaction, subject, parent, -1).await?;
        }
        let delete = "UPDATE comment_index SET delete_time = $1 \
                      WHERE id = $2 AND subject_id = $3 \
                      AND delete_time IS NULL";
        let deleted = sqlx::query(delete)
            .bind(now.micros)
            .bind(id.0)
            .bind(subject.as_str())
            .execute(transaction.connection())
            .await?;
        if deleted.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction.commit().await?;
        Ok(true)
    }
}

impl Repository for SqlRepository {
    async fn create_subject(
        &self,
        new: &NewSubject,
        now: Timestamp,
    ) -> Result<Option<Subject>, StorageError> {
        let insert = "INSERT INTO subjects (id, title, create_time) \
                      VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING";
        let inserted = sqlx::query(insert)
            .bind(new.id.as_str())
            .bind(new.title.as_str())
            .bind(now.micros)
            .execute(self.database.pool())
            .await
            .map_err(storage_error)?;
        Ok((inserted.rows_affected() > 0).then(|| Subject {
            id: new.id.clone(),
            title: new.title.clone(),
            comment_count: 0,
            created: now,
        }))
    }

    async fn subject(
        &self,
        id: &SubjectId,
    ) -> Result<Option<Subject>, StorageError> {
        let select = "SELECT title, comment_count, create_time \
                      FROM subjects WHERE id = $1";
        let row = sqlx::query_as::<_, (String, i64, i64)>(select)
            .bind(id.as_str())
            .fetch_optional(self.database.pool())
            .await
            .map_err(storage_error)?;
        Ok(row.map(|(title, comment_count, micros)| Subject {
            id: id.clone(),
            title,
            comment_count,
            created: Timestamp { micros },
        }))
    }

    async fn create_comment(
        &self,
        new: &NewComment,
        now: Timestamp,
    ) -> Result<Option<Comment>, StorageError> {
        self.insert_comment(new, now).await.map_err(storage_error)
    }

    async fn comment(
        &self,
        subject: &SubjectId,
        id: CommentId,
    ) -> Result<Option<Comment>, StorageError> {
        let select = select_comments!(
            "i.id = $1 AND i.subject_id = $2 AND i.delete_time IS NULL"
        );
        let row = sqlx::query_as::<_, CommentRow>(select)
            .bind(id.0)
            .bind(subject.as_str())
            .fetch_optional(self.database.pool())
            .await
            .map_err(storage_error)?;
        Ok(row.map(|CommentRow(comment)| comment))
    }

    async fn list(
        &self,
        query: &Query,
        after: Option<Position>,
        limit: u32,
    ) -> Result<Vec<Comment>, StorageError> {
        let (select, start) = match query.order {
            Order::Newest => (
                select_comments!(
                    "i.subject_id = $1 AND i.reply_to = $2 \
                     AND i.delete_time IS NULL \
                     AND (i.create_time, i.id) < ($3, $4) \
                     ORDER BY i.create_time DESC, i.id DESC LIMIT $5"
                ),
                i64::MAX,
            ),
            Order::Oldest => (
                select_comments!(
                    "i.subject_id = $1 AND i.reply_to = $2 \
                     AND i.delete_time IS NULL \
                     AND (i.create_time, i.id) > ($3, $4) \
                     ORDER BY i.create_time, i.id LIMIT $5"
                ),
                i64::MIN,
            ),
            Order::MostLiked => (
                select_comments!(
                    "i.subject_id = $1 AND i.reply_to = $2 \
                     AND i.delete_time IS NULL \
                     AND (i.like_count, i.id) < ($3, $4) \
                     ORDER BY i.like_count DESC, i.id DESC LIMIT $5"
                ),
                i64::MAX,
            ),
        };
        let start = Position { key: start, id: CommentId(start) };
        let Position { key, id } = after.unwrap_or(start);
        let rows = sqlx::query_as::<_, CommentRow>(select)
            .bind(query.subject.as_str())
            .bind(query.reply_to.map_or(0, |id| id.0))
            .bind(key)
            .bind(id.0)
            .bind(i64::from(limit))
            .fetch_all(self.database.pool())
            .await
            .map_err(storage_error)?;
        Ok(rows.into_iter().map(|CommentRow(comment)| comment).collect())
    }

    async fn update(&self, comment: &Comment) -> Result<bool, StorageError> {
        self.store_update(comment).await.map_err(storage_error)
    }

    async fn delete(
        &self,
        subject: &SubjectId,
        id: CommentId,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        self.mark_deleted(subject, id, now).await.map_err(storage_error)
    }
}

/// Adds `change` to the number of comments of a subject. Returns whether there
/// is such a subject.
async fn count_in_subject(
    transaction: &mut Transaction,
    id: &SubjectId,
    change: i64,
) -> sqlx::Result<bool> {
    let update = "UPDATE subjects SET comment_count = comment_count + $1 \
                  WHERE id = $2";
    let updated = sqlx::query(update)
        .bind(change)
        .bind(id.as_str())
        .execute(transaction.connection())
        .await?;
    Ok(updated.rows_affected() > 0)
}

/// Adds `change` to the number of replies to a comment. Returns whether there
/// is such a comment.
async fn count_reply(
    transaction: &mut Transaction,
    subject: &SubjectId,
    id: CommentId,
    change: i64,
) -> sqlx::Result<bool> {
    let update = "UPDATE comment_index SET reply_count = reply_count + $1 \
                  WHERE id = $2 AND subject_id = $3 AND delete_time IS NULL";
    let updated = sqlx::query(update)
        .bind(change)
        .bind(id.0)
        .bind(subject.as_str())
        .execute(transaction.connection())
        .await?;
    Ok(updated.rows_affected() > 0)
}

fn labels_to_json(labels: &BTreeMap<String, String>) -> String {
    serde_json::to_string(labels).expect("its keys and values are text")
}

/// A row of [`select_comments`].
struct CommentRow(Comment);

impl<'r> FromRow<'r, AnyRow> for CommentRow {
    fn from_row(row: &'r AnyRow) -> sqlx::Result<Self> {
        let decode = |error| sqlx::Error::Decode(Box::new(error));
        let labels: String = row.try_get("labels")?;
        let subject: String = row.try_get("subject_id")?;
        let author: String = row.try_get("author")?;
        let label: Option<String> = row.try_get("place_label")?;
        let place = match label {
            Some(label) => Some(Place {
                label,
                latitude: row.try_get("place_latitude")?,
                longitude: row.try_get("place_longitude")?,
            }),
            None => None,
        };
        let reply_to: i64 = row.try_get("reply_to")?;
        let time =
            |column| row.try_get(column).map(|micros| Timestamp { micros });
        Ok(Self(Comment {
            id: CommentId(row.try_get("id")?),
            subject: SubjectId::new(subject)
                .map_err(|error| sqlx::Error::Decode(error.into()))?,
            author: UserId::new("author", author)
                .map_err(|error| sqlx::Error::Decode(error.into()))?,
            text: row.try_get("text")?,
            reply_to: (reply_to > 0).then_some(CommentId(reply_to)),
            place,
            labels: serde_json::from_str(&labels).map_err(decode)?,
            like_count: row.try_get("like_count")?,
            reply_count: row.try_get("reply_count")?,
            created: time("create_time")?,
            updated: time("update_time")?,
            version: row.try_get("version")?,
        }))
    }
}
