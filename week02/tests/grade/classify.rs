use std::fmt::Debug;
use std::time::Duration;

use sqlx::AnyPool;
use week02::classify::{Accounts, Class, Error, classify};

use crate::common::{ACQUIRE_TIMEOUT, Database, find_cause, prepare};

mod table {
    use std::borrow::Cow;
    use std::error::Error as StdError;
    use std::{fmt, io};

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    #[test]
    fn what_somebody_has_already_is_a_conflict() {
        assert_codes(Class::Conflict, &["23505", "23P01"]);
        assert_codes(Class::Conflict, &["1555", "2067", "2579"]);
    }

    #[test]
    fn what_a_constraint_refuses_is_rejected() {
        assert_codes(Class::Rejected, &["23000", "23502", "23503", "23514"]);
        assert_codes(Class::Rejected, &["19", "275", "787", "1299", "3091"]);
    }

    #[test]
    fn where_nothing_was_done_the_database_is_busy() {
        assert_codes(
            Class::Busy,
            &["40001", "40P01", "55P03", "53300", "57P03", "5", "6"],
        );
        assert_eq!(classify(&sqlx::Error::PoolTimedOut), Class::Busy);
        assert_eq!(classify(&sqlx::Error::PoolClosed), Class::Busy);
    }

    #[test]
    fn an_extended_code_is_a_kind_of_its_primary_one() {
        assert_codes(Class::Busy, &["517", "261", "773", "262", "518"]);
        assert_codes(Class::Corrupt, &["267", "523", "779"]);
        assert_codes(Class::Bug, &["257", "266", "1034", "2314"]);
        // The byte is whole.
        assert_codes(Class::Bug, &["37", "69", "133", "283"]);
    }

    #[test]
    fn a_statement_that_was_stopped_has_timed_out() {
        assert_codes(Class::TimedOut, &["57014", "9"]);
    }

    #[test]
    fn a_connection_that_broke_is_lost() {
        assert_codes(
            Class::Lost,
            &["08000", "08003", "08006", "08P01", "57P01", "57P02"],
        );
        for kind in [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::BrokenPipe,
        ] {
            let error = sqlx::Error::Io(kind.into());
            assert_eq!(classify(&error), Class::Lost, "{error:?}");
        }
        let protocol = sqlx::Error::Protocol(LIES.into());
        assert_eq!(classify(&protocol), Class::Lost);
        assert_eq!(classify(&sqlx::Error::WorkerCrashed), Class::Lost);
    }

    #[test]
    fn a_socket_that_timed_out_is_lost_too() {
        let error = sqlx::Error::Io(io::ErrorKind::TimedOut.into());
        assert_eq!(classify(&error), Class::Lost);
    }

    #[test]
    fn what_is_stored_and_makes_no_sense_is_corrupt() {
        assert_codes(Class::Corrupt, &["XX001", "XX002", "11", "26"]);
        let decode = sqlx::Error::Decode(LIES.into());
        assert_eq!(classify(&decode), Class::Corrupt);
        let index = "name".to_owned();
        let column = sqlx::Error::ColumnDecode { index, source: LIES.into() };
        assert_eq!(classify(&column), Class::Corrupt);
    }

    #[test]
    fn all_else_is_a_bug() {
        assert_codes(
            Class::Bug,
            &["42P01", "42601", "22001", "25P02", "57P04", "XX000", "40003"],
        );
        assert_codes(Class::Bug, &["1", "8", "10", "13", "21", "", "odd"]);
        let without_code: sqlx::Error = Fake(None).into();
        assert_eq!(classify(&without_code), Class::Bug);
        for error in [
            sqlx::Error::RowNotFound,
            sqlx::Error::ColumnNotFound("name".into()),
            sqlx::Error::ColumnIndexOutOfBounds { index: 3, len: 2 },
            sqlx::Error::Configuration(LIES.into()),
            sqlx::Error::Encode(LIES.into()),
            sqlx::Error::Tls(LIES.into()),
        ] {
            assert_eq!(classify(&error), Class::Bug, "{error:?}");
        }
    }

