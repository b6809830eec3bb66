use std::fmt::Debug;

use lab::cancel::after_polls;
use sqlx::AnyPool;
use week02::no_rows::{Account, Accounts, Error, author_name};

use crate::common::{
    ACQUIRE_TIMEOUT, Database, Row, TEXTS, assert_items, find_cause, insert,
    prepare, rows,
};

/// The words with which sqlx and Go report a missing row. They must not turn
/// another error into `NotFound`.
const NO_ROWS: &str = "RowNotFound: no rows returned by a query that expected \
                       to return at least one row, no rows in result set, \
                       not found";

mod errors {
    use std::error::Error as _;
    use std::io;

    use super::*;

    #[test]
    fn a_missing_account_shows_as_deleted_and_a_stored_name_shows_unchanged() {
        for (id, name, team) in rows() {
            let read = Ok(account(id, &name, &team));
            let shown = author_name(read).expect("expected the stored name");
            assert_eq!(shown, name, "the stored name");
        }
        for entity in ["account", "team"] {
            for source in [None, Some(NO_ROWS.into())] {
                let missing = Error::NotFound { entity, key: 7, source };
                let shown = author_name(Err(missing));
                let shown = shown.expect("expected `[deleted]` for NotFound");
                assert_eq!(shown, "[deleted]", "the name for NotFound");
            }
        }
    }

    #[test]
    fn a_failed_read_returns_its_error_and_is_not_shown_as_deleted() {
        let shown = author_name(Err(failed(NO_ROWS)));

        let error = shown.expect_err("expected an error for a failed read");
        let Error::Failed { operation, source } = error else {
            panic!("expected the Failed error unchanged, got {error:?}");
        };
        assert_eq!(operation, "count the seals", "the operation");
        assert!(
            source.is::<io::Error>(),
            "expected the io::Error as source, got {source:?}"
        );
    }

    #[test]
    fn a_not_found_error_displays_entity_and_key_but_not_its_source() {
        for key in [-7, 0, i64::MIN, i64::MAX] {
            for entity in ["badge", "read model"] {
                let missing = Error::NotFound { entity, key, source: None };
                let source = missing.source();
                assert!(source.is_none(), "expected no source: {source:?}");
                let text = missing.to_string();
                assert!(text.contains(entity), "no {entity:?} in {text:?}");
                let key_text = key.to_string();
                assert!(text.contains(&key_text), "no key {key} in {text:?}");

                let source = Some(io::Error::other("beneath").into());
                assert_source(&Error::NotFound { entity, key, source });
            }
        }
    }

    #[test]
    fn the_display_of_failed_has_the_operation_but_not_the_source() {
        for operation in ["count the seals", "q"] {
            let source = io::Error::other("beneath").into();
            let error = Error::Failed { operation, source };
            let text = error.to_string();
            assert!(text.contains(operation), "no {operation:?} in {text:?}");
            assert_source(&error);
        }
    }

    /// Asserts that `source` returns the error with the text `beneath`, and that
    /// `Display` does not repeat it.
    #[track_caller]
    fn assert_source(error: &Error) {
        assert!(
            error.source().is_some_and(|source| source.is::<io::Error>()),
            "expected the io::Error as the source of {error:?}"
        );
        let text = error.to_string();
        assert!(
            !text.contains("beneath"),
            "the source's text `beneath` is repeated in {text:?}"
        );
    }

    fn failed(cause: &str) -> Error {
        let source = io::Error::other(cause).into();
        Error::Failed { operation: "count the seals", source }
    }
}

mod rows {
    use super::*;

    #[tokio::test]
    async fn get_returns_the_stored_row_or_not_found_with_its_key() {
        let database = Database::sqlite();
        let (accounts, rows) = with_rows(&database).await;
        check_stored_and_missing_rows(&accounts, &rows).await;
    }

    #[tokio::test]
    async fn list_returns_exactly_the_rows_of_the_team_ordered_by_id() {
        let database = Database::sqlite();
        let (accounts, rows) = with_rows(&database).await;
        assert_lists(&accounts, &rows).await;
    }

    #[tokio::test]
    async fn reads_return_what_other_clients_have_changed() {
        let database = Database::sqlite();
        check_reads_after_changes(&database).await;
    }
}

mod failures {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use sqlx::any::{AnyPoolOptions, install_default_drivers};

    use super::*;

    #[tokio::test]
    async fn a_failed_query_names_its_operation_and_keeps_the_cause() {
        let database = Database::sqlite();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let accounts = Accounts::new(pool.clone());

        assert_both_fail(&accounts).await;
        pool.close().await;
        assert_both_fail(&accounts).await;
    }

