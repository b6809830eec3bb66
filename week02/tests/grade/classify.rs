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
    fn unique_and_exclusion_violations_are_classified_as_conflict() {
        assert_codes(Class::Conflict, &["23505", "23P01"]);
        assert_codes(Class::Conflict, &["1555", "2067", "2579"]);
    }

    #[test]
    fn check_and_foreign_key_violations_are_classified_as_rejected() {
        // Any integrity violation, NOT NULL, FOREIGN KEY, CHECK.
        assert_codes(Class::Rejected, &["23000", "23502", "23503", "23514"]);
        // CONSTRAINT, and its kinds CHECK, FOREIGNKEY, NOTNULL, DATATYPE.
        assert_codes(Class::Rejected, &["19", "275", "787", "1299", "3091"]);
    }

    #[test]
    fn lock_conflicts_and_an_exhausted_pool_are_classified_as_busy() {
        assert_codes(
            Class::Busy,
            &["40001", "40P01", "55P03", "53300", "57P03", "5", "6"],
        );
        assert_class(&sqlx::Error::PoolTimedOut, Class::Busy);
        assert_class(&sqlx::Error::PoolClosed, Class::Busy);
    }

    #[test]
    fn an_extended_sqlite_code_has_the_class_of_its_primary_code() {
        assert_codes(Class::Busy, &["517", "261", "773", "262", "518"]);
        assert_codes(Class::Corrupt, &["267", "523", "779"]);
        assert_codes(Class::Unexpected, &["257", "266", "1034", "2314"]);
        // The primary code is the whole lowest byte. These codes share only some
        // bits with a listed code.
        assert_codes(Class::Unexpected, &["37", "69", "133", "283"]);
    }

    #[test]
    fn a_cancelled_statement_is_classified_as_timed_out() {
        assert_codes(Class::TimedOut, &["57014", "9"]);
    }

    #[test]
    fn a_broken_connection_is_classified_as_lost() {
        assert_codes(
            Class::Lost,
            &["08000", "08003", "08006", "08P01", "57P01", "57P02"],
        );
        for kind in [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::BrokenPipe,
        ] {
            assert_class(&sqlx::Error::Io(kind.into()), Class::Lost);
        }
        let protocol = sqlx::Error::Protocol(MESSAGE.into());
        assert_class(&protocol, Class::Lost);
        assert_class(&sqlx::Error::WorkerCrashed, Class::Lost);
    }

    #[test]
    fn a_socket_timeout_is_classified_as_a_lost_connection() {
        let error = sqlx::Error::Io(io::ErrorKind::TimedOut.into());
        assert_class(&error, Class::Lost);
    }

    #[test]
    fn damaged_and_undecodable_data_is_classified_as_corrupt() {
        assert_codes(Class::Corrupt, &["XX001", "XX002", "11", "26"]);
        let decode = sqlx::Error::Decode(MESSAGE.into());
        assert_class(&decode, Class::Corrupt);
        let index = "name".to_owned();
        let column =
            sqlx::Error::ColumnDecode { index, source: MESSAGE.into() };
        assert_class(&column, Class::Corrupt);
    }

    #[test]
    fn an_error_without_a_rule_is_classified_as_unexpected() {
        assert_codes(
            Class::Unexpected,
            &["42P01", "42601", "22001", "25P02", "57P04", "XX000", "40003"],
        );
        assert_codes(
            Class::Unexpected,
            &["1", "8", "10", "13", "21", "", "odd"],
        );
        let without_code: sqlx::Error = Fake(None).into();
        assert_class(&without_code, Class::Unexpected);
        for error in [
            sqlx::Error::RowNotFound,
            sqlx::Error::ColumnNotFound("name".into()),
            sqlx::Error::ColumnIndexOutOfBounds { index: 3, len: 2 },
            sqlx::Error::Configuration(MESSAGE.into()),
            sqlx::Error::Encode(MESSAGE.into()),
            sqlx::Error::Tls(MESSAGE.into()),
        ] {
            assert_class(&error, Class::Unexpected);
        }
    }

    #[track_caller]
    fn assert_codes(class: Class, codes: &[&'static str]) {
        for code in codes {
            let error: sqlx::Error = Fake(Some(code)).into();
            assert_eq!(classify(&error), class, "the class of code {code:?}");
        }
    }

    #[track_caller]
    fn assert_class(error: &sqlx::Error, class: Class) {
        assert_eq!(classify(error), class, "the class of {error:?}");
    }

    /// The message of every fake error. It contains words of several classes,
    /// and must not affect the class.
    const MESSAGE: &str = "UNIQUE constraint failed, duplicate key, not null, \
                        database is locked, timeout, connection lost";

    /// A database error with this code, or without a code.
    #[derive(Debug)]
    struct Fake(Option<&'static str>);

    impl fmt::Display for Fake {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(MESSAGE)
        }
    }

    impl StdError for Fake {}

    impl DatabaseError for Fake {
        fn message(&self) -> &str {
            MESSAGE
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            self.0.map(Cow::Borrowed)
        }

        /// Returns the kind that the driver returns for this code.
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
    async fn rename_reports_a_missing_account_and_names_are_ordered_by_id() {
        let database = Database::sqlite();
        let pool = pool_with_three_accounts(&database).await;
        let accounts = Accounts::new(pool);

        let renamed = accounts.rename(2, "eve").await;
        let renamed = renamed.expect("expected Ok for account 2");
        assert!(renamed, "expected true for account 2, got {renamed}");
        let renamed = accounts.rename(4, "dan").await;
        let renamed = renamed.expect("expected Ok for the missing account 4");
        assert!(!renamed, "expected false for account 4, got {renamed}");
        assert_names(&accounts, "blue", &["eve"]).await;
        assert_names(&accounts, "red", &["cy", "ada"]).await;
        assert_names(&accounts, "green", &[]).await;
    }

    #[tokio::test]
    async fn a_taken_name_is_a_conflict_and_an_invalid_name_is_rejected() {
        let database = Database::sqlite();
        check_conflict_and_rejection(&database).await;
    }

    #[tokio::test]
    async fn listing_names_fails_as_corrupt_if_a_row_does_not_decode() {
        let database = Database::sqlite();
        check_undecodable_row(&database).await;
    }

    #[tokio::test]
    async fn each_method_names_a_different_operation_in_its_error() {
        let database = Database::sqlite();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let accounts = Accounts::new(pool);

        let no_table = "expected an error: the database has no tables";
        let names = accounts.names("red").await;
        let names = names.expect_err(no_table).operation;
        let rename = accounts.rename(1, "eve").await;
        let rename = rename.expect_err(no_table).operation;
        let audit = accounts.audit("red").await;
        let audit = audit.expect_err(no_table).operation;
        assert!(
            names != rename && names != audit && rename != audit,
            "expected three different operations, got {names:?} from `names`, \
             {rename:?} from `rename` and {audit:?} from `audit`"
        );
    }

    #[tokio::test]
    async fn listing_names_fails_if_the_query_fails_after_the_first_rows() {
        let database = Database::sqlite();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        // The computation of the third name overflows.
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
        assert_fails(Class::Unexpected, names);
    }
}

mod pools {
    use super::*;

    const SHORT_ACQUIRE_TIMEOUT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn calls_fail_as_busy_while_the_pool_is_exhausted_then_succeed() {
        let database = Database::sqlite();
        pool_with_three_accounts(&database).await;
        let pool = database.pool(1, SHORT_ACQUIRE_TIMEOUT).await;
        let accounts = Accounts::new(pool.clone());

        let only_connection = pool.acquire().await.unwrap();
        assert_fails(Class::Busy, accounts.names("red").await);
        assert_fails(Class::Busy, accounts.rename(3, "eve").await);
        assert_fails(Class::Busy, accounts.audit("red").await);
        only_connection.close().await.unwrap();
        assert_names(&accounts, "red", &["cy", "ada"]).await;
    }

    #[tokio::test]
    async fn writes_fail_as_busy_while_the_database_is_locked_then_succeed() {
        let database = Database::sqlite();
        let other_pool = pool_with_three_accounts(&database).await;
        let setup = "PRAGMA busy_timeout = 0";
        let pool = database.pool_after(1, SHORT_ACQUIRE_TIMEOUT, setup).await;
        let accounts = Accounts::new(pool.clone());

        let mut other = other_pool.acquire().await.unwrap();
        let lock = sqlx::query("BEGIN IMMEDIATE");
        lock.execute(&mut *other).await.unwrap();
        assert_fails(Class::Busy, accounts.rename(3, "eve").await);
        assert_fails(Class::Busy, accounts.audit("red").await);
        let unlock = sqlx::query("ROLLBACK");
        unlock.execute(&mut *other).await.unwrap();

        assert_audit_rows(&pool, &[]).await;
        assert_audits(&accounts, "red", 2).await;
    }

    #[tokio::test]
    async fn an_audit_needs_one_connection_and_writes_a_row_per_account() {
        check_audit_on_one_connection(&Database::sqlite()).await;
    }

    #[tokio::test]
    async fn an_audit_writes_no_rows_if_one_insert_fails() {
        check_audit_is_atomic(&Database::sqlite()).await;
    }
}

mod postgres {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn on_postgres_a_taken_name_conflicts_and_an_invalid_one_is_rejected()
    {
        let database = Database::postgres();
        check_conflict_and_rejection(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn listing_names_fails_as_corrupt_if_a_postgres_row_does_not_decode()
    {
        let database = Database::postgres();
        check_undecodable_row(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn an_audit_on_postgres_is_atomic_and_needs_only_one_connection() {
        check_audit_on_one_connection(&Database::postgres()).await;
        check_audit_is_atomic(&Database::postgres()).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_lock_timeout_fails_as_busy_and_a_statement_timeout_as_timed_out()
    {
        let database = Database::postgres();
        let other_pool = pool_with_three_accounts(&database).await;
        let mut other = other_pool.begin().await.unwrap();
        let lock = sqlx::query("UPDATE accounts SET name = 'dan' WHERE id = 3");
        lock.execute(&mut *other).await.unwrap();

        for (setting, class) in [
            ("SET lock_timeout = '50ms'", Class::Busy),
            ("SET statement_timeout = '50ms'", Class::TimedOut),
        ] {
            let pool = database.pool_after(1, ACQUIRE_TIMEOUT, setting).await;
            let accounts = Accounts::new(pool);
            assert_fails(class, accounts.rename(3, "eve").await);
            assert_names(&accounts, "red", &["cy", "ada"]).await;
        }
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_serialization_failure_on_postgres_fails_as_busy() {
        let database = Database::postgres();
        let other_pool = pool_with_three_accounts(&database).await;
        let level = "SET default_transaction_isolation = 'repeatable read'";
        let pool = database.pool_after(1, ACQUIRE_TIMEOUT, level).await;
        let accounts = Accounts::new(pool);

        let mut other = other_pool.begin().await.unwrap();
        let update = "UPDATE accounts SET name = 'dan' WHERE id = 3";
        sqlx::query(update).execute(&mut *other).await.unwrap();
        let rename =
            tokio::spawn(async move { accounts.rename(3, "eve").await });
        timeout(ACQUIRE_TIMEOUT, wait_for_a_blocked_statement(&other_pool))
            .await
            .expect("expected `rename` to wait for the locked row");
        other.commit().await.unwrap();

        assert_fails(Class::Busy, rename.await.unwrap());
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn listing_names_fails_as_lost_if_the_connection_breaks_after_two_rows()
     {
        let database = Database::postgres();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        // The first two rows are so large that the server sends them before it
        // computes the third, which ends the connection.
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

    /// Waits until a statement waits for a lock.
    async fn wait_for_a_blocked_statement(pool: &AnyPool) {
        let count = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        loop {
            let blocked = sqlx::query_scalar::<_, i64>(count);
            if blocked.fetch_one(pool).await.unwrap() > 0 {
                return;
            }
        }
    }
}

async fn check_conflict_and_rejection(database: &Database) {
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
    assert_names(&accounts, "red", &["ada", "bo"]).await;
}

async fn check_undecodable_row(database: &Database) {
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

async fn check_audit_on_one_connection(database: &Database) {
    pool_with_three_accounts(database).await.close().await;
    let pool = database.pool(1, Duration::from_millis(500)).await;
    let accounts = Accounts::new(pool.clone());

    assert_audits(&accounts, "green", 0).await;
    assert_audits(&accounts, "red", 2).await;
    assert_audit_rows(&pool, &[(1, "cy"), (3, "ada")]).await;
    assert_audits(&accounts, "blue", 1).await;
    assert_audit_rows(&pool, &[(1, "cy"), (2, "bo"), (3, "ada")]).await;
}

async fn check_audit_is_atomic(database: &Database) {
    pool_with_three_accounts(database).await.close().await;
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let accounts = Accounts::new(pool.clone());

    // The audit's last insert violates the primary key.
    prepare(&pool, &["INSERT INTO audit (account, entry) VALUES (3, 'old')"])
        .await;
    assert_fails(Class::Conflict, accounts.audit("red").await);
    assert_audit_rows(&pool, &[(3, "old")]).await;
}

/// Asserts that the result is an error of this class, with an operation and
/// with a `sqlx::Error` in its source chain.
#[track_caller]
fn assert_fails<T: Debug>(class: Class, result: Result<T, Error>) {
    let error = match result {
        Err(error) => error,
        Ok(value) => panic!("expected a {class:?} error, got Ok({value:?})"),
    };
    assert_eq!(error.class, class, "the class of {error:?}");
    let cause = find_cause::<sqlx::Error>(&error);
    assert!(
        cause.is_some(),
        "expected a sqlx::Error in the source chain of {error:?}"
    );

    let (text, source) = (error.to_string(), error.source.to_string());
    let operation = error.operation;
    assert!(!operation.is_empty(), "expected an operation in {error:?}");
    assert!(
        text.contains(operation),
        "expected `Display` to name the operation {operation:?}, got {text:?}"
    );
    assert!(
        !text.contains(&source),
        "expected `Display` not to repeat the source {source:?}, got {text:?}"
    );
}

async fn assert_names(accounts: &Accounts, team: &str, expected: &[&str]) {
    match accounts.names(team).await {
        Ok(names) => assert_eq!(names, expected, "the names of team {team}"),
        Err(error) => {
            panic!("expected the names {expected:?} of {team}, got {error:?}")
        }
    }
}

async fn assert_audits(accounts: &Accounts, team: &str, expected: usize) {
    match accounts.audit(team).await {
        Ok(count) => {
            assert_eq!(count, expected, "the result of `audit` of team {team}");
        }
        Err(error) => {
            panic!("expected Ok({expected}) from `audit`, got {error:?}")
        }
    }
}

/// Asserts that the table `audit` has exactly these rows.
async fn assert_audit_rows(pool: &AnyPool, expected: &[(i64, &str)]) {
    let select = "SELECT account, entry FROM audit ORDER BY account";
    let rows = sqlx::query_as::<_, (i64, String)>(select).fetch_all(pool);
    let rows = rows.await.unwrap();
    let rows = rows.iter().map(|(id, name)| (*id, name.as_str()));
    assert_eq!(
        rows.collect::<Vec<_>>(),
        expected,
        "the rows in the table `audit`"
    );
}

/// Opens a database in which cy (1) and ada (3) are in team red, and bo (2) is
/// in team blue.
async fn pool_with_three_accounts(database: &Database) -> AnyPool {
    let pool = database.with_tables().await;
    let insert = "INSERT INTO accounts (id, name, team) \
                  VALUES (3, 'ada', 'red'), (2, 'bo', 'blue'), (1, 'cy', 'red')";
    prepare(&pool, &[insert]).await;
    pool
}
