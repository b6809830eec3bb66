use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;
use std::{fs, iter};

use lab::cancel::after_polls;
use sqlx::AnyPool;
use tokio::time::timeout;
use week02::classify::{Accounts, Class, Error, classify};

use crate::common::{
    ACQUIRE_TIMEOUT, Database, Row, TEXTS, assert_items, find_cause, insert,
    prepare, rows,
};

/// The table `audit`, as the stub describes it.
const AUDIT: &str =
    "CREATE TABLE audit (account BIGINT PRIMARY KEY, entry TEXT NOT NULL)";

mod table {
    use std::borrow::Cow;
    use std::error::Error as StdError;
    use std::{fmt, io};

    use sqlx::error::{DatabaseError, ErrorKind};
    use sqlx::migrate::MigrateError;

    use super::*;

    /// The classes of SQLSTATEs in PostgreSQL's appendix A.
    const SQLSTATE_CLASSES: [&str; 44] = [
        "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z",
        "10", "20", "21", "22", "23", "24", "25", "26", "27", "28", "2B", "2D",
        "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54",
        "55", "57", "58", "72", "F0", "HV", "P0", "XX",
    ];

    #[test]
    fn unique_and_exclusion_violations_are_classified_as_conflict() {
        assert_codes(Class::Conflict);
    }

    #[test]
    fn other_constraint_violations_are_classified_as_rejected() {
        assert_codes(Class::Rejected);
    }

    #[test]
    fn lock_conflicts_and_an_exhausted_pool_are_classified_as_busy() {
        assert_codes(Class::Busy);
        assert_class(&sqlx::Error::PoolTimedOut, Class::Busy);
        assert_class(&sqlx::Error::PoolClosed, Class::Busy);
    }

    #[test]
    fn an_extended_sqlite_code_has_the_class_of_its_primary_code() {
        let codes = sqlite_codes().filter(|(code, _)| *code > 255);
        for (code, class) in codes.filter(|(code, _)| *code & 0xff != 19) {
            assert_code(class, &code.to_string());
        }
    }

    #[test]
    fn a_cancelled_statement_is_classified_as_timed_out() {
        assert_codes(Class::TimedOut);
    }

    #[test]
    fn a_broken_connection_is_classified_as_lost() {
        assert_codes(Class::Lost);
        // A socket timeout has a test of its own.
        assert_io_errors_are_lost(false);
        let protocol = sqlx::Error::Protocol(MESSAGES[0].into());
        assert_class(&protocol, Class::Lost);
        assert_class(&sqlx::Error::WorkerCrashed, Class::Lost);
    }

    #[test]
    fn a_socket_timeout_is_classified_as_a_lost_connection() {
        assert_io_errors_are_lost(true);
    }

    #[test]
    fn damaged_and_undecodable_data_is_classified_as_corrupt() {
        assert_codes(Class::Corrupt);
        let decode = sqlx::Error::Decode(MESSAGES[0].into());
        assert_class(&decode, Class::Corrupt);
        let (index, source) = ("name".to_owned(), MESSAGES[0].into());
        let column = sqlx::Error::ColumnDecode { index, source };
        assert_class(&column, Class::Corrupt);
    }

    #[test]
    fn an_error_without_a_rule_is_classified_as_unexpected() {
        assert_codes(Class::Unexpected);
        for code in ["", "odd", "constraint", "ORA-00001"] {
            assert_code(Class::Unexpected, code);
        }
        let without_code: sqlx::Error = Fake(None, MESSAGES[0]).into();
        assert_class(&without_code, Class::Unexpected);
        // The class of such an error does not depend on its cause.
        let cause = || Box::new(sqlx::Error::PoolTimedOut);
        for error in [
            sqlx::Error::RowNotFound,
            sqlx::Error::ColumnNotFound("name".into()),
            sqlx::Error::ColumnIndexOutOfBounds { index: 3, len: 2 },
            sqlx::Error::Configuration(cause()),
            sqlx::Error::InvalidArgument(MESSAGES[0].into()),
            sqlx::Error::Encode(cause()),
            sqlx::Error::Tls(cause()),
            sqlx::Error::TypeNotFound { type_name: "name".into() },
            sqlx::Error::AnyDriverError(cause()),
            sqlx::Error::InvalidSavePointStatement,
            sqlx::Error::BeginFailed,
            sqlx::Error::Migrate(Box::new(MigrateError::Execute(*cause()))),
        ] {
            assert_class(&error, Class::Unexpected);
        }
    }

