//! The database: comments are inserted in batches, and read in pages.
//!
//! **Question.** A job writes each batch at least once, and may be killed at any
//! moment. How is each comment in the table once, and counted once?
//!
//! **Idea.** One transaction inserts the batch with `ON CONFLICT DO NOTHING`,
//! and adds only the rows that were really inserted to the counters. A batch is
//! sorted by subject, which keeps the order of arrival within each subject. All
//! transactions lock rows in this order, so two jobs with overlapping batches
//! wait for each other, and do not deadlock. Only comments of one subject that
//! are in another order, such as retries, can deadlock. Then Postgres refuses one
//! of the batches, and the job inserts it again.
//!
//! **Guarantee.** After [`insert`](Store::insert) has returned `Ok`, each comment
//! of the batch is in the table once, and its subject's counter has counted it
//! once, also if the batch is inserted again. After an error, all or nothing of
//! the batch is stored. The column `arrival` rises in the order in which the
//! comments of a subject were inserted.
//!
//! **Cost.** A batch with a comment that the table refuses is tried again in
//! halves, to find it: about twice the work of the batch.

use std::borrow::Borrow;
use std::time::Duration;

use sqlx::any::{AnyPoolOptions, AnyRow, install_default_drivers};
use sqlx::{AnyPool, Row as _};

use crate::comment::{Comment, Invalid};
use transaction::Transaction;

mod statements;
mod transaction;

/// A pool of connections to one database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    /// The statement that begins a transaction that writes.
    begin: &'static str,
}

/// What an [`insert`](Store::insert) has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inserted {
    /// The number of comments that were not in the table before.
    pub new: usize,
    /// The number of comments that were.
    pub repeated: usize,
}

