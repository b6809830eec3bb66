use std::fmt::Debug;

use tokio::time::timeout;
use week02::no_rows::{Account, Accounts, Error, author_name};

use crate::common::{ACQUIRE_TIMEOUT, Database, find_cause, prepare};

/// The words with which sqlx and Go report a missing row. They must not turn
/// another error into `NotFound`.
const NO_ROWS: &str = "RowNotFound: no rows returned by a query that expected \
                       to return at least one row, no rows in result set, \
                       not found";

/// Names that find rows of other teams if the query pastes the name into its
/// SQL, or compares it as a pattern or without case.
const TEAMS: [&str; 6] =
    ["red", "RED", "redder", "r_d", " red", "' OR 'a' = 'a"];

mod errors {
    use std::error::Error as _;
    use std::io;

    use super::*;

    #[test]
    fn a_missing_account_shows_as_deleted_and_a_stored_name_shows_unchanged() {
        for name in ["ada", " Ada ", ""] {
            let read = Ok(account(1, name, "red"));
            let shown = author_name(read).expect("expected the stored name");
            assert_eq!(shown, name, "the stored name");
        }
        for source in [None, Some("no such row".into())] {
            let missing = Error::NotFound { entity: "account", key: 7, source };
            let shown = author_name(Err(missing));
            let shown = shown.expect("expected `[deleted]` for NotFound");
            assert_eq!(shown, "[deleted]", "the name for NotFound");
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
        let missing =
            Error::NotFound { entity: "badge", key: -7, source: None };
        let source = missing.source();
        assert!(source.is_none(), "expected no source, got {source:?}");

        let text = missing.to_string();
        assert!(text.contains("badge"), "no entity `badge` in {text:?}");
        assert!(text.contains("-7"), "no key `-7` in {text:?}");

        let source = Some(io::Error::other("beneath").into());
        let missing = Error::NotFound { entity: "badge", key: -7, source };
        assert!(
            find_cause::<io::Error>(&missing).is_some(),
            "no io::Error in the source chain of {missing:?}"
        );
        let text = missing.to_string();
        assert!(
            !text.contains("beneath"),
            "the source's text `beneath` is repeated in {text:?}"
        );
    }

    #[test]
    fn the_display_of_failed_has_the_operation_but_not_the_source() {
        let error = failed("beneath");

        let text = error.to_string();
        assert!(
            text.contains("count the seals"),
            "no operation `count the seals` in {text:?}"
        );
        assert!(
            !text.contains("beneath"),
            "the source's text `beneath` is repeated in {text:?}"
        );
        assert!(
            find_cause::<io::Error>(&error).is_some(),
            "no io::Error in the source chain of {error:?}"
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
    async fn get_returns_the_stored_row_unchanged() {
        super::get_returns_the_stored_row_unchanged(&Database::sqlite()).await;
    }

    #[tokio::test]
    async fn get_of_a_missing_row_returns_not_found_with_entity_and_key() {
        super::get_of_a_missing_row_returns_not_found_with_entity_and_key(
            &Database::sqlite(),
        )
        .await;
    }

    #[tokio::test]
    async fn list_returns_exactly_the_rows_of_the_team_ordered_by_id() {
        super::list_returns_exactly_the_rows_of_the_team_ordered_by_id(
            &Database::sqlite(),
        )
        .await;
    }

    #[tokio::test]
    async fn list_of_a_team_without_rows_is_empty() {
        super::list_of_a_team_without_rows_is_empty(&Database::sqlite()).await;
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
    async fn a_failed_query_names_its_operation_and_keeps_the_cause() {
        let database = Database::sqlite();
        super::a_failed_query_names_its_operation_and_keeps_the_cause(
            &database,
        )
        .await;
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

        let accounts = Accounts::new(pool);
        assert_complete_failure(accounts.get(1).await);
        assert_complete_failure(accounts.list("red").await);
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

            let accounts = Accounts::new(pool);
            assert_complete_failure(accounts.get(1).await);
            assert_complete_failure(accounts.list("red").await);
        }
    }

    #[tokio::test]
    async fn a_row_that_does_not_decode_is_a_failure() {
        let database = Database::sqlite();
        super::a_row_that_does_not_decode_is_a_failure(&database).await;
    }

    #[tokio::test]
    async fn a_list_query_that_fails_midway_is_a_failure() {
        super::a_list_query_that_fails_midway_is_a_failure(&Database::sqlite())
            .await;
    }

    #[tokio::test]
    async fn failed_and_successful_reads_release_their_connection() {
        let database = Database::sqlite();
        super::failed_and_successful_reads_release_their_connection(&database)
            .await;
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
    use super::*;

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn get_distinguishes_stored_from_missing_rows_on_postgres() {
        let database = Database::postgres();
        get_returns_the_stored_row_unchanged(&database).await;
        let database = Database::postgres();
        get_of_a_missing_row_returns_not_found_with_entity_and_key(&database)
            .await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn list_on_postgres_returns_the_rows_of_the_team_ordered_by_id() {
        let database = Database::postgres();
        super::list_returns_exactly_the_rows_of_the_team_ordered_by_id(
            &database,
        )
        .await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn list_on_postgres_is_complete_or_an_error() {
        let database = Database::postgres();
        list_of_a_team_without_rows_is_empty(&database).await;
        let database = Database::postgres();
        a_list_query_that_fails_midway_is_a_failure(&database).await;
        let database = Database::postgres();
        a_row_that_does_not_decode_is_a_failure(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_postgres_error_with_no_rows_in_its_text_is_still_a_failure() {
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

        assert_failed_with_no_rows_text(&Accounts::new(pool)).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn failed_and_successful_postgres_reads_release_their_connection() {
        let database = Database::postgres();
        super::failed_and_successful_reads_release_their_connection(&database)
            .await;
    }
}

async fn get_returns_the_stored_row_unchanged(database: &Database) {
    let (accounts, inserted) = six_teams_of_twelve(database).await;

    for account in inserted {
        let read = accounts.get(account.id).await;
        let read = read.expect("expected the stored row");
        assert_eq!(read, account, "the account with id {}", account.id);
    }
}

async fn get_of_a_missing_row_returns_not_found_with_entity_and_key(
    database: &Database,
) {
    let (accounts, _) = six_teams_of_twelve(database).await;

    for id in [0, 73, -3, 3 + (1 << 32)] {
        match accounts.get(id).await {
            Err(Error::NotFound { entity, key, .. }) => {
                assert_eq!(entity, "account", "the entity of the error");
                assert_eq!(key, id, "the key of the error");
            }
            other => panic!("expected NotFound for id {id}, got {other:?}"),
        }
    }
}

async fn list_returns_exactly_the_rows_of_the_team_ordered_by_id(
    database: &Database,
) {
    let (accounts, mut inserted) = six_teams_of_twelve(database).await;

    inserted.sort_by_key(|account| account.id);
    for team in TEAMS {
        let mut members = inserted.clone();
        members.retain(|account| account.team == team);
        let listed = accounts.list(team).await.expect("expected a list");
        assert_eq!(listed, members, "the list of team {team:?}");
    }
}

async fn list_of_a_team_without_rows_is_empty(database: &Database) {
    let (accounts, _) = six_teams_of_twelve(database).await;

    for team in ["green", "re_", "%", ""] {
        let listed = accounts.list(team).await;
        let listed = listed.expect("expected an empty list");
        assert_eq!(listed, [], "the list of team {team:?}");
    }
}

async fn a_failed_query_names_its_operation_and_keeps_the_cause(
    database: &Database,
) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let accounts = Accounts::new(pool.clone());

    let read = assert_complete_failure(accounts.get(1).await);
    let list = assert_complete_failure(accounts.list("red").await);
    assert_ne!(read, list, "the operations of `get` and `list`");

    let closed = timeout(ACQUIRE_TIMEOUT, pool.close()).await;
    closed.expect("`get` and `list` gave their connections back");
    assert_complete_failure(accounts.get(1).await);
    assert_complete_failure(accounts.list("red").await);
}

async fn a_row_that_does_not_decode_is_a_failure(database: &Database) {
    let accounts = with_a_null_in_each_column(database, 2).await;

    assert_failed(accounts.get(2).await);
    assert_failed(accounts.get(4).await);
    assert_failed(accounts.list("red").await);
    assert_failed(accounts.list("blue").await);
    // A row without `NULL` in the same table can be read.
    let read = accounts.get(3).await.expect("expected row 3, which decodes");
    assert_eq!(read, account(3, "bo", "red"), "row 3");
}

async fn a_list_query_that_fails_midway_is_a_failure(database: &Database) {
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
    assert_failed(accounts.list("red").await);
}

async fn failed_and_successful_reads_release_their_connection(
    database: &Database,
) {
    let accounts = with_a_null_in_each_column(database, 1).await;

    for n in 1..=100 {
        let read = assert_failed(accounts.get(2).await);
        let list = assert_failed(accounts.list("red").await);
        for error in [read, list] {
            let cause = find_cause::<sqlx::Error>(&error);
            let timed_out = matches!(cause, Some(sqlx::Error::PoolTimedOut));
            assert!(!timed_out, "no free connection in round {n} of 100");
        }
        let read = accounts.get(3).await;
        let read = read.expect("expected row 3 over a free connection");
        assert_eq!(read, account(3, "bo", "red"), "row 3");
    }
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

    let (text, below) = (error.to_string(), source.to_string());
    assert!(!operation.is_empty(), "the operation is empty: {error:?}");
    assert!(text.contains(operation), "no operation {operation:?} in {text:?}");
    assert!(
        !text.contains(&below),
        "the source's text {below:?} is repeated in {text:?}"
    );
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

/// Inserts twelve accounts for each team. Returns the reader, and the accounts
/// in the order of insertion.
async fn six_teams_of_twelve(database: &Database) -> (Accounts, Vec<Account>) {
    let pool = database.with_tables().await;
    let inserted = (1..=72).rev().zip(TEAMS.iter().cycle());
    let inserted: Vec<_> = inserted
        .map(|(id, team)| account(id, &format!(" Writer {id} "), team))
        .collect();

    let mut transaction = pool.begin().await.unwrap();
    for Account { id, name, team } in &inserted {
        let insert =
            "INSERT INTO accounts (id, name, team) VALUES ($1, $2, $3)";
        let insert = sqlx::query(insert).bind(id).bind(name).bind(team);
        insert.execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();
    (Accounts::new(pool), inserted)
}

/// Inserts five accounts: one without a name, one without a team, and one
/// without a key.
async fn with_a_null_in_each_column(
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