    /// Returns SQLSTATEs with the class that the table gives them.
    fn sqlstates() -> impl Iterator<Item = (String, Class)> {
        let suffixes = "0123456P".chars().flat_map(|a| {
            let letters = if a == '0' { "CDEFGHIJKLMNQRSTUVWXYZ" } else { "" };
            "0123456789ABP".chars().flat_map(move |b| {
                let last = "0123456789ABP".chars().chain(letters.chars());
                last.map(move |c| format!("{a}{b}{c}"))
            })
        });
        suffixes.flat_map(|suffix| {
            SQLSTATE_CLASSES.into_iter().map(move |group| {
                let class = match (group, &*suffix) {
                    ("23", "505" | "P01") => Class::Conflict,
                    ("23", _) => Class::Rejected,
                    ("0A", "000")
                    | ("40", "001" | "P01")
                    | ("55", "P03")
                    | ("53", "300")
                    | ("57", "P03") => Class::Busy,
                    ("57", "014") => Class::TimedOut,
                    ("08", _) | ("57", "P01" | "P02") => Class::Lost,
                    ("XX", "001" | "002") => Class::Corrupt,
                    _ => Class::Unexpected,
                };
                (format!("{group}{suffix}"), class)
            })
        })
    }

    /// Returns SQLite's codes with the class that the table gives them.
    fn sqlite_codes() -> impl Iterator<Item = (u32, Class)> {
        (0..10_000).map(|code| {
            let class = match (code, code & 0xff) {
                (1555 | 2067 | 2579, _) => Class::Conflict,
                (_, 19) => Class::Rejected,
                (_, 5 | 6) => Class::Busy,
                (_, 9) => Class::TimedOut,
                (_, 11 | 26) => Class::Corrupt,
                _ => Class::Unexpected,
            };
            (code, class)
        })
    }

    /// Asserts that all codes that the table gives this class have it. Extended
    /// codes of SQLite have a test of their own, except constraints.
    #[track_caller]
    fn assert_codes(class: Class) {
        let primary = |code: u32| code < 256 || code & 0xff == 19;
        let sqlite = sqlite_codes().filter(|(code, _)| primary(*code));
        let sqlite = sqlite.map(|(code, class)| (code.to_string(), class));
        for (code, of_code) in sqlstates().chain(sqlite) {
            if of_code == class {
                assert_code(class, &code);
            }
        }
    }

    #[track_caller]
    fn assert_code(class: Class, code: &str) {
        for message in MESSAGES {
            let seen = classify(&Fake(Some(code.to_owned()), message).into());
            assert_eq!(seen, class, "the class of {code:?} ({message:?})");
        }
    }

    /// Asserts that timeouts, or all other I/O errors, are classified as lost.
    fn assert_io_errors_are_lost(timed_out: bool) {
        use io::ErrorKind::*;

        let by_system = (1..=133).map(io::Error::from_raw_os_error);
        let kinds = [UnexpectedEof, InvalidData, WriteZero, TimedOut, Other];
        let by_driver = kinds.map(io::Error::from);
        let with_cause = kinds.map(|kind| io::Error::new(kind, MESSAGES[0]));
        let errors = by_system.chain(by_driver).chain(with_cause);
        for error in errors.filter(|it| (it.kind() == TimedOut) == timed_out) {
            assert_class(&sqlx::Error::Io(error), Class::Lost);
        }
    }

    #[track_caller]
    fn assert_class(error: &sqlx::Error, class: Class) {
        assert_eq!(classify(error), class, "the class of {error:?}");
    }

    /// Messages, which must not affect the class. The first contains words of
    /// several classes. Postgres sends the last three with 57014 or 0A000.
    const MESSAGES: [&str; 5] = [
        "UNIQUE constraint failed, duplicate key, not null, \
         database is locked, timeout, connection lost",
        "",
        "canceling statement due to user request",
        "cached plan must not change result type",
        "cross-database references are not implemented",
    ];

