use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::pin;

use lab::cancel::after_polls;
use sqlx::AnyPool;
use sqlx::any::AnyPoolOptions;
use week02::no_rows::{Account, Accounts, BoxError, Error, author_name};

use crate::common::{
    ACQUIRE_TIMEOUT, Database, Row, TEXTS, assert_items, find_cause, insert,
    prepare, rows,
};

/// The words with which sqlx and Go report a missing row. They must not turn
/// another error into `NotFound`.
const NO_ROWS: &str = "RowNotFound: no rows returned by a query that expected \
                       to return at least one row, no rows in result set, \
                       not found";

/// A text that HTML escapes, and one that Postgres cannot store.
const MORE_TEXTS: [&str; 2] = ["<b>&amp;\r\n", "re\0d"];

mod errors {
    use std::error::Error as _;
    use std::io;

    use super::*;

    #[test]
    fn a_missing_account_shows_as_deleted_and_a_stored_name_shows_unchanged() {
        let more = MORE_TEXTS.map(|text| row(7, text, text));
        for row in rows().into_iter().chain(more) {
            let shown = author_name(Ok(from_row(&row)));
            let shown = shown.expect("expected the stored name");
            assert_eq!(shown, row.1, "the stored name");
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
        let io = io::Error::other(NO_ROWS);
        for source in [BoxError::from(io), sqlx::Error::RowNotFound.into()] {
            let failed = Error::Failed { operation: "count the seals", source };
            let expected = format!("{failed:?}");
            let error =
                author_name(Err(failed)).expect_err("expected an error");
            assert_eq!(format!("{error:?}"), expected, "the error");
        }
    }

    #[test]
    fn a_not_found_error_displays_entity_and_key_but_not_its_source() {
        for key in [-7, 0, i64::MIN, i64::MAX] {
            for entity in ["badge", "read model"] {
                let missing = |source| Error::NotFound { entity, key, source };
                let key = key.to_string();
                assert!(missing(None).source().is_none(), "expected no source");
                assert_displays(&missing(None), &[entity, &key]);
                assert_has_source(&missing(Some(a_source())));
                assert_displays(&missing(Some(a_source())), &[entity, &key]);
            }
        }
    }

    #[test]
    fn the_display_of_failed_has_the_operation_but_not_the_source() {
        for operation in ["count the seals", "q"] {
            let failed = Error::Failed { operation, source: a_source() };
            assert_has_source(&failed);
            assert_displays(&failed, &[operation]);
        }
    }

    /// Returns an error with the text `sail`, and a cause with `beneath`.
    fn a_source() -> BoxError {
        let source = io::Error::other("beneath").into();
        Error::Failed { operation: "sail", source }.into()
    }

    #[track_caller]
    fn assert_has_source(error: &Error) {
        let has = error.source().is_some_and(|source| source.is::<Error>());
        assert!(has, "expected the field `source` as the source of {error:?}");
    }

    /// Asserts that the text has all parts, and repeats no text of a source.
    #[track_caller]
    fn assert_displays(error: &Error, parts: &[&str]) {
        for text in [format!("{error}"), format!("{error:#}")] {
            for part in parts {
                assert!(text.contains(part), "no {part:?} in {text:?}");
            }
            for below in ["sail", "beneath"] {
                assert!(!text.contains(below), "{text:?} repeats {below:?}");
            }
        }
    }
}

mod rows {
    use super::*;

    #[tokio::test]
    async fn get_returns_the_stored_row_or_not_found_with_its_key() {
        let database = Database::sqlite();
        let (accounts, rows) = with_rows(&database, &MORE_TEXTS).await;
        check_stored_and_missing_rows(&accounts, &rows).await;
    }

    #[tokio::test]
    async fn list_returns_exactly_the_rows_of_the_team_ordered_by_id() {
        let database = Database::sqlite();
        let (accounts, rows) = with_rows(&database, &MORE_TEXTS).await;
        assert_lists(&accounts, &rows).await;
    }