/// The reason why a batch is not known to be in the table.
#[derive(Debug, thiserror::Error)]
pub enum InsertError {
    /// Nothing of the batch is stored, because the database cannot write now:
    /// insert the same batch again later.
    #[error("the database cannot write now")]
    Unavailable(#[source] sqlx::Error),
    /// All or nothing of the batch is stored, for instance because the connection
    /// broke during the commit: insert the same batch again.
    #[error("the database has not confirmed the commit")]
    Unconfirmed(#[source] sqlx::Error),
    /// Nothing of the batch is stored, because the table never accepts this
    /// comment. There may be others in the same batch.
    #[error("the table refuses comment {index} of the batch: {reason}")]
    Rejected {
        /// The comment's index in the batch.
        index: usize,
        /// The database's message.
        reason: String,
    },
}

/// The position of a comment in the pages of its subject: `created_ms` and `id`.
pub type Position = (u64, u64);

const CONNECTIONS: u32 = 8;

/// The longest wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

impl Store {
    /// Connects to a `sqlite:…` file or a `postgres://…` database, and creates
    /// the tables unless they exist. Each connection to `sqlite::memory:` has a
    /// database of its own, so use a file.
    ///
    /// # Errors
    ///
    /// Returns an error if the database does not answer, or if the tables are
    /// missing and cannot be created.
    pub async fn connect(url: &str) -> sqlx::Result<Self> {
        install_default_drivers();
        let is_sqlite = url.starts_with("sqlite:");
        let create = if is_sqlite && !url.contains('?') {
            format!("{url}?mode=rwc") // creates a missing file
        } else {
            url.to_owned()
        };
        let options = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if is_sqlite {
                        let setup = sqlx::raw_sql(statements::SQLITE_SETUP);
                        setup.execute(connection).await?;
                    }
                    Ok(())
                })
            });
        let pool = options.connect(&create).await?;
        // SQLite refuses a write in a transaction that began with a read, if
        // another connection has written since. IMMEDIATE waits instead.
        let begin = if is_sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        // A database that is read-only now has the tables already.
        let mut connection = pool.acquire().await?;
        let exist = statements::tables_exist(&mut connection).await;
        drop(connection);
        if !exist {
            let mut transaction = Transaction::begin(&pool, begin).await?;
            let connection = transaction.connection();
            statements::create_tables(connection, is_sqlite).await?;
            transaction.commit().await?;
        }
        Ok(Self { pool, begin })
    }

    /// Inserts all comments that are not in the table, in one transaction.
    ///
    /// # Errors
    ///
    /// See [`InsertError`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, all or nothing of the batch is stored, and the
    /// connection is closed. Insert the same batch again.
    pub async fn insert<C: Borrow<Comment> + Sync>(
        &self,
        comments: &[C],
    ) -> Result<Inserted, InsertError> {
        let comments: Vec<_> = comments.iter().map(Borrow::borrow).collect();
        for (index, comment) in comments.iter().enumerate() {
            // As a negative number, it would be another comment.
            if let Err(invalid @ Invalid::NumberTooLarge) = comment.check() {
                let reason = invalid.to_string();
                return Err(InsertError::Rejected { index, reason });
            }
        }
        // The sort is stable: within a subject, the order stays.
        let mut order: Vec<usize> = (0..comments.len()).collect();
        order.sort_by_key(|&index| comments[index].subject);
        let rows: Vec<_> = order.iter().map(|&i| comments[i]).collect();

        let mut is_committing = false;
        let commit = async |transaction: Transaction| {
            is_committing = true;
            transaction.commit().await
        };
        match self.try_insert(&rows, commit).await {
            Ok(inserted) => Ok(inserted),
            Err(error) if statements::refuses(&error) => {
                let (row, reason) = self.find_refused(&rows).await?;
                Err(InsertError::Rejected { index: order[row], reason })
            }
            Err(error) if is_committing => Err(InsertError::Unconfirmed(error)),
            Err(error) => Err(InsertError::Unavailable(error)),
        }
    }

    /// Returns the newest comments of a subject before a position, or the newest
    /// of all: at most `limit`, newest first. Comments of the same millisecond
    /// are ordered by id.
    ///
    /// # Errors
    ///
    /// Returns an error if the database does not answer.
    pub async fn page(
        &self,
        subject: u64,
        before: Option<Position>,
        limit: u32,
    ) -> sqlx::Result<Vec<Comment>> {
        // No number of a row is larger, so that a larger one can be cut.
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut query = sqlx::query(match before {
            Some(_) => statements::PAGE_BEFORE,
            None => statements::FIRST_PAGE,
        });
        query = query.bind(signed(subject)).bind(i64::from(limit));
        if let Some((created_ms, id)) = before {
            query = query.bind(signed(created_ms)).bind(signed(id));
        }
        let rows = query.fetch_all(&self.pool).await?;
        let comment = |row: &AnyRow| {
            let number = |index| {
                let number: i64 = row.try_get(index)?;
                Ok::<_, sqlx::Error>(number.cast_unsigned())
            };
            let (id, author) = (number(0)?, number(1)?);
            let (text, created_ms) = (row.try_get(2)?, number(3)?);
            Ok(Comment { id, subject, author, text, created_ms })
        };
        rows.iter().map(comment).collect()
    }

    /// Returns the number of comments of a subject. It is 0 for a subject that
    /// does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the database does not answer.
    pub async fn count(&self, subject: u64) -> sqlx::Result<u64> {
        let Ok(subject) = i64::try_from(subject) else {
            return Ok(0);
        };
        let query = sqlx::query_scalar(statements::COUNT).bind(subject);
        let count: Option<i64> = query.fetch_optional(&self.pool).await?;
        Ok(count.unwrap_or(0).cast_unsigned())
    }

    /// Returns the pool, for statements of its own that a test or a report has.
    #[must_use]
    pub fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Waits until every connection is returned, and closes them.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Inserts rows that are sorted by subject, and ends with `end`.
    async fn try_insert(
        &self,
        rows: &[&Comment],
        end: impl AsyncFnOnce(Transaction) -> sqlx::Result<()>,
    ) -> sqlx::Result<Inserted> {
        let mut transaction =
            Transaction::begin(&self.pool, self.begin).await?;
        match statements::insert(transaction.connection(), rows).await {
            Ok(new) => {
                end(transaction).await?;
                Ok(Inserted { new, repeated: rows.len() - new })
            }
            Err(error) => {
                if transaction::is_answer(&error) {
                    transaction.rollback().await?; // keeps the connection
                }
                Err(error)
            }
        }
    }

    /// Returns the first row that the table refuses, and the reason.
    async fn find_refused(
        &self,
        rows: &[&Comment],
    ) -> Result<(usize, String), InsertError> {
        let (mut first, mut len) = (0, rows.len());
        loop {
            let part = &rows[first..first + len.div_ceil(2)];
            let tried = self.try_insert(part, Transaction::rollback).await;
            match tried {
                Ok(_) => {
                    first += part.len();
                    len -= part.len();
                }
                Err(error) if !statements::refuses(&error) => {
                    return Err(InsertError::Unavailable(error));
                }
                Err(error) if part.len() == 1 => {
                    return Ok((first, error.to_string()));
                }
                Err(_) => len = part.len(),
            }
            if len == 0 {
                // The table has accepted every row on its own: it has changed.
                let error = "the refused row is accepted now".into();
                return Err(InsertError::Unavailable(sqlx::Error::Protocol(
                    error,
                )));
            }
        }
    }
}