    /// A database error with this code, or without a code, and this message.
    #[derive(Debug)]
    struct Fake(Option<String>, &'static str);

    impl fmt::Display for Fake {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.1)
        }
    }

    impl StdError for Fake {}

    type Cause = dyn StdError + Send + Sync;

    impl DatabaseError for Fake {
        fn message(&self) -> &str {
            self.1
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            self.0.as_deref().map(Cow::Borrowed)
        }

        /// Returns the kind that the driver returns for this code.
        fn kind(&self) -> ErrorKind {
            match self.0.as_deref() {
                Some("23505" | "1555" | "2067") => ErrorKind::UniqueViolation,
                Some("23503" | "787") => ErrorKind::ForeignKeyViolation,
                Some("23502" | "1299") => ErrorKind::NotNullViolation,
                Some("23514" | "275") => ErrorKind::CheckViolation,
                Some("23P01") => ErrorKind::ExclusionViolation,
                _ => ErrorKind::Other,
            }
        }

        fn as_error(&self) -> &Cause {
            self
        }

        fn as_error_mut(&mut self) -> &mut Cause {
            self
        }

        fn into_error(self: Box<Self>) -> Box<Cause> {
            self
        }
    }
}

mod statements {
    use super::*;

    const SHORT_ACQUIRE_TIMEOUT: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn names_lists_each_team_as_stored_before_and_after_renames() {
        let database = Database::sqlite();
        let (pool, mut rows) = pool_with_rows(&database).await;
        check_names_and_renames(&pool, &mut rows).await;
    }

    #[tokio::test]
    async fn audit_writes_a_row_per_account_and_a_repeated_audit_conflicts() {
        let database = Database::sqlite();
        let (pool, mut rows) = pool_with_rows(&database).await;
        check_audits(&pool, &mut rows).await;
    }

    #[tokio::test]
    async fn a_taken_name_is_a_conflict_and_an_invalid_name_is_rejected() {
        check_conflict_and_rejection(&Database::sqlite(), "UNIQUE").await;
    }

    #[tokio::test]
    async fn names_and_audit_of_a_large_team_are_complete_and_consistent() {
        let database = Database::sqlite();
        let other_pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        // With this journal, a read blocks no write.
        let journal = "PRAGMA journal_mode = WAL";
        let accounts = "CREATE TABLE accounts AS WITH RECURSIVE ids (id) AS \
                        (SELECT 1 UNION ALL SELECT id + 1 FROM ids \
                        WHERE id < 17002) SELECT id, 'ada' AS name, \
                        iif(id > 17000, 'blue', 'red') AS team FROM ids";
        let trigger = "CREATE TRIGGER t AFTER INSERT ON audit \
                       WHEN NEW.account > 17000 \
                       BEGIN DELETE FROM accounts WHERE id > 17000; END";
        prepare(&other_pool, &[journal, accounts, AUDIT, trigger]).await;
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let accounts = Accounts::new(pool.clone());

        // After each poll, another client renames two accounts at once.
        let mut call = pin!(accounts.names("red"));
        let names = loop {
            if let Some(names) = after_polls(1, call.as_mut()).await {
                break names.expect("expected Ok from `names`");
            }
            let rename = "UPDATE accounts SET name = name || '.' \
                          WHERE rowid IN (1, 17000)";
            prepare(&other_pool, &[rename]).await;
        };
        assert_eq!(names.len(), 17_000, "the number of names");
        assert_eq!(names[0], names[16_999], "names that change together");

        assert_audits(&accounts, "red", 17_000).await;
        // The accounts of team blue are deleted meanwhile.
        let count = accounts.audit("blue").await.expect("expected Ok");
        assert_eq!(audit_rows(&pool).await.len(), 17_000 + count, "audit rows");
        // Postgres stores no NUL, and limits the length of an indexed text.
        for name in ["\0a\0", &"long name ".repeat(10_000)] {
            assert_renames(&accounts, 1, name).await;
            let names = accounts.names("red").await.expect("expected Ok");
            assert!(names[0] == name, "expected an unchanged name");
        }
    }

    #[tokio::test]
    async fn an_account_without_a_name_makes_names_and_audit_fail() {
        check_account_without_a_name(&Database::sqlite()).await;
    }