    fn assert_codes(class: Class, codes: &[&'static str]) {
        for code in codes {
            let error: sqlx::Error = Fake(Some(code)).into();
            assert_eq!(classify(&error), class, "code {code:?}");
        }
    }

    /// What a database says, of whichever code: its text means nothing.
    const LIES: &str = "UNIQUE constraint failed, duplicate key, not null, \
                        database is locked, timeout, connection lost";

    /// An error with this code.
    #[derive(Debug)]
    struct Fake(Option<&'static str>);

    impl fmt::Display for Fake {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(LIES)
        }
    }

    impl StdError for Fake {}

    impl DatabaseError for Fake {
        fn message(&self) -> &str {
            LIES
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            self.0.map(Cow::Borrowed)
        }

        /// As the drivers have it.
        fn kind(&self) -> ErrorKind {
            match self.0 {
                Some("23505" | "1555" | "2067") => ErrorKind::UniqueViolation,
                Some("23503" | "787") => ErrorKind::ForeignKeyViolation,
                Some("23502" | "1299") => ErrorKind::NotNullViolation,
                Some("23514" | "275") => ErrorKind::CheckViolation,
                Some("23P01") => ErrorKind::ExclusionViolation,
                _ => ErrorKind::Other,
            }
        }

        fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(
            &mut self,
        ) -> &mut (dyn StdError + Send + Sync + 'static) {
            self
        }

        fn into_error(
            self: Box<Self>,
        ) -> Box<dyn StdError + Send + Sync + 'static> {
            self
        }
    }
}

mod statements {
    use super::*;