    #[tokio::test]
    async fn an_error_with_the_words_no_rows_in_its_text_is_still_a_failure() {
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

        assert_failed_with_no_rows_text(&Accounts::new(pool)).await;
    }

    #[tokio::test]
    async fn an_exhausted_pool_is_a_failure_not_a_missing_row() {
        install_default_drivers();
        let options = AnyPoolOptions::new().max_connections(1);
        let options = options.acquire_timeout(Duration::from_millis(100));
        let pool = options.connect_lazy("sqlite::memory:").unwrap();
        let _only_connection = loop {
            match pool.acquire().await {
                // Opening the connection may take longer than the timeout.
                Err(sqlx::Error::PoolTimedOut) => {}
                opened => break opened.unwrap(),
            }
        };

        assert_both_fail(&Accounts::new(pool)).await;
    }

    #[tokio::test]
    async fn a_broken_connection_is_a_failure_not_a_missing_row() {
        install_default_drivers();
        for (reply, error) in [(&b""[..], "Io("), (b"?\0\0\0\x04", "Protocol(")]
        {
            let url = server_that_replies(reply);
            let pool = AnyPool::connect_lazy(&url).unwrap();
            let seen = format!("{:?}", pool.acquire().await.unwrap_err());
            assert!(
                seen.starts_with(error),
                "expected sqlx to fail with {error}..), got {seen}"
            );

            assert_both_fail(&Accounts::new(pool)).await;
        }
    }

    #[tokio::test]
    async fn a_row_that_does_not_decode_is_a_failure() {
        let database = Database::sqlite();
        check_rows_that_do_not_decode(&database).await;
    }

    #[tokio::test]
    async fn a_list_query_that_fails_midway_is_a_failure() {
        let database = Database::sqlite();
        check_query_that_fails_midway(&database).await;
    }

    #[tokio::test]
    async fn failed_and_successful_reads_release_their_connection() {
        let database = Database::sqlite();
        check_released_connections(&database).await;
    }

    #[tokio::test]
    async fn a_dropped_read_releases_its_connection_without_a_transaction() {
        let database = Database::sqlite();
        check_dropped_reads(&database, 8).await;
    }

    /// Starts a server that answers every client with `reply`, which is no
    /// Postgres message, and closes the connection. Returns its URL.
    fn server_that_replies(reply: &'static [u8]) -> String {
        let listener =
            TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("a bound address");
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                if client.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                    // The client may have disconnected already.
                    let _ = client.write_all(reply);
                }
            }
        });
        format!("postgres://reader@{address}/comments?sslmode=disable")
    }
}

