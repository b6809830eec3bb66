use std::fmt::Debug;

use tokio::time::timeout;
use week02::no_rows::{Account, Accounts, Error, author_name};

use crate::common::{ACQUIRE_TIMEOUT, Database, find_cause, prepare};

/// What a caller must not take for an answer: sqlx and Go say it so.
const NO_ROWS: &str = "RowNotFound: no rows returned by a query that expected \
                       to return at least one row, no rows in result set, \
                       not found";

/// What is not bound, or not compared exactly, finds the rows of others.
const TEAMS: [&str; 6] =
    ["red", "RED", "redder", "r_d", " red", "' OR 'a' = 'a"];

mod meaning {
    use std::error::Error as _;
    use std::io;

    use super::*;

    #[test]
    fn an_author_who_was_deleted_shows_as_deleted() {
        for name in ["ada", " Ada ", ""] {
            let read = Ok(account(1, name, "red"));
            assert_eq!(author_name(read).unwrap(), name);
        }
        for source in [None, Some("no such row".into())] {
            let missing = Error::NotFound { entity: "account", key: 7, source };
            assert_eq!(author_name(Err(missing)).unwrap(), "[deleted]");
        }
    }

    #[test]
    fn an_author_who_could_not_be_read_is_not_deleted() {
        let shown = author_name(Err(failed(NO_ROWS)));

        let error = shown.expect_err("a failed read shows no name");
        let Error::Failed { operation, source } = error else {
            panic!("the failure became {error:?}");
        };
        assert_eq!(operation, "count the seals");
        assert!(source.is::<io::Error>(), "its source became {source:?}");
    }

    #[test]
    fn an_error_names_what_is_missing() {
        let missing =
            Error::NotFound { entity: "badge", key: -7, source: None };
        assert!(missing.source().is_none(), "it has no source to show");

        let text = missing.to_string();
        assert!(text.contains("badge"), "{text:?} names no entity");
        assert!(text.contains("-7"), "{text:?} names no key");

        let source = Some(io::Error::other("beneath").into());
        let missing = Error::NotFound { entity: "badge", key: -7, source };
        assert!(find_cause::<io::Error>(&missing).is_some(), "{missing:?}");
        let text = missing.to_string();
        assert!(!text.contains("beneath"), "{text:?} repeats its source");
    }

    #[test]
    fn an_error_names_what_failed_and_leaves_the_cause_to_its_source() {
        let error = failed("beneath");

        let text = error.to_string();
        assert!(
            text.contains("count the seals"),
            "{text:?} names no operation"
        );
        assert!(!text.contains("beneath"), "{text:?} repeats its source");
        assert!(find_cause::<io::Error>(&error).is_some(), "{error:?}");
    }

    fn failed(cause: &str) -> Error {
        let source = io::Error::other(cause).into();
        Error::Failed { operation: "count the seals", source }
    }
}

mod rows {
    use super::*;

    #[tokio::test]
    async fn a_row_is_returned_as_it_is() {
        super::a_row_is_returned_as_it_is(&Database::sqlite()).await;
    }

    #[tokio::test]
    async fn a_missing_row_is_not_found_under_its_key() {
        super::a_missing_row_is_not_found_under_its_key(&Database::sqlite())
            .await;
    }

    #[tokio::test]
    async fn a_list_has_the_rows_of_its_team_in_order() {
        super::a_list_has_the_rows_of_its_team_in_order(&Database::sqlite())
            .await;
    }

    #[tokio::test]
    async fn a_list_without_rows_is_empty() {
        super::a_list_without_rows_is_empty(&Database::sqlite()).await;
    }
}

mod failures {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use sqlx::AnyPool;
    use sqlx::any::{AnyPoolOptions, install_default_drivers};

    use super::*;

    #[tokio::test]
    async fn a_failure_names_what_failed_and_keeps_its_cause() {
        let database = Database::sqlite();
        super::a_failure_names_what_failed_and_keeps_its_cause(&database).await;
    }

