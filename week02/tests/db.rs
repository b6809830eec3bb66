//! Tests of the pool and the reads in `week02::db`, and of the properties of
//! the answers that the stubs do not require.

#[path = "grade/common.rs"]
mod common;

use lab::cancel::after_polls;
use sqlx::{Acquire as _, AnyPool};
use week02::classify::{self, Class};
use week02::db::Session;
use week02::no_rows::{Accounts, Error};

use crate::common::{ACQUIRE_TIMEOUT, Database, prepare};

#[tokio::test]
#[ignore = "needs postgres"]
async fn get_fails_if_postgres_reports_an_error_after_the_row() {
    let database = Database::postgres();
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    // The query fails when it computes the name of the second row.
    prepare(
        &pool,
        &[
            "CREATE TABLE rows (n BIGINT)",
            "INSERT INTO rows VALUES (1), (0)",
            "CREATE VIEW accounts AS SELECT CAST(7 AS BIGINT) AS id, \
             'name ' || 1 / n AS name, 'red' AS team FROM rows",
        ],
    )
    .await;

    let read = Accounts::new(pool).get(7).await;
    assert!(
        matches!(read, Err(Error::Failed { .. })),
        "expected Failed, got {read:?}"
    );
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn a_read_fails_at_most_once_on_a_connection_that_is_older_than_a_migration()
 {
    let database = Database::postgres();
    let other = with_an_account(&database).await;
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let names = classify::Accounts::new(pool.clone());
    let accounts = Accounts::new(pool);

    for (method, column) in
        [("get", "VARCHAR(9)"), ("list", "TEXT"), ("names", "VARCHAR(9)")]
    {
        let read = async || match method {
            "get" => accounts.get(1).await.map(drop).map_err(|_| Class::Busy),
            "list" => {
                accounts.list("red").await.map(drop).map_err(|_| Class::Busy)
            }
            _ => names.names("red").await.map(drop).map_err(|e| e.class),
        };
        assert_eq!(read().await, Ok(()), "`{method}` prepares its statement");
        let migration =
            format!("ALTER TABLE accounts ALTER name TYPE {column}");
        let migration = sqlx::query(sqlx::AssertSqlSafe(migration));
        migration.execute(&other).await.unwrap();
        let old = read().await;
        assert_eq!(old, Err(Class::Busy), "`{method}` with the old statement");
        assert_eq!(read().await, Ok(()), "`{method}` with a new statement");
    }
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn a_pool_ends_the_transaction_of_a_returned_postgres_connection() {
    let database = Database::postgres();
    let other = with_an_account(&database).await;
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;

    for statements in [
        &["BEGIN"][..],
        &["BEGIN", "UPDATE accounts SET name = 'eve'"],
        // The error aborts the transaction.
        &["BEGIN", "SELECT 1 / 0"],
    ] {
        let mut connection = pool.acquire().await.unwrap();
        for &statement in statements {
            // The last statement fails.
            let _ = sqlx::query(statement).execute(&mut *connection).await;
        }
        drop(connection);
        database.assert_no_transaction(&pool, &other).await;
    }
    assert_eq!(stored_name(&other).await, "ada", "the stored name");
}

#[tokio::test]
#[ignore = "needs postgres"]
async fn a_write_after_a_dropped_begin_is_committed() {
    let database = Database::postgres();
    let other = with_an_account(&database).await;
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;

    for polls in 1.. {
        let begun = after_polls(polls, pool.begin()).await;
        let update = "UPDATE accounts SET name = $1";
        let update = sqlx::query(update).bind(format!("{polls}"));
        if begun.is_some() {
            break;
        }
        update.execute(&pool).await.unwrap();
        assert_eq!(
            stored_name(&other).await,
            format!("{polls}"),
            "the stored name"
        );
    }
}

/// The pool of this test has no hook.
#[tokio::test]
#[ignore = "needs postgres"]
async fn a_write_after_a_dropped_session_is_committed() {
    let database = Database::postgres();
    let other = with_an_account(&database).await;
    let pool = database.pool_that_breaks_after(usize::MAX).0;

    for round in 0..5 {
        for polls in 1.. {
            let begun = after_polls(polls, async {
                Session::acquire(&pool).await?.begin().await.map(drop)
            });
            let is_begun = begun.await.is_some();
            let name = format!("{polls} polls, round {round}");
            let update = "UPDATE accounts SET name = $1";
            let update = sqlx::query(update).bind(&name).execute(&pool);
            update.await.unwrap();
            assert_eq!(stored_name(&other).await, name, "the stored name");
            if is_begun {
                break;
            }
        }
    }
}

/// This is a fault of sqlx 0.9.0, which the page of `classify` warns of.
#[tokio::test]
#[ignore = "needs postgres"]
async fn a_dropped_nested_begin_rolls_back_the_outer_transaction() {
    let database = Database::postgres();
    let other = with_an_account(&database).await;

    // A response that is already there completes `begin` in its first poll.
    for _ in 0..1_000 {
        let mut outer = other.begin().await.unwrap();
        let update = "UPDATE accounts SET name = 'eve'";
        sqlx::query(update).execute(&mut *outer).await.unwrap();
        let is_begun = after_polls(1, outer.begin()).await.is_some();
        if is_begun {
            outer.rollback().await.unwrap();
            continue;
        }
        outer.commit().await.expect("the commit reports success");
        assert_eq!(stored_name(&other).await, "ada", "the stored name");
        return;
    }
    panic!("expected to drop one of 1,000 nested transactions");
}

async fn with_an_account(database: &Database) -> AnyPool {
    let pool = database.with_tables().await;
    let insert = "INSERT INTO accounts VALUES (1, 'ada', 'red')";
    prepare(&pool, &[insert]).await;
    pool
}

async fn stored_name(pool: &AnyPool) -> String {
    let select = sqlx::query_scalar("SELECT name FROM accounts WHERE id = 1");
    select.fetch_one(pool).await.expect("account 1 is stored")
}