    #[tokio::test]
    async fn a_rename_says_whether_there_is_such_an_account() {
        let database = Database::sqlite();
        let pool = cy_bo_and_ada(&database).await;
        let accounts = Accounts::new(pool);

        assert!(accounts.rename(2, "eve").await.unwrap(), "account 2");
        assert!(!accounts.rename(4, "dan").await.unwrap(), "no account 4");
        assert_eq!(accounts.names("blue").await.unwrap(), ["eve"]);
        assert_eq!(accounts.names("red").await.unwrap(), ["cy", "ada"]);
        assert_eq!(accounts.names("green").await.unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn a_name_can_be_taken_or_refused() {
        let database = Database::sqlite();
        super::a_name_can_be_taken_or_refused(&database).await;
    }

    #[tokio::test]
    async fn a_row_that_does_not_decode_is_corrupt() {
        let database = Database::sqlite();
        super::a_row_that_does_not_decode_is_corrupt(&database).await;
    }

    #[tokio::test]
    async fn three_operations_have_three_names() {
        let database = Database::sqlite();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let accounts = Accounts::new(pool);

        // There are no tables.
        let names = accounts.names("red").await.unwrap_err().operation;
        let rename = accounts.rename(1, "eve").await.unwrap_err().operation;
        let audit = accounts.audit("red").await.unwrap_err().operation;
        assert!(
            names != rename && names != audit && rename != audit,
            "{names:?}, {rename:?} and {audit:?}"
        );
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_is_an_error() {
        let database = Database::sqlite();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        // The last of three names cannot be computed.
        prepare(
            &pool,
            &[
                "CREATE TABLE rows (id INTEGER PRIMARY KEY)",
                "INSERT INTO rows VALUES (1), (2), (3)",
                "CREATE VIEW accounts AS SELECT id, 'red' AS team, \
                 'name ' || abs(iif(id = 3, -9223372036854775808, id)) \
                 AS name FROM rows",
            ],
        )
        .await;

        let names = Accounts::new(pool).names("red").await;
        assert_fails(Class::Bug, names);
    }
}

mod pools {
    use super::*;

    const SOON: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn an_exhausted_pool_is_busy_and_recovers() {
        let database = Database::sqlite();
        cy_bo_and_ada(&database).await;
        let pool = database.pool(1, SOON).await;
        let accounts = Accounts::new(pool.clone());

        let taken = pool.acquire().await.unwrap();
        assert_fails(Class::Busy, accounts.names("red").await);
        assert_fails(Class::Busy, accounts.rename(3, "eve").await);
        assert_fails(Class::Busy, accounts.audit("red").await);
        taken.close().await.unwrap();
        assert_eq!(accounts.names("red").await.unwrap(), ["cy", "ada"]);
    }

    #[tokio::test]
    async fn a_locked_file_is_busy_and_recovers() {
        let database = Database::sqlite();
        let others = cy_bo_and_ada(&database).await;
        let at_once = "PRAGMA busy_timeout = 0";
        let pool = database.pool_after(1, SOON, at_once).await;
        let accounts = Accounts::new(pool.clone());

        let mut other = others.acquire().await.unwrap();
        let lock = sqlx::query("BEGIN IMMEDIATE");
        lock.execute(&mut *other).await.unwrap();
        assert_fails(Class::Busy, accounts.rename(3, "eve").await);
        assert_fails(Class::Busy, accounts.audit("red").await);
        let unlock = sqlx::query("ROLLBACK");
        unlock.execute(&mut *other).await.unwrap();

        assert_eq!(audited(&pool).await, []);
        assert_eq!(accounts.audit("red").await.unwrap(), 2);
    }

    #[tokio::test]
    async fn an_audit_needs_one_connection() {
        super::an_audit_needs_one_connection(&Database::sqlite()).await;
    }

    #[tokio::test]
    async fn an_audit_is_all_or_nothing() {
        super::an_audit_is_all_or_nothing(&Database::sqlite()).await;
    }
}

mod postgres {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_name_can_be_taken_or_refused() {
        let database = Database::postgres();
        super::a_name_can_be_taken_or_refused(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_row_that_does_not_decode_is_corrupt() {
        let database = Database::postgres();
        super::a_row_that_does_not_decode_is_corrupt(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn an_audit_is_all_or_nothing_on_one_connection() {
        super::an_audit_needs_one_connection(&Database::postgres()).await;
        super::an_audit_is_all_or_nothing(&Database::postgres()).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_lock_is_busy_and_a_slow_statement_times_out() {
        let database = Database::postgres();
        let others = cy_bo_and_ada(&database).await;
        let mut other = others.begin().await.unwrap();
        let lock = sqlx::query("UPDATE accounts SET name = 'dan' WHERE id = 3");
        lock.execute(&mut *other).await.unwrap();

        for (setting, class) in [
            ("SET lock_timeout = '50ms'", Class::Busy),
            ("SET statement_timeout = '50ms'", Class::TimedOut),
        ] {
            let pool = database.pool_after(1, ACQUIRE_TIMEOUT, setting).await;
            let accounts = Accounts::new(pool);
            assert_fails(class, accounts.rename(3, "eve").await);
            assert_eq!(accounts.names("red").await.unwrap(), ["cy", "ada"]);
        }
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_transaction_that_came_second_is_busy() {
        let database = Database::postgres();
        let others = cy_bo_and_ada(&database).await;
        let level = "SET default_transaction_isolation = 'repeatable read'";
        let pool = database.pool_after(1, ACQUIRE_TIMEOUT, level).await;
        let accounts = Accounts::new(pool);

        let mut other = others.begin().await.unwrap();
        let update = "UPDATE accounts SET name = 'dan' WHERE id = 3";
        sqlx::query(update).execute(&mut *other).await.unwrap();
        let second =
            tokio::spawn(async move { accounts.rename(3, "eve").await });
        timeout(ACQUIRE_TIMEOUT, somebody_waits_for_a_lock(&others))
            .await
            .expect("the rename waits for the row");
        other.commit().await.unwrap();

        assert_fails(Class::Busy, second.await.unwrap());
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_connection_that_breaks_after_two_rows_is_lost() {
        let database = Database::postgres();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        // Rows so large that the first two are sent before the third ends it.
        prepare(
            &pool,
            &[
                "CREATE TABLE rows (id BIGINT PRIMARY KEY)",
                "INSERT INTO rows VALUES (1), (2), (3)",
                "CREATE VIEW accounts AS SELECT id, 'red' AS team, \
                 CASE WHEN id < 3 THEN repeat('x', 1000000) \
                 ELSE pg_terminate_backend(pg_backend_pid())::TEXT END \
                 AS name FROM rows",
            ],
        )
        .await;

        let names = Accounts::new(pool).names("red").await;
        assert_fails(Class::Lost, names.map(|names| names.len()));
    }

    async fn somebody_waits_for_a_lock(pool: &AnyPool) {
        let count = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        loop {
            let waiting = sqlx::query_scalar::<_, i64>(count);
            if waiting.fetch_one(pool).await.unwrap() > 0 {
                return;
            }
        }
    }
}

async fn a_name_can_be_taken_or_refused(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    prepare(
        &pool,
        &[
            "CREATE TABLE accounts (id BIGINT PRIMARY KEY, team TEXT, \
             name TEXT NOT NULL UNIQUE CHECK (length(name) < 6))",
            "INSERT INTO accounts (id, team, name) \
             VALUES (1, 'red', 'ada'), (2, 'red', 'bo')",
        ],
    )
    .await;
    let accounts = Accounts::new(pool);

    assert_fails(Class::Conflict, accounts.rename(2, "ada").await);
    assert_fails(Class::Rejected, accounts.rename(2, "charles").await);
    assert_eq!(accounts.names("red").await.unwrap(), ["ada", "bo"]);
}

async fn a_row_that_does_not_decode_is_corrupt(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    prepare(
        &pool,
        &[
            "CREATE TABLE accounts (id BIGINT, name TEXT, team TEXT)",
            "INSERT INTO accounts (id, name, team) \
             VALUES (1, 'ada', 'red'), (2, NULL, 'red'), (3, 'bo', 'red')",
        ],
    )
    .await;

    let names = Accounts::new(pool).names("red").await;
    assert_fails(Class::Corrupt, names);
}

async fn an_audit_needs_one_connection(database: &Database) {
    cy_bo_and_ada(database).await.close().await;
    let pool = database.pool(1, Duration::from_millis(500)).await;
    let accounts = Accounts::new(pool.clone());

    assert_eq!(accounts.audit("green").await.unwrap(), 0);
    assert_eq!(accounts.audit("red").await.unwrap(), 2);
    assert_eq!(audited(&pool).await, [entry(1, "cy"), entry(3, "ada")]);
    assert_eq!(accounts.audit("blue").await.unwrap(), 1);
    let all = [entry(1, "cy"), entry(2, "bo"), entry(3, "ada")];
    assert_eq!(audited(&pool).await, all);
}

async fn an_audit_is_all_or_nothing(database: &Database) {
    cy_bo_and_ada(database).await.close().await;
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let accounts = Accounts::new(pool.clone());

    // Somebody has written the last row that the audit would write.
    prepare(&pool, &["INSERT INTO audit (account, entry) VALUES (3, 'old')"])
        .await;
    assert_fails(Class::Conflict, accounts.audit("red").await);
    assert_eq!(audited(&pool).await, [entry(3, "old")]);
}

/// Checks all that a failure promises, and returns its operation.
#[track_caller]
fn assert_fails<T: Debug>(
    class: Class,
    result: Result<T, Error>,
) -> &'static str {
    let error = result.expect_err("a failure, not an answer");
    assert_eq!(error.class, class, "{error:?}");
    let cause = find_cause::<sqlx::Error>(&error);
    assert!(cause.is_some(), "no driver's error among the sources: {error:?}");

    let (text, below) = (error.to_string(), error.source.to_string());
    assert!(!error.operation.is_empty(), "{text:?} names no operation");
    let named = text.contains(error.operation);
    assert!(named, "{text:?} does not name {:?}", error.operation);
    assert!(!text.contains(&below), "{text:?} repeats its source");
    error.operation
}

/// Cy and Ada are red, in the order of their keys. Bo is blue.
async fn cy_bo_and_ada(database: &Database) -> AnyPool {
    let pool = database.with_tables().await;
    let insert = "INSERT INTO accounts (id, name, team) \
                  VALUES (3, 'ada', 'red'), (2, 'bo', 'blue'), (1, 'cy', 'red')";
    prepare(&pool, &[insert]).await;
    pool
}

/// What stands in the audit, by account.
async fn audited(pool: &AnyPool) -> Vec<(i64, String)> {
    let select = "SELECT account, entry FROM audit ORDER BY account";
    sqlx::query_as(select).fetch_all(pool).await.unwrap()
}

fn entry(account: i64, name: &str) -> (i64, String) {
    (account, name.to_owned())
}