    #[tokio::test]
    async fn a_failure_that_talks_of_no_rows_is_a_failure() {
        let database = Database::sqlite();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let table = format!(r#"CREATE TABLE "{NO_ROWS}" (id, name, team)"#);
        let view = format!(
            r#"CREATE VIEW accounts AS SELECT id, name, team FROM "{NO_ROWS}""#
        );
        let drop = format!(r#"DROP TABLE "{NO_ROWS}""#);
        for statement in [table, view, drop] {
            let statement = sqlx::AssertSqlSafe(statement);
            sqlx::query(statement).execute(&pool).await.unwrap();
        }

        assert_talks_of_no_rows_but_failed(&Accounts::new(pool)).await;
    }

    #[tokio::test]
    async fn a_connection_that_is_taken_is_no_answer() {
        install_default_drivers();
        let options = AnyPoolOptions::new().max_connections(1);
        let soon = options.acquire_timeout(Duration::from_millis(100));
        let pool = soon.connect_lazy("sqlite::memory:").unwrap();
        let _taken = loop {
            match pool.acquire().await {
                // It need not open that soon.
                Err(sqlx::Error::PoolTimedOut) => {}
                opened => break opened.unwrap(),
            }
        };

        let accounts = Accounts::new(pool);
        assert_tells(accounts.get(1).await);
        assert_tells(accounts.list("red").await);
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_no_answer() {
        install_default_drivers();
        for (words, why) in [(&b""[..], "Io("), (b"?\0\0\0\x04", "Protocol(")] {
            let pool = AnyPool::connect_lazy(&server_that_says(words)).unwrap();
            let broken = format!("{:?}", pool.acquire().await.unwrap_err());
            assert!(broken.starts_with(why), "no {why:?}, but {broken}");

            let accounts = Accounts::new(pool);
            assert_tells(accounts.get(1).await);
            assert_tells(accounts.list("red").await);
        }
    }

    #[tokio::test]
    async fn a_row_that_does_not_decode_is_a_failure() {
        let database = Database::sqlite();
        super::a_row_that_does_not_decode_is_a_failure(&database).await;
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_is_an_error() {
        super::a_list_that_breaks_off_is_an_error(&Database::sqlite()).await;
    }

    #[tokio::test]
    async fn a_hundred_failures_leave_the_only_connection_free() {
        let database = Database::sqlite();
        super::a_hundred_failures_leave_the_only_connection_free(&database)
            .await;
    }

    /// Where something listens that is no database. Whatever it hears, it says
    /// these words and hangs up.
    fn server_that_says(words: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("the port's number");
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                if client.read(&mut [0; 1024]).is_ok_and(|heard| heard > 0) {
                    // Whoever goes first gets no answer.
                    let _ = client.write_all(words);
                }
            }
        });
        format!("postgres://reader@{address}/comments?sslmode=disable")
    }
}

mod postgres {
    use super::*;

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn rows_and_missing_rows_are_told_apart() {
        let database = Database::postgres();
        a_row_is_returned_as_it_is(&database).await;
        let database = Database::postgres();
        a_missing_row_is_not_found_under_its_key(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_list_has_the_rows_of_its_team_in_order() {
        let database = Database::postgres();
        super::a_list_has_the_rows_of_its_team_in_order(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_list_is_whole_or_an_error() {
        let database = Database::postgres();
        a_list_without_rows_is_empty(&database).await;
        let database = Database::postgres();
        a_list_that_breaks_off_is_an_error(&database).await;
        let database = Database::postgres();
        a_row_that_does_not_decode_is_a_failure(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_failure_that_talks_of_no_rows_is_a_failure() {
        let database = Database::postgres();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let raise = format!(
            "CREATE FUNCTION accounts_or_not() RETURNS TABLE \
             (id BIGINT, name TEXT, team TEXT) LANGUAGE plpgsql \
             AS $$ BEGIN RAISE '{NO_ROWS}'; END $$"
        );
        let raise = sqlx::AssertSqlSafe(raise);
        sqlx::query(raise).execute(&pool).await.unwrap();
        let view = "CREATE VIEW accounts AS SELECT * FROM accounts_or_not()";
        prepare(&pool, &[view]).await;

        assert_talks_of_no_rows_but_failed(&Accounts::new(pool)).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_hundred_failures_leave_the_only_connection_free() {
        let database = Database::postgres();
        super::a_hundred_failures_leave_the_only_connection_free(&database)
            .await;
    }
}

async fn a_row_is_returned_as_it_is(database: &Database) {
    let (accounts, everybody) = six_teams_of_a_dozen(database).await;

    for account in everybody {
        let read = accounts.get(account.id).await;
        assert_eq!(read.expect("it is there"), account);
    }
}

async fn a_missing_row_is_not_found_under_its_key(database: &Database) {
    let (accounts, _) = six_teams_of_a_dozen(database).await;

    for id in [0, 73, -3, 3 + (1 << 32)] {
        match accounts.get(id).await {
            Err(Error::NotFound { entity, key, .. }) => {
                assert_eq!((entity, key), ("account", id));
            }
            other => panic!("no account {id}, but {other:?}"),
        }
    }
}

async fn a_list_has_the_rows_of_its_team_in_order(database: &Database) {
    let (accounts, mut everybody) = six_teams_of_a_dozen(database).await;

    everybody.sort_by_key(|account| account.id);
    for team in TEAMS {
        let mut members = everybody.clone();
        members.retain(|account| account.team == team);
        let listed = accounts.list(team).await.expect("a team of a dozen");
        assert_eq!(listed, members, "team {team:?}");
    }
}

async fn a_list_without_rows_is_empty(database: &Database) {
    let (accounts, _) = six_teams_of_a_dozen(database).await;

    for team in ["green", "re_", "%", ""] {
        let listed = accounts.list(team).await;
        let listed = listed.expect("an empty list is a list");
        assert_eq!(listed, [], "team {team:?} has no accounts");
    }
}

async fn a_failure_names_what_failed_and_keeps_its_cause(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let accounts = Accounts::new(pool.clone());

    let read = assert_tells(accounts.get(1).await);
    let list = assert_tells(accounts.list("red").await);
    assert_ne!(read, list, "two operations under one name");

    let closed = timeout(ACQUIRE_TIMEOUT, pool.close()).await;
    closed.expect("every connection comes back");
    assert_tells(accounts.get(1).await);
    assert_tells(accounts.list("red").await);
}

async fn a_row_that_does_not_decode_is_a_failure(database: &Database) {
    let accounts = with_a_hole_in_each_column(database, 2).await;

    assert_failed(accounts.get(2).await);
    assert_failed(accounts.get(4).await);
    assert_failed(accounts.list("red").await);
    assert_failed(accounts.list("blue").await);
    // The rows beside it are none the worse.
    assert_eq!(accounts.get(3).await.unwrap(), account(3, "bo", "red"));
}

async fn a_list_that_breaks_off_is_an_error(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    // The last of three names cannot be computed.
    prepare(
        &pool,
        &[
            "CREATE TABLE rows (id BIGINT PRIMARY KEY)",
            "INSERT INTO rows VALUES (1), (2), (3)",
            "CREATE VIEW accounts AS SELECT id, 'red' AS team, \
             'name ' || abs(CASE WHEN id < 3 THEN id \
             ELSE CAST(-9223372036854775808 AS BIGINT) END) \
             AS name FROM rows",
        ],
    )
    .await;
    let accounts = Accounts::new(pool);

    let read = accounts.get(2).await.expect("its name is no trouble");
    assert_eq!(read, account(2, "name 2", "red"));
    assert_failed(accounts.list("red").await);
}

async fn a_hundred_failures_leave_the_only_connection_free(
    database: &Database,
) {
    let accounts = with_a_hole_in_each_column(database, 1).await;

    for n in 1..=100 {
        let read = assert_failed(accounts.get(2).await);
        let list = assert_failed(accounts.list("red").await);
        for error in [read, list] {
            let cause = find_cause::<sqlx::Error>(&error);
            let starved = matches!(cause, Some(sqlx::Error::PoolTimedOut));
            assert!(!starved, "no free connection after {n} failures");
        }
        // Neither does an answer keep it.
        let read = accounts.get(3).await;
        assert_eq!(read.expect("a free connection"), account(3, "bo", "red"));
    }
}

async fn assert_talks_of_no_rows_but_failed(accounts: &Accounts) {
    let read = assert_failed(accounts.get(1).await);
    let list = assert_failed(accounts.list("red").await);
    for error in [read, list] {
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains(NO_ROWS), "its causes do not say it: {text}");
    }
}

/// Checks all that a failure promises, and returns its operation.
#[track_caller]
fn assert_tells<T: Debug>(result: Result<T, Error>) -> &'static str {
    let error = assert_failed(result);
    let Error::Failed { operation, source } = &error else { unreachable!() };
    let cause = find_cause::<sqlx::Error>(&error);
    assert!(cause.is_some(), "no driver's error among the sources: {error:?}");

    let (text, below) = (error.to_string(), source.to_string());
    assert!(!operation.is_empty(), "{text:?} names no operation");
    assert!(text.contains(operation), "{text:?} does not name {operation:?}");
    assert!(!text.contains(&below), "{text:?} repeats its source");
    operation
}

#[track_caller]
fn assert_failed<T: Debug>(result: Result<T, Error>) -> Error {
    let error = result.expect_err("a failure, not an answer");
    assert!(matches!(error, Error::Failed { .. }), "it became {error:?}");
    error
}

/// The accounts, and who is there, in the order in which they were made.
async fn six_teams_of_a_dozen(database: &Database) -> (Accounts, Vec<Account>) {
    let pool = database.with_tables().await;
    let everybody = (1..=72).rev().zip(TEAMS.iter().cycle());
    let everybody: Vec<_> = everybody
        .map(|(id, team)| account(id, &format!(" Writer {id} "), team))
        .collect();

    let mut together = pool.begin().await.unwrap();
    for Account { id, name, team } in &everybody {
        let insert =
            "INSERT INTO accounts (id, name, team) VALUES ($1, $2, $3)";
        let insert = sqlx::query(insert).bind(id).bind(name).bind(team);
        insert.execute(&mut *together).await.unwrap();
    }
    together.commit().await.unwrap();
    (Accounts::new(pool), everybody)
}

/// One account has no name, one no team, and one no key.
async fn with_a_hole_in_each_column(
    database: &Database,
    max_connections: u32,
) -> Accounts {
    let pool = database.pool(max_connections, ACQUIRE_TIMEOUT).await;
    prepare(
        &pool,
        &[
            "CREATE TABLE accounts (id BIGINT, name TEXT, team TEXT)",
            "INSERT INTO accounts (id, name, team) \
             VALUES (1, 'ada', 'red'), (2, NULL, 'red'), (3, 'bo', 'red'), \
             (4, 'cy', NULL), (NULL, 'dan', 'blue')",
        ],
    )
    .await;
    Accounts::new(pool)
}

fn account(id: i64, name: &str, team: &str) -> Account {
    Account { id, name: name.to_owned(), team: team.to_owned() }
}