    #[tokio::test]
    async fn each_method_names_a_different_operation_in_its_error() {
        let database = Database::sqlite();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let accounts = Accounts::new(pool.clone());
        assert_all_fail(Class::Unexpected, &accounts).await;

        pool_with_three_accounts(&database).await.close().await;
        // From here on, the file is not a database.
        let path = "SELECT file FROM pragma_database_list";
        let path = sqlx::query_scalar::<_, String>(path).fetch_one(&pool);
        fs::write(path.await.unwrap(), [b'x'; 8192]).unwrap();
        assert_all_fail(Class::Corrupt, &accounts).await;
    }

    #[tokio::test]
    async fn names_and_audit_fail_if_the_query_fails_after_the_first_rows() {
        check_query_that_fails_midway(&Database::sqlite()).await;
    }

    #[tokio::test]
    async fn calls_fail_as_busy_while_the_pool_is_exhausted_then_succeed() {
        let database = Database::sqlite();
        pool_with_three_accounts(&database).await;
        let pool = database.pool(1, SHORT_ACQUIRE_TIMEOUT).await;
        let accounts = Accounts::new(pool.clone());

        let only_connection = pool.acquire().await.unwrap();
        assert_all_fail(Class::Busy, &accounts).await;
        only_connection.close().await.unwrap();
        assert_names(&accounts, "red", &["cy", "ada"]).await;
        pool.close().await;
        assert_all_fail(Class::Busy, &accounts).await;
    }

    #[tokio::test]
    async fn writes_fail_as_busy_while_the_database_is_locked_then_succeed() {
        let database = Database::sqlite();
        let other_pool = pool_with_three_accounts(&database).await;
        let setup = "PRAGMA busy_timeout = 0";
        let pool = database.pool_after(1, SHORT_ACQUIRE_TIMEOUT, setup).await;
        let accounts = Accounts::new(pool.clone());

        let other = other_pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        assert_fails(Class::Busy, accounts.rename(3, "eve").await);
        assert_fails(Class::Busy, accounts.audit("red").await);
        other.rollback().await.unwrap();

        assert_audit_rows(&pool, &[]).await;
        assert_audits(&accounts, "red", 2).await;
    }

    #[tokio::test]
    async fn an_audit_writes_no_rows_if_an_insert_or_the_commit_fails() {
        let database = Database::sqlite();
        check_audit_is_atomic(&database).await;

        // The second insert fails, and rolls the transaction back.
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let trigger = "CREATE TRIGGER full BEFORE INSERT ON audit \
                       WHEN NEW.account = 3 \
                       BEGIN SELECT RAISE(ROLLBACK, 'full'); END";
        prepare(&pool, &["DELETE FROM audit", trigger]).await;
        let audited = Accounts::new(pool.clone()).audit("red").await;
        assert_fails(Class::Rejected, audited);
        assert_audit_rows(&pool, &[]).await;
    }
}

mod dropped_calls {
    use super::*;

    #[tokio::test]
    async fn a_dropped_audit_writes_all_rows_or_none_and_ends_its_transaction()
    {
        check_dropped_calls(&Database::sqlite(), &["audit"; 8]).await;
    }

    #[tokio::test]
    async fn a_dropped_rename_or_read_leaves_no_transaction() {
        let calls = ["rename", "names"].repeat(8);
        check_dropped_calls(&Database::sqlite(), &calls).await;
    }
}

mod postgres {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn names_renames_and_audits_on_postgres_equal_the_stored_rows() {
        let database = Database::postgres();
        let (pool, mut rows) = pool_with_rows(&database).await;
        check_names_and_renames(&pool, &mut rows).await;
        check_audits(&pool, &mut rows).await;

        let other_pool = database.pool(2, ACQUIRE_TIMEOUT).await;
        let delete = "DELETE FROM accounts WHERE id = 3";
        let accounts = Accounts::new(pool);
        let renamed = rename_during(&other_pool, delete, &accounts).await;
        let found = renamed.expect("expected Ok for a deleted account");
        assert!(!found, "expected false for a deleted account");
    }

