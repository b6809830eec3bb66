use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use week04_biz::{Cause, Error, StorageError, UserId};

use self::fake::{call, causes, generated, like_twice, number};
use self::fixture::{COMMENTS, DELETE, Fixture, subject};
use self::results::{assert_failure, assert_likes, result_within, sorted};

#[path = "layers/dependency_rule.rs"]
mod dependency_rule;

#[path = "layers/fake.rs"]
mod fake;

#[path = "layers/fixture.rs"]
mod fixture;

#[path = "layers/results.rs"]
mod results;

mod use_case {
    use super::*;

    #[tokio::test]
    async fn a_like_calls_the_repository_once_and_returns_its_answer() {
        let answers = prop::option::of(number());
        for ((subject, id, user), answer) in generated((call(), answers)) {
            if UserId::new("user", &user).is_err() {
                continue;
            }
            let call = (subject, id, user);
            for (liked, calls) in like_twice(&call, move || Ok(answer)).await {
                let call = std::slice::from_ref(&call);
                assert_eq!(calls, call, "the calls of the repository");
                let liked = match liked {
                    Ok(likes) => Some(likes),
                    Err(Error::NotFound { kind, id: missing }) => {
                        assert_eq!(kind, "comment", "the kind of the error");
                        let id = id.to_string();
                        assert_eq!(missing, id, "the id of the error");
                        None
                    }
                    Err(other) => panic!("answer {answer:?}: got {other:?}"),
                };
                assert_eq!(liked, answer, "the number, or None for NotFound");
            }
        }
    }