mod postgres {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn get_and_list_on_postgres_equal_the_stored_rows() {
        let database = Database::postgres();
        let (accounts, rows) = with_rows(&database).await;
        check_stored_and_missing_rows(&accounts, &rows).await;
        assert_lists(&accounts, &rows).await;
        database.clear().await;
        check_reads_after_changes(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn list_on_postgres_is_complete_or_an_error() {
        let database = Database::postgres();
        check_query_that_fails_midway(&database).await;
        database.clear().await;
        check_rows_that_do_not_decode(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_postgres_error_with_no_rows_in_its_text_is_still_a_failure() {
        let database = Database::postgres();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let raise = format!(
            "CREATE FUNCTION accounts_or_not() RETURNS TABLE \
             (id BIGINT, name TEXT, team TEXT) LANGUAGE plpgsql \
             AS $$ BEGIN RAISE '{NO_ROWS}' USING ERRCODE = 'no_data_found'; \
             END $$"
        );
        let raise = sqlx::AssertSqlSafe(raise);
        sqlx::query(raise).execute(&pool).await.unwrap();
        let view = "CREATE VIEW accounts AS SELECT * FROM accounts_or_not()";
        prepare(&pool, &[view]).await;

        assert_failed_with_no_rows_text(&Accounts::new(pool)).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn completed_and_dropped_postgres_reads_release_their_connection() {
        let database = Database::postgres();
        check_released_connections(&database).await;
        database.clear().await;
        check_dropped_reads(&database, 1).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn list_fails_if_the_connection_breaks_during_the_response() {
        let database = Database::postgres();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let rows: Vec<_> = (0..30)
            .map(|id| (id, format!("name {id}"), "red".to_owned()))
            .collect();
        insert(&pool, &rows).await;
        let stored: Vec<_> = rows.iter().map(from_row).collect();

        for bytes in (0..).step_by(97) {
            let (pool, received) = database.pool_that_breaks_after(bytes);
            match Accounts::new(pool).list("red").await {
                Ok(listed) => assert_items(&listed, &stored, "the list"),
                failed => drop(assert_complete_failure(failed)),
            }
            if received.load(Relaxed) < bytes {
                break;
            }
        }
    }
}

/// Inserts the accounts of [`rows`] into a database.
async fn with_rows(database: &Database) -> (Accounts, Vec<Row>) {
    let pool = database.pool(2, ACQUIRE_TIMEOUT).await;
    let rows = rows();
    insert(&pool, &rows).await;
    (Accounts::new(pool), rows)
}

async fn check_stored_and_missing_rows(accounts: &Accounts, rows: &[Row]) {
    for row in rows.iter().take(60).chain(rows.iter().skip(60).step_by(29)) {
        assert_stored(accounts, row).await;
    }
    for id in [1, -2, 4 + (1 << 32), i64::MIN + 1, i64::MAX - 2] {
        assert_missing(accounts, id).await;
    }
}

async fn check_reads_after_changes(database: &Database) {
    let pool = database.pool(2, ACQUIRE_TIMEOUT).await;
    insert(&pool, &[]).await;
    let accounts = Accounts::new(pool.clone());

    // Account 7, which another client inserts, changes or deletes.
    for (name, team) in [
        (None, "red"),
        (Some("ada"), "red"),
        (Some("eve"), "red"),
        (Some("eve"), "blue"),
        (None, "red"),
        (Some(""), "blue"),
    ] {
        prepare(&pool, &["DELETE FROM accounts"]).await;
        let row = name.map(|name| (7, name.to_owned(), team.to_owned()));
        if let Some((id, name, team)) = &row {
            let insert =
                "INSERT INTO accounts (id, name, team) VALUES ($1, $2, $3)";
            let insert = sqlx::query(insert).bind(id).bind(name).bind(team);
            insert.execute(&pool).await.unwrap();
        }
        match &row {
            Some(row) => assert_stored(&accounts, row).await,
            None => assert_missing(&accounts, 7).await,
        }
        assert_lists(&accounts, row.as_slice()).await;
    }
}

async fn check_rows_that_do_not_decode(database: &Database) {
    let pool = database.pool(2, ACQUIRE_TIMEOUT).await;
    let accounts = with_a_null_in_each_column(&pool).await;

    let by_id = assert_complete_failure(accounts.get(2).await);
    let by_team = assert_complete_failure(accounts.list("red").await);
    assert_ne!(by_id, by_team, "the operations of `get` and `list`");
    assert_complete_failure(accounts.get(4).await);
    assert_complete_failure(accounts.list("blue").await);
    let listed = accounts.list("").await.expect("expected an empty list");
    assert_eq!(listed, [], "the list of team \"\", which no account has");
    // A row without `NULL` in the same table can be read.
    let read = accounts.get(3).await.expect("expected row 3, which decodes");
    assert_eq!(read, account(3, "bo", "red"), "row 3");
}

async fn check_query_that_fails_midway(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    // The query fails when it computes the last of the three names.
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

    let read = accounts.get(2).await.expect("expected row 2");
    assert_eq!(read, account(2, "name 2", "red"), "row 2");
    assert_complete_failure(accounts.list("red").await);
}

async fn check_released_connections(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let accounts = with_a_null_in_each_column(&pool).await;

    // A hundred and twenty-five reads.
    for _ in 0..25 {
        for read in [
            accounts.get(2).await.map(drop),
            accounts.list("red").await.map(drop),
        ] {
            let error = assert_failed(read);
            let cause = find_cause::<sqlx::Error>(&error);
            let timed_out = matches!(cause, Some(sqlx::Error::PoolTimedOut));
            assert!(!timed_out, "expected a free connection, got {error:?}");
        }
        let read = accounts.get(3).await;
        let read = read.expect("expected row 3 over a free connection");
        assert_eq!(read, account(3, "bo", "red"), "row 3");
        assert_missing(&accounts, 6).await;
        let listed = accounts.list("green").await;
        assert_eq!(listed.expect("expected an empty list"), [], "the list");
    }
}

/// Polls each read 1, 2, 3 … times and drops it, until it is complete.
///
/// A fast response completes two awaits in one poll, so the read is dropped at
/// neither of them. Therefore each read is repeated.
async fn check_dropped_reads(database: &Database, rounds: usize) {
    let other = database.pool(1, ACQUIRE_TIMEOUT).await;
    let rows = [3, 1].map(|id| (id, format!("{id}"), "red".to_owned()));
    insert(&other, &rows).await;
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let accounts = Accounts::new(pool.clone());

    for method in ["get", "list"].repeat(rounds) {
        for polls in 1.. {
            let read = async {
                match method {
                    "get" => accounts.get(1).await.is_ok(),
                    _ => accounts.list("red").await.is_ok(),
                }
            };
            let completed = after_polls(polls, read).await;
            database.assert_no_transaction(&pool, &other).await;
            assert_stored(&accounts, &rows[0]).await;
            if let Some(ok) = completed {
                assert!(ok, "expected Ok from `{method}`");
                break;
            }
        }
    }
}

async fn assert_stored(accounts: &Accounts, row: &Row) {
    let read = accounts.get(row.0).await;
    let read = read.expect("expected the stored row");
    assert_eq!(read, from_row(row), "the account with id {}", row.0);
}

async fn assert_missing(accounts: &Accounts, id: i64) {
    match accounts.get(id).await {
        Err(Error::NotFound { entity, key, .. }) => {
            assert_eq!(entity, "account", "the entity of the error");
            assert_eq!(key, id, "the key of the error");
        }
        other => panic!("expected NotFound for id {id}, got {other:?}"),
    }
}

/// Asserts that each team has exactly the accounts in `rows`, ordered by id.
async fn assert_lists(accounts: &Accounts, rows: &[Row]) {
    let mut rows: Vec<_> = rows.iter().map(from_row).collect();
    rows.sort_by_key(|account| account.id);
    for team in TEXTS.into_iter().chain(["blue", "green", "re_"]) {
        let mut members = rows.clone();
        members.retain(|account| account.team == team);
        let listed = accounts.list(team).await.expect("expected a list");
        let what = format!("the list of team {team:?}");
        assert_items(&listed, &members, &what);
    }
}

/// Asserts that `get` and `list` fail, and name different operations.
async fn assert_both_fail(accounts: &Accounts) {
    let read = assert_complete_failure(accounts.get(1).await);
    let list = assert_complete_failure(accounts.list("red").await);
    assert_ne!(read, list, "the operations of `get` and `list`");
}

async fn assert_failed_with_no_rows_text(accounts: &Accounts) {
    let read = assert_failed(accounts.get(1).await);
    let list = assert_failed(accounts.list("red").await);
    for error in [read, list] {
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(
            text.contains(NO_ROWS),
            "expected the driver's text {NO_ROWS:?} in the chain: {text}"
        );
    }
}

/// Checks every rule about a `Failed` error, and returns its operation.
#[track_caller]
fn assert_complete_failure<T: Debug>(result: Result<T, Error>) -> &'static str {
    let error = assert_failed(result);
    let Error::Failed { operation, source } = &error else { unreachable!() };
    let cause = find_cause::<sqlx::Error>(&error);
    assert!(cause.is_some(), "no sqlx::Error in the source chain: {error:?}");

    let text = error.to_string();
    assert!(!operation.is_empty(), "the operation is empty: {error:?}");
    assert!(text.contains(operation), "no operation {operation:?} in {text:?}");
    for below in [source.to_string(), format!("{source:?}")] {
        assert!(
            !text.contains(&below),
            "the source's text {below:?} is repeated in {text:?}"
        );
    }
    operation
}

#[track_caller]
fn assert_failed<T: Debug>(result: Result<T, Error>) -> Error {
    let error = result.expect_err("expected a Failed error");
    assert!(
        matches!(error, Error::Failed { .. }),
        "expected a Failed error, got {error:?}"
    );
    error
}

/// Inserts five accounts: one without a name, one without a team, and one
/// without a key.
async fn with_a_null_in_each_column(pool: &AnyPool) -> Accounts {
    prepare(
        pool,
        &[
            "CREATE TABLE accounts (id BIGINT, name TEXT, team TEXT)",
            "INSERT INTO accounts (id, name, team) \
             VALUES (1, 'ada', 'red'), (2, NULL, 'red'), (3, 'bo', 'red'), \
             (4, 'cy', NULL), (NULL, 'dan', 'blue')",
        ],
    )
    .await;
    Accounts::new(pool.clone())
}

fn from_row((id, name, team): &Row) -> Account {
    account(*id, name, team)
}

fn account(id: i64, name: &str, team: &str) -> Account {
    Account { id, name: name.to_owned(), team: team.to_owned() }
}