    #[tokio::test]
    async fn reads_return_what_other_clients_have_changed() {
        let database = Database::sqlite();
        check_reads_after_changes(&database).await;
    }

    #[tokio::test]
    async fn a_read_during_a_change_returns_the_rows_before_or_after_it() {
        let database = Database::sqlite();
        let (accounts, _) = with_rows(&database, &[]).await;
        let other = database.pool(1, ACQUIRE_TIMEOUT).await;
        // In this mode, a reader does not block the writer.
        prepare(&other, &["PRAGMA journal_mode = WAL"]).await;
        check_reads_during_changes(&other, &accounts).await;
    }
}

mod failures {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use sqlx::any::install_default_drivers;

    use super::*;

    #[tokio::test]
    async fn a_failed_query_names_its_operation_and_keeps_the_cause() {
        let database = Database::sqlite();
        let other = database.pool(1, ACQUIRE_TIMEOUT).await;
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let accounts = Accounts::new(pool.clone());

        assert_both_fail(&accounts, "").await;
        insert(&pool, &[]).await;
        prepare(&pool, &["PRAGMA busy_timeout = 0"]).await;
        let _lock = other.begin_with("BEGIN EXCLUSIVE").await.unwrap();
        assert_both_fail(&accounts, "").await;
        pool.close().await;
        assert_both_fail(&accounts, "").await;
    }

    #[tokio::test]
    async fn an_error_with_the_words_no_rows_in_its_text_is_still_a_failure() {
        let database = Database::sqlite();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        // SQLite creates a view of a missing table, and fails to read it.
        let view = format!("CREATE VIEW accounts AS SELECT * FROM [{NO_ROWS}]");
        let view = sqlx::AssertSqlSafe(view);
        sqlx::query(view).execute(&pool).await.unwrap();
        assert_both_fail(&Accounts::new(pool), NO_ROWS).await;
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

        assert_both_fail(&Accounts::new(pool), "").await;
    }

    #[tokio::test]
    async fn a_broken_connection_is_a_failure_not_a_missing_row() {
        install_default_drivers();
        for (reply, error) in [(&b""[..], "Io("), (b"?\0\0\0\x04", "Protocol(")]
        {
            let url = server_that_replies(reply);
            let pool = AnyPool::connect_lazy(&url).unwrap();
            let seen = format!("{:?}", pool.acquire().await.unwrap_err());
            assert!(seen.starts_with(error), "expected {error}..), got {seen}");

            assert_both_fail(&Accounts::new(pool), "").await;
        }
    }

    #[tokio::test]
    async fn a_row_that_does_not_decode_is_a_failure() {
        let database = Database::sqlite();
        check_rows_that_do_not_decode(&database).await;
    }

    #[tokio::test]
    async fn a_list_of_any_size_is_complete_or_an_error() {
        let database = Database::sqlite();
        check_complete_and_failed_lists(&database).await;
    }

    #[tokio::test]
    async fn failed_and_successful_reads_release_their_connection() {
        let database = Database::sqlite();
        check_released_connections(&database).await;
    }