    /// The constraint is deferred: Postgres checks it after it has sent the
    /// updated row, and rolls the update back.
    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_rename_fails_if_postgres_rejects_it_after_the_updated_row() {
        let unique = "UNIQUE DEFERRABLE INITIALLY DEFERRED";
        check_conflict_and_rejection(&Database::postgres(), unique).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn names_and_audits_on_postgres_are_complete_or_an_error() {
        let database = Database::postgres();
        check_account_without_a_name(&database).await;
        database.clear().await;
        check_query_that_fails_midway(&database).await;
        database.clear().await;
        check_audit_is_atomic(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_dropped_call_on_postgres_leaves_no_transaction_in_the_pool() {
        let calls = ["audit", "audit", "audit", "rename", "names"];
        check_dropped_calls(&Database::postgres(), &calls).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn timeouts_serialization_failures_and_migrations_have_their_class() {
        let database = Database::postgres();
        let other_pool = pool_with_three_accounts(&database).await;
        for (setting, class) in [
            ("SET lock_timeout = '50ms'", Class::Busy),
            ("SET statement_timeout = '50ms'", Class::TimedOut),
        ] {
            let pool = database.pool_after(1, ACQUIRE_TIMEOUT, setting).await;
            let accounts = Accounts::new(pool);
            let mut other = other_pool.begin().await.unwrap();
            let lock = sqlx::query("LOCK TABLE accounts");
            lock.execute(&mut *other).await.unwrap();
            assert_all_fail(class, &accounts).await;
            other.rollback().await.unwrap();
            assert_names(&accounts, "red", &["cy", "ada"]).await;
        }

        let level = "SET default_transaction_isolation = 'repeatable read'";
        let pool = database.pool_after(1, ACQUIRE_TIMEOUT, level).await;
        let update = "UPDATE accounts SET name = 'dan' WHERE id = 3";
        let accounts = Accounts::new(pool);
        let renamed = rename_during(&other_pool, update, &accounts).await;
        assert_fails(Class::Busy, renamed);

        // The connection may keep a statement that is older than a migration.
        assert_names(&accounts, "red", &["cy", "dan"]).await;
        let migration = "ALTER TABLE accounts ALTER name TYPE VARCHAR(9)";
        prepare(&other_pool, &[migration]).await;
        match accounts.names("red").await {
            Ok(names) => assert_eq!(names, ["cy", "dan"], "the names"),
            failed => drop(assert_fails(Class::Busy, failed)),
        }
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_call_fails_as_lost_if_the_connection_breaks_during_the_response()
    {
        const TEAMS: i64 = 20;
        let database = Database::postgres();
        let other = database.pool(1, ACQUIRE_TIMEOUT).await;
        let rows: Vec<_> = (0..TEAMS * 3)
            .map(|id| (id, format!("{id:04}"), format!("{}", id / 3)))
            .chain((1_000..1_030).map(|id| (id, format!("{id}"), "red".into())))
            .collect();
        insert(&other, &rows).await;
        let log = "CREATE RULE log AS ON UPDATE TO accounts \
                   DO ALSO INSERT INTO renames VALUES (OLD.id)";
        prepare(&other, &[AUDIT, "CREATE TABLE renames (id BIGINT)", log])
            .await;

        let mut methods = HashMap::new();
        for (method, size, stored) in [
            ("names", 30, "SELECT 30 + $1 - $1"),
            ("audit", 3, "SELECT count(*) FROM audit WHERE account / 3 = $1"),
            ("rename", 1, "SELECT count(*) FROM renames WHERE id = $1"),
        ] {
            // The first response is complete. The others are cut off, most of
            // them near the end.
            let mut complete = usize::MAX;
            for n in 0..TEAMS {
                let bytes = complete.saturating_sub(3 * n.pow(2) as usize);
                let (pool, received) = database.pool_that_breaks_after(bytes);
                let accounts = Accounts::new(pool);
                let (team, name) = (format!("{n}"), format!("{n} renamed"));
                let call = match method {
                    "names" => accounts.names("red").await.map(|it| it.len()),
                    "audit" => accounts.audit(&team).await,
                    _ => accounts.rename(n, &name).await.map(usize::from),
                };
                let stored = sqlx::query_scalar::<_, i64>(stored).bind(n);
                let rows = stored.fetch_one(&other).await.unwrap() as usize;
                assert!([0, size].contains(&rows), "{method}: {rows} rows");
                let both = [size; 2];
                match call {
                    Ok(n) => assert_eq!([n, rows], both, "rows of {method}"),
                    // A write may be executed, though its response is lost.
                    failed => {
                        let operation = assert_fails(Class::Lost, failed);
                        let user = *methods.entry(operation).or_insert(method);
                        assert_eq!(user, method, "both use {operation:?}");
                    }
                }
                if n == 0 {
                    complete = received.load(Relaxed);
                }
            }
        }
    }

    /// Renames account 3 while a transaction of another client has executed
    /// `change`. The transaction is committed when the rename waits for it.
    async fn rename_during(
        other_pool: &AnyPool,
        change: &'static str,
        accounts: &Accounts,
    ) -> Result<bool, Error> {
        let mut other = other_pool.begin().await.unwrap();
        sqlx::query(change).execute(&mut *other).await.unwrap();
        let commit = async {
            let count = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            let blocked = || sqlx::query_scalar::<_, i64>(count);
            while blocked().fetch_one(other_pool).await.unwrap() == 0 {}
            other.commit().await.unwrap();
        };
        let commit = timeout(ACQUIRE_TIMEOUT, commit);
        let rename = accounts.rename(3, "eve");
        let (renamed, committed) = tokio::join!(rename, commit);
        committed.expect("expected `rename` to wait for the locked row");
        renamed
    }
}

async fn check_names_and_renames(pool: &AnyPool, rows: &mut [Row]) {
    let accounts = Accounts::new(pool.clone());

    assert_all_names(&accounts, rows).await;
    for (n, text) in TEXTS.into_iter().enumerate() {
        // The first account has this name. It gets another one, and gives the
        // name to an account that then gets it a second time.
        let blanks = ["\t", "\n", "\r", "\u{1}", "\u{a0}", "\u{feff}"];
        let c = blanks[n % blanks.len()];
        let long = format!("{c}\nname {n}{c}").repeat(200);
        for (n, name) in [(n, long), (100 + n, text.to_owned())] {
            for _ in 0..2 {
                assert_renames(&accounts, rows[n].0, &name).await;
            }
            rows[n].1 = name;
        }
    }
    for id in [1, -2, 4 + (1 << 32), i64::MIN + 1, i64::MAX - 2] {
        let renamed = accounts.rename(id, "nobody").await.expect("expected Ok");
        assert!(!renamed, "expected false for the missing id {id}");
    }
    assert_all_names(&accounts, rows).await;
}

async fn check_audits(pool: &AnyPool, rows: &mut [Row]) {
    let accounts = Accounts::new(pool.clone());

    let mut audited = Vec::new();
    for team in TEXTS.into_iter().chain(["green", "re_"]) {
        let (name, id) = ("renamed just before", rows[0].0);
        assert_renames(&accounts, id, name).await;
        rows[0].1 = name.to_owned();

        let members = rows.iter().filter(|row| row.2 == team);
        let members: Vec<_> =
            members.map(|(id, name, _)| (*id, name.clone())).collect();
        // A row for the last account makes the whole audit fail.
        if let Some((id, _)) = members.iter().max() {
            let insert = "INSERT INTO audit (account, entry) VALUES ($1, 'x')";
            let insert = sqlx::query(insert).bind(id).execute(pool);
            insert.await.unwrap();
            assert_fails(Class::Conflict, accounts.audit(team).await);
            let delete = "DELETE FROM audit WHERE entry = 'x'";
            prepare(pool, &[delete]).await;
        }
        // If the failed audit had left a row, this one would conflict.
        assert_audits(&accounts, team, members.len()).await;
        if !members.is_empty() {
            assert_fails(Class::Conflict, accounts.audit(team).await);
        }
        audited.extend(members);
    }
    audited.sort_unstable();
    let rows = audit_rows(pool).await;
    assert_items(&rows, &audited, "the rows in the table `audit`");
}

async fn check_conflict_and_rejection(database: &Database, unique: &str) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let table = format!(
        "CREATE TABLE accounts (id BIGINT PRIMARY KEY, team TEXT, \
         name TEXT NOT NULL {unique} CHECK (length(name) < 6))"
    );
    sqlx::query(sqlx::AssertSqlSafe(table)).execute(&pool).await.unwrap();
    let insert = "INSERT INTO accounts (id, team, name) \
                  VALUES (1, 'red', 'ada'), (2, 'red', 'bo')";
    prepare(&pool, &[insert]).await;
    let accounts = Accounts::new(pool);

    assert_fails(Class::Conflict, accounts.rename(2, "ada").await);
    assert_fails(Class::Rejected, accounts.rename(2, "charles").await);
    assert_names(&accounts, "red", &["ada", "bo"]).await;
}

async fn check_account_without_a_name(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let table = "CREATE TABLE accounts (id BIGINT, name TEXT, team TEXT)";
    let insert = "INSERT INTO accounts (id, name, team) VALUES \
                  (1, 'ada', 'red'), (2, NULL, 'red'), (3, 'bo', 'red'), \
                  (4, NULL, 'blue'), (5, 'cy', 'green'), (6, NULL, NULL)";
    prepare(&pool, &[AUDIT, table, insert]).await;
    let accounts = Accounts::new(pool.clone());

    for team in ["red", "blue"] {
        assert_fails(Class::Corrupt, accounts.names(team).await);
        accounts.audit(team).await.expect_err("an account has no name");
        assert_audit_rows(&pool, &[]).await;
    }
    assert_names(&accounts, "green", &["cy"]).await;
    assert_audits(&accounts, "green", 1).await;
}

async fn check_query_that_fails_midway(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let table = "CREATE TABLE rows (id BIGINT PRIMARY KEY)";
    let insert = "INSERT INTO rows VALUES (1), (2), (3)";
    // The computation of the third name overflows.
    let view = "CREATE VIEW accounts AS SELECT id, 'red' AS team, \
                'name ' || abs(CASE WHEN id < 3 THEN id \
                ELSE CAST(-9223372036854775808 AS BIGINT) END) \
                AS name FROM rows";
    prepare(&pool, &[AUDIT, table, insert, view]).await;
    let accounts = Accounts::new(pool.clone());

    assert_fails(Class::Unexpected, accounts.names("red").await);
    assert_fails(Class::Unexpected, accounts.audit("red").await);
    assert_audit_rows(&pool, &[]).await;
}

async fn check_audit_is_atomic(database: &Database) {
    pool_with_three_accounts(database).await.close().await;
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let accounts = Accounts::new(pool.clone());

    // One of the audit's inserts violates the primary key: the first one or the
    // last one.
    for (account, old) in [
        (1, "INSERT INTO audit (account, entry) VALUES (1, 'old')"),
        (3, "INSERT INTO audit (account, entry) VALUES (3, 'old')"),
    ] {
        prepare(&pool, &[old]).await;
        assert_fails(Class::Conflict, accounts.audit("red").await);
        assert_audit_rows(&pool, &[(account, "old")]).await;
        prepare(&pool, &["DELETE FROM audit"]).await;
    }

    // The audit's commit violates a foreign key.
    let badges = "CREATE TABLE badges (id BIGINT PRIMARY KEY)";
    let audit = "CREATE TABLE audit (account BIGINT PRIMARY KEY REFERENCES \
                 badges DEFERRABLE INITIALLY DEFERRED, entry TEXT NOT NULL)";
    prepare(&pool, &["DROP TABLE audit", badges, audit]).await;
    assert_fails(Class::Rejected, accounts.audit("red").await);
    assert_audit_rows(&pool, &[]).await;
    prepare(&pool, &["INSERT INTO badges VALUES (1), (3)"]).await;
    assert_audits(&accounts, "red", 2).await;
}

/// Polls each call 1, 2, 3 … times and drops it, until it is complete.
///
/// A fast response completes two awaits in one poll, so it is dropped at neither
/// of them. Therefore tests repeat the calls.
async fn check_dropped_calls(database: &Database, calls: &[&str]) {
    let other_pool = pool_with_three_accounts(database).await;
    let other = Accounts::new(other_pool.clone());
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let accounts = Accounts::new(pool.clone());

    for &method in calls {
        for polls in 1.. {
            let call = async {
                match method {
                    "audit" => accounts.audit("red").await.is_ok(),
                    "rename" => accounts.rename(3, "eve").await.is_ok(),
                    _ => accounts.names("red").await.is_ok(),
                }
            };
            let completed = after_polls(polls, call).await;
            let name = format!("after {polls} polls of {method}");
            assert_renames(&accounts, 2, &name).await;
            // A rename in an open transaction is invisible to other clients.
            assert_names(&other, "blue", &[&name]).await;
            database.assert_no_transaction(&pool, &other_pool).await;
            let rows = audit_rows(&other_pool).await.len();
            assert!(rows == 0 || rows == 2, "{rows} of 2 audit rows {name}");

            prepare(&other_pool, &["DELETE FROM audit"]).await;
            let next = assert_audits(&other, "red", 2);
            let next = timeout(ACQUIRE_TIMEOUT, next).await;
            next.expect("expected the next audit to return");
            prepare(&other_pool, &["DELETE FROM audit"]).await;
            if let Some(ok) = completed {
                assert!(ok, "expected Ok {name}");
                break;
            }
        }
    }
}

/// Asserts that each method fails with this class, and names an operation that
/// no other method names.
async fn assert_all_fail(class: Class, accounts: &Accounts) {
    let operations = [
        assert_fails(class, accounts.names("red").await),
        assert_fails(class, accounts.rename(3, "eve").await),
        assert_fails(class, accounts.audit("red").await),
    ];
    let different = HashSet::from(operations).len();
    assert_eq!(different, 3, "the number of operations in {operations:?}");
}

/// Asserts that the result is an error of this class, with an operation and
/// with a `sqlx::Error` in its source chain. Returns the operation.
#[track_caller]
fn assert_fails(class: Class, call: Result<impl Debug, Error>) -> &'static str {
    let error = call.expect_err("expected an error");
    assert_eq!(error.class, class, "the class of {error:?}");
    let cause = find_cause::<sqlx::Error>(&error);
    let cause = cause.expect("expected a sqlx::Error in the source chain");
    let (text, operation) = (error.to_string(), error.operation);
    assert!(!operation.is_empty(), "expected an operation in {error:?}");
    assert!(
        text.contains(operation),
        "expected `Display` to name the operation {operation:?}, got {text:?}"
    );
    let message = cause.as_database_error().map(|it| it.message().to_owned());
    let chain = iter::successors(error.source(), |&error| error.source());
    let chain = chain.flat_map(|it| [it.to_string(), format!("{it:?}")]);
    for source in chain.chain(message) {
        assert!(
            !text.contains(&source),
            "expected `Display` without its source {source:?}, got {text:?}"
        );
    }
    operation
}

/// Asserts that `names` returns the names of each team, ordered by id.
async fn assert_all_names(accounts: &Accounts, rows: &[Row]) {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_unstable();
    for team in TEXTS.into_iter().chain(["green", "re_"]) {
        let members = rows.iter().filter(|row| row.2 == team);
        let names: Vec<_> = members.map(|row| row.1.as_str()).collect();
        assert_names(accounts, team, &names).await;
    }
}

async fn assert_names(accounts: &Accounts, team: &str, expected: &[&str]) {
    let names = accounts.names(team).await.expect("expected Ok from `names`");
    assert_items(&names, expected, &format!("the names of team {team:?}"));
}

async fn assert_renames(accounts: &Accounts, id: i64, name: &str) {
    let renamed = accounts.rename(id, name).await.expect("expected Ok");
    assert!(renamed, "expected true for the stored id {id}");
}

async fn assert_audits(accounts: &Accounts, team: &str, expected: usize) {
    let count = accounts.audit(team).await.expect("expected Ok from `audit`");
    assert_eq!(count, expected, "the result of `audit` of team {team:?}");
}

/// Asserts that the table `audit` has exactly these rows.
async fn assert_audit_rows(pool: &AnyPool, expected: &[(i64, &str)]) {
    let rows = audit_rows(pool).await;
    let rows = rows.iter().map(|(id, name)| (*id, name.as_str()));
    let rows: Vec<_> = rows.collect();
    assert_items(&rows, expected, "the rows in the table `audit`");
}

async fn audit_rows(pool: &AnyPool) -> Vec<(i64, String)> {
    let select = "SELECT account, entry FROM audit ORDER BY account";
    sqlx::query_as(select).fetch_all(pool).await.unwrap()
}

/// Inserts the accounts of [`rows`] into a database. Returns a pool of one
/// connection.
async fn pool_with_rows(database: &Database) -> (AnyPool, Vec<Row>) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let rows = rows();
    insert(&pool, &rows).await;
    prepare(&pool, &[AUDIT]).await;
    (pool, rows)
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
