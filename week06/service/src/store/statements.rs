//! The statements of the store, for SQLite and Postgres.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sqlx::{AnyConnection, AssertSqlSafe, Row as _, raw_sql};

use crate::comment::Comment;

/// A writer waits for another one, and readers do not wait for a writer. After a
/// power failure, the last transactions can be missing. If no other copy of them
/// exists, use `synchronous = FULL`, which waits for the disk in each commit.
pub(super) const SQLITE_SETUP: &str = "PRAGMA busy_timeout = 5000;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;";

/// The name of SQLite's driver.
const SQLITE: &str = "SQLite";

const EXISTS: &str =
    "SELECT 1 FROM comment, subject_count WHERE comment.id IS NULL LIMIT 1";

/// A CHECK is the last defence: the API refuses such texts before. The function
/// `length` of SQLite counts up to the first U+0000, so this is a check of its
/// own. Postgres refuses it in every text.
const SQLITE_TABLES: &str = "
    CREATE TABLE IF NOT EXISTS comment (
        arrival INTEGER PRIMARY KEY,
        id BIGINT NOT NULL UNIQUE,
        subject BIGINT NOT NULL,
        author BIGINT NOT NULL,
        body TEXT NOT NULL
            CHECK (length(body) <= 10000 AND instr(body, char(0)) = 0),
        created_ms BIGINT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS comment_page
        ON comment (subject, created_ms, id);
    CREATE TABLE IF NOT EXISTS subject_count (
        subject BIGINT PRIMARY KEY,
        comments BIGINT NOT NULL
    );";

/// Two processes that create a table at the same time can fail, also with `IF
/// NOT EXISTS`, so they wait for a lock. Its number has no meaning.
const POSTGRES_TABLES: &str = "
    SELECT pg_advisory_xact_lock(660006);
    CREATE TABLE IF NOT EXISTS comment (
        arrival BIGINT GENERATED ALWAYS AS IDENTITY,
        id BIGINT PRIMARY KEY,
        subject BIGINT NOT NULL,
        author BIGINT NOT NULL,
        body TEXT NOT NULL CHECK (length(body) <= 10000),
        created_ms BIGINT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS comment_page
        ON comment (subject, created_ms, id);
    CREATE TABLE IF NOT EXISTS subject_count (
        subject BIGINT PRIMARY KEY,
        comments BIGINT NOT NULL
    );";

pub(super) const FIRST_PAGE: &str =
    "SELECT id, author, body, created_ms FROM comment
    WHERE subject = $1
    ORDER BY created_ms DESC, id DESC LIMIT $2";

pub(super) const PAGE_BEFORE: &str =
    "SELECT id, author, body, created_ms FROM comment
    WHERE subject = $1 AND (created_ms, id) < ($3, $4)
    ORDER BY created_ms DESC, id DESC LIMIT $2";

pub(super) const COUNT: &str =
    "SELECT comments FROM subject_count WHERE subject = $1";

/// The most rows of one statement. Batches are cut into chunks that are powers
/// of two, so that the driver keeps a few statements prepared.
const MAX_ROWS: usize = 512;

pub(super) async fn tables_exist(connection: &mut AnyConnection) -> bool {
    raw_sql(EXISTS).execute(connection).await.is_ok()
}

pub(super) async fn create_tables(
    connection: &mut AnyConnection,
    is_sqlite: bool,
) -> sqlx::Result<()> {
    let tables = if is_sqlite { SQLITE_TABLES } else { POSTGRES_TABLES };
    raw_sql(tables).execute(connection).await?;
    Ok(())
}

/// Inserts the rows whose id is not in the table, in this order, and counts
/// them. Returns how many they are.
pub(super) async fn insert(
    connection: &mut AnyConnection,
    rows: &[&Comment],
) -> sqlx::Result<usize> {
    // The new rows of each subject.
    let mut new = BTreeMap::<i64, i64>::new();
    for chunk in chunks(rows) {
        let sql = with_values(
            "INSERT INTO comment (id, subject, author, body, created_ms)",
            5,
            chunk.len(),
            connection.backend_name() == SQLITE,
            "ON CONFLICT (id) DO NOTHING RETURNING subject",
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for row in chunk {
            let numbers = [row.id, row.subject, row.author, row.created_ms];
            let [id, subject, author, created] = numbers.map(u64::cast_signed);
            query = query.bind(id).bind(subject).bind(author);
            query = query.bind(row.text.as_str()).bind(created);
        }
        for row in query.fetch_all(&mut *connection).await? {
            *new.entry(row.try_get(0)?).or_default() += 1;
        }
    }
    count(connection, &new).await?;
    Ok(new.values().sum::<i64>() as usize)
}

/// Adds to the counters of subjects, in order of the subjects.
async fn count(
    connection: &mut AnyConnection,
    new: &BTreeMap<i64, i64>,
) -> sqlx::Result<()> {
    let new: Vec<_> = new.iter().collect();
    for chunk in chunks(&new) {
        let sql = with_values(
            "INSERT INTO subject_count (subject, comments)",
            2,
            chunk.len(),
            connection.backend_name() == SQLITE,
            "ON CONFLICT (subject) DO UPDATE SET
                comments = subject_count.comments + excluded.comments",
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (subject, comments) in chunk {
            query = query.bind(**subject).bind(**comments);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Returns whether the database refuses a row, and not only now: its SQLSTATE is
/// of the classes "data exception" or "constraint violation", or SQLite says
/// TOOBIG, CONSTRAINT or MISMATCH.
pub(super) fn refuses(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| match code.len() {
        // An SQLSTATE has five characters, a code of SQLite has fewer.
        5 => code.starts_with("22") || code.starts_with("23"),
        _ => code.parse().is_ok_and(|code: i32| {
            matches!(code & 0xff, 18..=20) // the other bits are a detail
        }),
    })
}

fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let len = 1 << rows.len().min(MAX_ROWS).checked_ilog2()?;
        let (chunk, rest) = rows.split_at(len);
        rows = rest;
        Some(chunk)
    })
}

/// Returns a statement with parameters for `rows` rows. SQLite gets parameters
/// without a name: sqlx looks the name of each parameter up, in a list of all
/// names, which took a quarter of the time of a batch.
fn with_values(
    insert: &str,
    columns: usize,
    rows: usize,
    is_sqlite: bool,
    on_conflict: &str,
) -> String {
    let mut sql = format!("{insert} VALUES ");
    for parameter in 1..=rows * columns {
        let before = match (parameter - 1) % columns {
            0 if parameter == 1 => "(",
            0 => "), (",
            _ => ", ",
        };
        let _ = match is_sqlite {
            true => write!(sql, "{before}?"),
            false => write!(sql, "{before}${parameter}"),
        }; // into a `String`
    }
    sql + ") " + on_conflict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_powers_of_two_and_contain_each_row_once() {
        for len in [0, 1, 2, 3, 511, 512, 513, 1700] {
            let rows: Vec<usize> = (0..len).collect();
            let chunks: Vec<_> = chunks(&rows).collect();
            assert!(chunks.iter().all(|c| c.len().is_power_of_two()));
            assert!(chunks.iter().all(|c| c.len() <= MAX_ROWS));
            assert_eq!(chunks.concat(), rows);
        }
    }

    #[test]
    fn parameters_are_numbered_through_all_rows() {
        let sql = with_values("INSERT", 2, 2, false, "RETURNING id");
        assert_eq!(sql, "INSERT VALUES ($1, $2), ($3, $4) RETURNING id");
        let sql = with_values("INSERT", 2, 2, true, "RETURNING id");
        assert_eq!(sql, "INSERT VALUES (?, ?), (?, ?) RETURNING id");
    }
}