    #[tokio::test]
    async fn a_dropped_read_releases_its_connection_without_a_transaction() {
        let database = Database::sqlite();
        check_dropped_reads(&database, "BEGIN EXCLUSIVE", 8).await;
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
        let (accounts, rows) = with_rows(&database, &MORE_TEXTS[..1]).await;
        check_stored_and_missing_rows(&accounts, &rows).await;
        assert_lists(&accounts, &rows).await;
        let other = database.pool(1, ACQUIRE_TIMEOUT).await;
        check_reads_during_changes(&other, &accounts).await;
        database.clear().await;
        check_reads_after_changes(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn list_on_postgres_is_complete_or_an_error() {
        let database = Database::postgres();
        check_complete_and_failed_lists(&database).await;
        database.clear().await;
        check_rows_that_do_not_decode(&database).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_postgres_error_with_no_rows_in_its_text_is_still_a_failure() {
        let database = Database::postgres();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        // "No data" in PL/pgSQL and in SQL, a missing table, a timeout, a lock.
        for code in ["P0002", "02000", "42P01", "57014", "55P03"] {
            let view = format!(
                "CREATE OR REPLACE FUNCTION accounts_or_not() RETURNS TABLE \
                 (id BIGINT, name TEXT, team TEXT) LANGUAGE plpgsql \
                 AS $$ BEGIN RAISE '{NO_ROWS}' USING ERRCODE = '{code}'; \
                 END $$; CREATE OR REPLACE VIEW accounts AS \
                 SELECT * FROM accounts_or_not()"
            );
            let view = sqlx::raw_sql(sqlx::AssertSqlSafe(view));
            view.execute(&pool).await.unwrap();
            assert_both_fail(&Accounts::new(pool.clone()), NO_ROWS).await;
        }
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn completed_and_dropped_postgres_reads_release_their_connection() {
        let database = Database::postgres();
        check_released_connections(&database).await;
        database.clear().await;
        check_dropped_reads(&database, "BEGIN; LOCK accounts", 1).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn list_fails_if_the_connection_breaks_during_the_response() {
        let database = Database::postgres();
        let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
        let rows = red_rows(30);
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

/// Inserts the accounts of [`rows`], and one more for each text.
async fn with_rows(database: &Database, more: &[&str]) -> (Accounts, Vec<Row>) {
    let pool = database.pool(2, ACQUIRE_TIMEOUT).await;
    let more = (20..).zip(more).map(|(id, text)| row(id, text, text));
    let rows: Vec<_> = more.chain(rows()).collect();
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
    let other = database.pool(1, ACQUIRE_TIMEOUT).await;
    insert(&other, &[]).await;
    let accounts = Accounts::new(database.pool(1, ACQUIRE_TIMEOUT).await);

    // Account 7, which another client inserts, changes or deletes.
    let [ada, eve] = ["ada", "eve"].map(|name| Some((name, "red")));
    for state in [None, ada, eve, Some(("eve", "blue")), None, Some(("", ""))] {
        let row = state.map(|(name, team)| row(7, name, team));
        prepare(&other, &["DELETE FROM accounts"]).await;
        if let Some((id, name, team)) = &row {
            let insert =
                "INSERT INTO accounts (id, name, team) VALUES ($1, $2, $3)";
            let insert = sqlx::query(insert).bind(id).bind(name).bind(team);
            insert.execute(&other).await.unwrap();
        }
        match &row {
            Some(row) => assert_stored(&accounts, row).await,
            None => assert_missing(&accounts, 7).await,
        }
        assert_lists(&accounts, row.as_slice()).await;
    }
}

/// Changes the rows of [`with_rows`] during each read, after 1 to 5 polls.
async fn check_reads_during_changes(other: &AnyPool, accounts: &Accounts) {
    let change = "UPDATE accounts SET \
         id = CASE id WHEN 3 THEN 4 WHEN 4 THEN 3 ELSE id END, \
         team = CASE team WHEN 'red' THEN 'RED' WHEN 'RED' THEN 'red' \
         ELSE team END";
    for polls in 1..6 {
        // An even number of each, as every second change undoes the first.
        for method in [&["get"; 8][..], &["list"; 2]].concat() {
            let before = read(accounts, method).await;
            let mut during = pin!(read(accounts, method));
            let completed = after_polls(polls, during.as_mut()).await;
            prepare(other, &[change]).await;
            let during = match completed {
                Some(rows) => rows,
                None => during.await,
            };
            let after = read(accounts, method).await;
            assert_ne!(before, after, "the rows of `{method}` after a change");
            let whole = during == before || during == after;
            assert!(whole, "expected the rows before or after, got a mixture");
        }
    }
}

async fn read(accounts: &Accounts, method: &str) -> Vec<Account> {
    match method {
        "get" => match accounts.get(3).await {
            Err(Error::NotFound { .. }) => Vec::new(),
            read => vec![read.expect("expected account 3 or NotFound")],
        },
        _ => accounts.list("red").await.expect("expected a list"),
    }
}

async fn check_rows_that_do_not_decode(database: &Database) {
    let pool = database.pool(2, ACQUIRE_TIMEOUT).await;
    let accounts = with_a_null_in_each_column(&pool).await;

    assert_both_fail(&accounts, "").await;
    assert_complete_failure(accounts.get(4).await);
    assert_complete_failure(accounts.list("blue").await);
    let listed = accounts.list("").await.expect("expected an empty list");
    assert_eq!(listed, [], "the list of team \"\", which no account has");
    // A row without `NULL` in the same table can be read.
    assert_stored(&accounts, &row(3, "bo", "red")).await;
}

async fn check_complete_and_failed_lists(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    // The query fails when it computes the name for key 20,000.
    prepare(
        &pool,
        &[
            "CREATE TABLE rows (id BIGINT PRIMARY KEY)",
            "CREATE VIEW accounts AS SELECT id, 'red' AS team, \
             'name ' || abs(CASE WHEN id < 20000 THEN id \
             ELSE CAST(-9223372036854775808 AS BIGINT) END) \
             AS name FROM rows",
        ],
    )
    .await;
    let accounts = Accounts::new(pool.clone());

    for size in [2, 12_000] {
        let insert = "INSERT INTO rows WITH RECURSIVE n(id) AS (SELECT 1 \
                      UNION ALL SELECT id + 1 FROM n WHERE id < $1) \
                      SELECT id FROM n";
        prepare(&pool, &["DELETE FROM rows"]).await;
        sqlx::query(insert).bind(size).execute(&pool).await.unwrap();
        assert_lists(&accounts, &red_rows(size)).await;
        prepare(&pool, &["INSERT INTO rows VALUES (20000)"]).await;
        assert_stored(&accounts, &row(2, "name 2", "red")).await;
        assert_complete_failure(accounts.list("red").await);
    }
}

async fn check_released_connections(database: &Database) {
    let pool = database.pool(1, ACQUIRE_TIMEOUT).await;
    let accounts = with_a_null_in_each_column(&pool).await;
    prepare(&pool, &["CREATE TEMPORARY TABLE own (id BIGINT)"]).await;

    // A hundred and twenty-five reads.
    for _ in 0..25 {
        let error = accounts.get(1).await.expect_err("expected an error");
        assert!(matches!(error, Error::Failed { .. }), "not Failed: {error:?}");
        assert_complete_failure(accounts.list("red").await);
        assert_stored(&accounts, &row(3, "bo", "red")).await;
        assert_missing(&accounts, 6).await;
        let listed = accounts.list("green").await;
        assert_eq!(listed.expect("expected an empty list"), [], "the list");
    }
    let own = sqlx::query("SELECT id FROM own").fetch_all(&pool).await;
    own.expect("expected the temporary table of the pool's only connection");
}

/// Polls each read 1, 2, 3 … times and drops it, until it is complete.
///
/// A fast response completes two awaits in one poll, so the read is dropped at
/// neither of them. Therefore each read is repeated.
async fn check_dropped_reads(db: &Database, lock: &'static str, rounds: usize) {
    let other = db.pool(1, ACQUIRE_TIMEOUT).await;
    let rows = [3, 1].map(|id| row(id, &format!("{id}"), "red"));
    insert(&other, &rows).await;
    // A pool without the precautions of `db::connect`.
    let options = AnyPoolOptions::new().max_connections(1);
    let options = options.acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = options.connect_lazy_with((*other.connect_options()).clone());
    let accounts = Accounts::new(pool.clone());

    // A dropped read must not use the connection that it has waited for.
    let connection = pool.acquire().await.unwrap();
    after_polls(1, read(&accounts, "get")).await;
    after_polls(1, read(&accounts, "list")).await;
    let lock = other.begin_with(lock).await.unwrap();
    drop(connection);
    let free = pool.acquire().await;
    drop(free.expect("expected a free connection after the dropped reads"));
    lock.rollback().await.unwrap();

    for method in ["get", "list"].repeat(rounds) {
        for polls in 1.. {
            let read = after_polls(polls, read(&accounts, method)).await;
            db.assert_no_transaction(&pool, &other).await;
            assert_stored(&accounts, &rows[0]).await;
            if read.is_some() {
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
    let read = accounts.get(id).await;
    let Err(Error::NotFound { entity, key, .. }) = read else {
        panic!("expected NotFound for id {id}, got {read:?}")
    };
    assert_eq!((entity, key), ("account", id), "the entity and the key");
}

/// Asserts that each team has exactly the accounts in `rows`, ordered by id.
async fn assert_lists(accounts: &Accounts, rows: &[Row]) {
    let mut rows: Vec<_> = rows.iter().map(from_row).collect();
    rows.sort_by_key(|account| account.id);
    let stored = rows.iter().map(|account| account.team.as_str());
    let teams = TEXTS.into_iter().chain(["blue", "green", "re_"]);
    for team in teams.chain(stored).collect::<BTreeSet<_>>() {
        let mut members = rows.clone();
        members.retain(|account| account.team == team);
        let listed = accounts.list(team).await.expect("expected a list");
        let what = format!("the list of team {team:?}");
        assert_items(&listed, &members, &what);
    }
}

/// Asserts that `get` and `list` fail, name different operations, and have
/// `words` in the texts of their source chains.
async fn assert_both_fail(accounts: &Accounts, words: &str) {
    let read = assert_complete_failure(accounts.get(1).await);
    let list = assert_complete_failure(accounts.list("red").await);
    assert_ne!(read.0, list.0, "the operations of `get` and `list`");
    for (_, error) in [read, list] {
        let text = format!("{:#}", anyhow::Error::from(error));
        assert!(text.contains(words), "no {words:?} in the chain: {text}");
    }
}

/// Checks the rules about `Failed`, and returns the operation and the error.
#[track_caller]
fn assert_complete_failure<T: Debug>(
    result: Result<T, Error>,
) -> (&'static str, Error) {
    let error = result.expect_err("expected a Failed error");
    let Error::Failed { operation, source } = &error else {
        panic!("expected a Failed error, got {error:?}")
    };
    let cause = find_cause::<sqlx::Error>(&error);
    assert!(cause.is_some(), "no sqlx::Error in the source chain: {error:?}");

    let text = error.to_string();
    assert!(!operation.is_empty(), "the operation is empty: {error:?}");
    assert!(text.contains(operation), "no operation {operation:?} in {text:?}");
    for below in [source.to_string(), format!("{source:?}")] {
        assert!(!text.contains(&below), "{text:?} repeats {below:?}");
    }
    (operation, error)
}

/// Inserts rows with `NULL` in each column, and 2,000 more of team `blue`.
async fn with_a_null_in_each_column(pool: &AnyPool) -> Accounts {
    prepare(
        pool,
        &[
            "CREATE TABLE accounts (id BIGINT, name TEXT, team TEXT)",
            "INSERT INTO accounts (id, name, team) \
             VALUES (2, 'ada', 'red'), (1, NULL, 'red'), (3, 'bo', 'red'), \
             (4, 'cy', NULL), (NULL, 'dan', 'blue')",
            "INSERT INTO accounts WITH RECURSIVE n(id) AS (SELECT 10 \
             UNION ALL SELECT id + 1 FROM n WHERE id < 2009) \
             SELECT id, 'name ' || id, 'blue' FROM n",
        ],
    )
    .await;
    Accounts::new(pool.clone())
}

fn from_row((id, name, team): &Row) -> Account {
    Account { id: *id, name: name.clone(), team: team.clone() }
}

/// Returns `size` accounts of team `red`.
fn red_rows(size: i64) -> Vec<Row> {
    (1..=size).map(|id| row(id, &format!("name {id}"), "red")).collect()
}

fn row(id: i64, name: &str, team: &str) -> Row {
    (id, name.to_owned(), team.to_owned())
}