    #[tokio::test]
    async fn a_like_with_an_invalid_user_id_never_reaches_the_repository() {
        let mut invalid = vec![String::new(), "x".repeat(65), "\0".to_owned()];
        invalid.extend(generated(call()).into_iter().map(|call| call.2));
        invalid.retain(|user| UserId::new("user", user).is_err());
        for user in invalid {
            let call = (subject("rust"), 1, user);
            for (liked, calls) in like_twice(&call, || Ok(Some(1))).await {
                let user = &call.2;
                assert_eq!(calls, [], "the calls of the repository, {user:?}");
                let field = match liked {
                    Err(Error::Invalid(invalid)) => Ok(invalid.field),
                    other => Err(other),
                };
                let field = field.expect("expected Error::Invalid");
                assert_eq!(field, "user", "the invalid field, for {user:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_storage_error_keeps_its_kind_and_cause_and_is_not_retried() {
        type Kind = fn(Cause) -> StorageError;
        let kinds: [(bool, Kind); 2] =
            [(true, StorageError::Unavailable), (false, StorageError::Failed)];
        let call = (subject("rust"), 7, "ann".to_owned());
        for (cause, (may_retry, kind)) in causes()
            .into_iter()
            .flat_map(|cause| kinds.map(|kind| (Arc::clone(&cause), kind)))
        {
            let error = kind(cause());
            let make = Arc::clone(&cause);
            let answer = move || Err(kind(make()));
            for (liked, calls) in like_twice(&call, answer).await {
                let calls = calls.len();
                assert_eq!(
                    calls, 1,
                    "the calls of a repository with {error:?}"
                );
                let (is_unavailable, seen) = match liked {
                    Err(Error::Unavailable(cause)) => (true, cause),
                    Err(Error::Internal(cause)) => (false, cause),
                    other => panic!("the result for {error:?}: {other:?}"),
                };
                assert_eq!(is_unavailable, may_retry, "Unavailable? {error:?}");
                let (seen_text, text) =
                    (format!("{seen:?}"), format!("{:?}", cause()));
                assert_eq!(seen_text, text, "the cause for {error:?}");
                let is_sqlx = cause().is::<sqlx::Error>();
                assert_eq!(
                    seen.is::<sqlx::Error>(),
                    is_sqlx,
                    "is the cause a sqlx::Error, for {error:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn the_business_layer_runs_on_a_fake_and_names_no_outer_layer() {
        let call = (subject("rust"), 1, "ann".to_owned());
        for (liked, _) in like_twice(&call, || Ok(Some(1))).await {
            assert_eq!(liked.ok(), Some(1), "the likes that the fake returns");
        }

        let paths = dependency_rule::paths_out_of_biz(crate::sources::LAYERS);
        assert!(
            paths.is_empty(),
            "`mod biz` may name std, core, week04_biz and its own items, but \
             it names: {}",
            paths.join(", ")
        );
    }
}

mod sql {
    use super::*;

    #[tokio::test]
    async fn every_like_is_stored_and_counted_once_for_its_user() {
        likes_match_a_model(&Fixture::sqlite(2).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn concurrent_likes_count_each_user_once() {
        let fixture = Fixture::sqlite(4).await;
        let users: Vec<_> = (1..=40).map(|n| format!("user {n}")).collect();
        let liked = fixture.spawn_adds(1, &users).join_all().await;
        assert_eq!(sorted(liked), (1..=40).collect::<Vec<_>>(), "40 users");
        let ann = vec!["ann".to_owned(); 40];
        let liked = fixture.spawn_adds(2, &ann).join_all().await;
        assert_eq!(sorted(liked), [1; 40], "40 likes of one user");
        assert_eq!(fixture.counts(1).await, (40, 40), "likes, like_count");
        assert_eq!(fixture.counts(2).await, (1, 1), "likes, like_count");
    }

    #[tokio::test]
    async fn a_failed_statement_or_commit_leaves_nothing_changed() {
        let fixture = Fixture::sqlite(1).await;
        let late = "CREATE TABLE late (id TEXT REFERENCES subjects (id) \
                    DEFERRABLE INITIALLY DEFERRED)";
        fixture.run(late).await;
        let abort = "SELECT RAISE(ABORT, 'on purpose')";
        for (n, (event, fail)) in (1..).zip([
            ("BEFORE INSERT ON likes", abort),
            ("BEFORE UPDATE ON comment_index", abort),
            // The missing reference is noticed by COMMIT.
            ("AFTER INSERT ON likes", "INSERT INTO late VALUES ('missing')"),
        ]) {
            let user = format!("user {n}");
            let on = format!("CREATE TRIGGER t{n} {event} BEGIN {fail}; END");
            fixture.run(&on).await;
            let added = fixture.add("rust", 1, &user).await;
            assert_failure(added, false, &on);
            assert_eq!(fixture.counts(1).await, (n - 1, n - 1), "after {on}");
            fixture.run(&format!("DROP TRIGGER t{n}")).await;
            let added = fixture.add("rust", 1, &user).await;
            assert_likes(&added, Some(n), "the same call again");
        }
    }

    #[tokio::test]
    async fn an_error_says_whether_a_retry_may_succeed() {
        let fixture = Fixture::impatient_sqlite().await;
        let pool = fixture.database.pool();
        let only = pool.acquire().await.expect("the pool is idle");
        let added = fixture.add("rust", 1, "ann").await;
        assert_failure(added, true, "an exhausted pool");
        drop(only);

        let fixture = Fixture::sqlite(1).await;
        let no_wait = sqlx::query("PRAGMA busy_timeout = 0");
        let pool = fixture.database.pool();
        no_wait.execute(pool).await.expect("a known pragma");
        let mut writer = fixture.observer.acquire().await.expect("it is idle");
        let lock = sqlx::query("BEGIN IMMEDIATE");
        lock.execute(&mut *writer).await.expect("no other writer");
        let added = fixture.add("rust", 1, "ann").await;
        assert_failure(added, true, "a locked database");
        writer.close().await.expect("an open connection");

        let added = fixture.add("rust", 1, "ann").await;
        assert_likes(&added, Some(1), "after the lock is released");
        fixture.run("DROP TABLE likes").await;
        let added = fixture.add("rust", 1, "bob").await;
        assert_failure(added, false, "a missing table");
        fixture.database.close().await;
        let added = fixture.add("rust", 1, "bob").await;
        assert_failure(added, true, "a closed pool");
    }

    #[tokio::test]
    async fn a_call_dropped_at_any_await_leaves_no_half_like_and_no_lock() {
        let fixture = Fixture::sqlite(1).await;
        // The call has to wait, because the statements take so long.
        let slow = "BEGIN SELECT count(*) FROM (WITH RECURSIVE n (n) AS \
                    (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10000) \
                    SELECT n FROM n); END";
        let insert = format!("CREATE TRIGGER i BEFORE INSERT ON likes {slow}");
        fixture.run(&insert).await;
        let update =
            format!("CREATE TRIGGER u BEFORE UPDATE ON comment_index {slow}");
        fixture.run(&update).await;
        calls_are_dropped_at_every_await(&fixture).await;
    }
}

mod postgres {
    use super::*;

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn every_like_on_postgres_is_stored_and_counted_once_for_its_user() {
        likes_match_a_model(&Fixture::postgres(2).await).await;
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn users_who_wait_for_the_same_row_lock_are_all_counted() {
        let fixture = Fixture::postgres(5).await;
        let users = ["a", "b", "c", "d", "e"].map(str::to_owned);
        let lock = "UPDATE comment_index SET like_count = like_count \
                    WHERE id = 1";
        let liked = fixture.adds_during(lock, 1, &users).await;
        assert_eq!(sorted(liked), [1, 2, 3, 4, 5], "five users");
        let liked = fixture.adds_during(&other_like(2, "f"), 2, &users).await;
        assert_eq!(sorted(liked), [2, 3, 4, 5, 6], "after another process");
        assert_eq!(fixture.counts(1).await, (5, 5), "likes, like_count");
        assert_eq!(fixture.counts(2).await, (6, 6), "likes, like_count");
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn likes_of_one_user_that_wait_for_a_row_lock_count_once() {
        let fixture = Fixture::postgres(5).await;
        let ann = vec!["ann".to_owned(); 5];
        let lock = "UPDATE comment_index SET like_count = like_count \
                    WHERE id = 2";
        let liked = fixture.adds_during(lock, 2, &ann).await;
        assert_eq!(sorted(liked), [1; 5], "five likes of one user");
        let liked = fixture.adds_during(&other_like(1, "ann"), 1, &ann).await;
        assert_eq!(sorted(liked), [1; 5], "likes that another process stores");
        assert_eq!(fixture.counts(2).await, (1, 1), "likes, like_count");
        assert_eq!(fixture.counts(1).await, (1, 1), "likes, like_count");
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_comment_deleted_while_a_like_waits_gets_no_like() {
        let fixture = Fixture::postgres(5).await;
        let delete = format!("{DELETE} WHERE id = 1");
        let users = ["a", "b", "c", "d", "d"].map(str::to_owned);
        for added in fixture.adds_during(&delete, 1, &users).await {
            let added = added.expect("expected None, and no error");
            assert_eq!(added, None, "the likes of a deleted comment");
        }
        assert_eq!(fixture.counts(1).await, (0, 0), "likes, like_count");
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn each_sqlstate_or_a_stopped_server_says_whether_to_retry() {
        let mut fixture = Fixture::postgres(1).await;
        let retry = "40001 40P01 53300 55P03 57014 57P01 57P02 57P03 08006";
        let no_retry = "23505 23514 22012 42501 XX001 XX002 P0001 02000 \
                        23503 40002 53100 53200 55006 57P04 58030 25006";
        let codes = retry.split(' ').map(|code| (true, code));
        let codes = codes.chain(no_retry.split(' ').map(|code| (false, code)));
        let events = [
            "TRIGGER fails BEFORE INSERT ON likes",
            "TRIGGER fails BEFORE UPDATE ON comment_index",
            // Called by COMMIT.
            "CONSTRAINT TRIGGER fails AFTER INSERT ON likes \
             DEFERRABLE INITIALLY DEFERRED",
        ];
        for (n, ((may_retry, code), event)) in
            (1..).zip(codes.zip(events.iter().cycle()))
        {
            let create = format!(
                "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql \
                 AS $$ BEGIN RAISE 'on purpose' USING ERRCODE = '{code}'; \
                 END $$; \
                 CREATE {event} FOR EACH ROW EXECUTE FUNCTION fails()"
            );
            fixture.run(&create).await;
            let added = fixture.add("rust", 1, code).await;
            assert_failure(added, may_retry, &format!("{code}, {event}"));
            let counts = fixture.counts(1).await;
            assert_eq!(counts, (n - 1, n - 1), "after {code}, {event}");
            fixture.run("DROP FUNCTION fails() CASCADE").await;
            let added = fixture.add("rust", 1, code).await;
            assert_likes(&added, Some(n), "the same call again");
        }
        fixture.stop_server();
        let added = fixture.add("rust", 1, "ann").await;
        assert_failure(added, true, "a stopped server");
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_call_dropped_at_any_await_leaves_no_transaction_on_postgres() {
        let fixture = Fixture::postgres_behind_a_task().await;
        calls_are_dropped_at_every_await(&fixture).await;
    }
}

/// Returns the statements by which another process stores a like.
fn other_like(id: i64, user: &str) -> String {
    format!(
        "INSERT INTO likes (comment_id, user_id) VALUES ({id}, '{user}'); \
         UPDATE comment_index SET like_count = like_count + 1 WHERE id = {id}"
    )
}

/// Makes generated likes. Then another process deletes a comment, creates one
/// and stores a like, and the same likes are made again. Compares every result,
/// and in the end every row, with a model.
async fn likes_match_a_model(fixture: &Fixture) {
    let users = "[ -~é用\u{a0}\u{200b}\u{feff}]{1,64}|u[0-9]{2}|\
                 (ann|Ann| ann|ann |O'Brien|%|_|\")";
    let subjects = prop::sample::select(vec!["rust", "go", "none"]);
    let ids = COMMENTS.map(|(id, _)| id);
    let ids = prop::sample::select([&ids[..], &[0, 8, i64::MIN]].concat());
    let mut model: BTreeMap<_, BTreeSet<String>> =
        COMMENTS.map(|comment| (comment, BTreeSet::new())).into();
    let seed = "INSERT INTO likes (comment_id, user_id) WITH RECURSIVE n (n) \
                AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1500) \
                SELECT 1, 'seed ' || n FROM n";
    fixture.run(seed).await;
    let seed = "UPDATE comment_index SET like_count = 1500 WHERE id = 1";
    fixture.run(seed).await;
    let seeds = (1..=1500).map(|n| format!("seed {n}"));
    model.insert((1, "rust"), seeds.collect());
    let mut deleted = BTreeSet::from([7]);
    fixture.run(&format!("{DELETE} WHERE id = 7")).await;
    let popular = (0..300).map(|n| ("rust", 1, format!("user {}", n % 150)));
    let calls = generated((subjects, ids, users));
    let again = calls.clone();
    let mut before = fixture.other_columns().await;
    for (n, (on, id, user)) in
        calls.into_iter().chain(again).chain(popular).enumerate()
    {
        if n == 200 {
            let after = fixture.other_columns().await;
            assert_eq!(after, before, "the other columns");
            fixture.run(&format!("{DELETE} WHERE id = 2")).await;
            deleted.insert(2);
            fixture.create_comment(8, "rust").await;
            model.insert((8, "rust"), BTreeSet::new());
            fixture.run(&other_like(1, "other")).await;
            let users = model.get_mut(&(1, "rust")).expect("a comment");
            users.insert("other".to_owned());
            before = fixture.other_columns().await;
        }
        let stored = model
            .get_mut(&(id, on))
            .filter(|_| !deleted.contains(&id))
            .map(|users| {
                users.insert(user.clone());
                i64::try_from(users.len()).expect("a small number")
            });
        let added = fixture.add(on, id, &user).await;
        let added = added.expect("expected a result, and no error");
        assert_eq!(added, stored, "likes of comment {id} on {on} by {user:?}");
    }
    for ((id, _), users) in model {
        let select = "SELECT user_id FROM likes WHERE comment_id = $1";
        let select = sqlx::query_scalar(select).bind(id);
        let stored: Vec<String> =
            select.fetch_all(&fixture.observer).await.expect("a table");
        assert_eq!(BTreeSet::from_iter(stored), users, "users who like {id}");
        let (likes, like_count) = fixture.counts(id).await;
        assert_eq!(like_count, likes, "like_count of comment {id}");
    }
    let after = fixture.other_columns().await;
    assert_eq!(after, before, "the other columns");
}

/// Drops a call of `add` after each number of polls: when it waits, and when it
/// has been woken. It is the call of a new user, of one whose like is stored, or
/// for another subject. Then the only connection of the pool must be usable.
async fn calls_are_dropped_at_every_await(fixture: &Fixture) {
    // SQLite does not reach an await at the same poll each time.
    const CALLS: [(&str, bool); 4] =
        [("rust", true), ("rust", true), ("rust", false), ("go", false)];
    let (mut users, mut probes) = (0, 0);
    for polls in 0..500 {
        let mut completed = 0;
        for (n, (on, is_new)) in [CALLS, CALLS].concat().into_iter().enumerate()
        {
            let is_woken = n < CALLS.len();
            users += i64::from(is_new);
            probes += 1;
            let user = format!("user {users}");
            let likes = (on == "rust").then_some(users);
            let case = format!(
                "a drop at poll {polls}, woken: {is_woken}, subject: {on}, \
                 new user: {is_new}"
            );
            fixture.pool_is_idle().await;
            let add = fixture.add(on, 1, &user);
            let added = result_within(polls, is_woken, add).await;
            if let Some(added) = added {
                assert_likes(&added, likes, &case);
                completed += 1;
            }
            fixture.next_caller_is_served(probes, &case).await;
            let added = fixture.add(on, 1, &user).await;
            assert_likes(&added, likes, &format!("the retry after {case}"));
        }
        if completed == 2 * CALLS.len() {
            return;
        }
    }
    panic!("expected `add` to complete within 500 polls");
}
