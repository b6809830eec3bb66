use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::future::poll_fn;
use std::iter;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use tokio::task::yield_now;
use week04::layers::biz::{LikeRepository, Likes};
use week04_biz::{Cause, CommentId, Error, StorageError, SubjectId, UserId};

use self::fixture::{Added, COMMENTS, Fixture, subject};

#[path = "layers/dependency_rule.rs"]
mod dependency_rule;

#[path = "layers/fixture.rs"]
mod fixture;

mod use_case {
    use super::*;

    #[tokio::test]
    async fn a_like_calls_the_repository_once_and_returns_its_answer() {
        let answers = any::<Option<i64>>();
        for ((subject, id, user), answer) in generated((call(), answers)) {
            if UserId::new("user", &user).is_err() {
                continue;
            }
            let call = (subject, id, user);
            let (liked, calls) = like(&call, move || Ok(answer)).await;
            assert_eq!(calls, [call], "the calls of the repository");
            let liked = match liked {
                Ok(likes) => Some(likes),
                Err(Error::NotFound { kind, id: missing }) => {
                    assert_eq!(kind, "comment", "the kind of the error");
                    assert_eq!(missing, id.to_string(), "the id of the error");
                    None
                }
                Err(other) => panic!("answer {answer:?}: got {other:?}"),
            };
            assert_eq!(liked, answer, "the number, or None for NotFound");
        }
    }

    #[tokio::test]
    async fn a_like_with_an_invalid_user_id_never_reaches_the_repository() {
        let mut invalid = vec![String::new(), "x".repeat(65), "\0".to_owned()];
        invalid.extend(generated(call()).into_iter().map(|call| call.2));
        invalid.retain(|user| UserId::new("user", user).is_err());
        for user in invalid {
            let call = (subject("rust"), 1, user);
            let (liked, calls) = like(&call, || Ok(Some(1))).await;
            let user = call.2;
            assert_eq!(calls, [], "the calls of the repository for {user:?}");
            let field = match liked {
                Err(Error::Invalid(invalid)) => Ok(invalid.field),
                other => Err(other),
            };
            let field = field.expect("expected Error::Invalid");
            assert_eq!(field, "user", "the invalid field, for {user:?}");
        }
    }

    #[tokio::test]
    async fn a_storage_error_keeps_its_kind_and_cause_and_is_not_retried() {
        let causes: [fn() -> Cause; 6] = [
            || sqlx::Error::RowNotFound.into(),
            || sqlx::Error::PoolTimedOut.into(),
            || std::io::Error::from(std::io::ErrorKind::NotFound).into(),
            || "there is no comment 7".into(),
            || StorageError::Unavailable("the storage failed".into()).into(),
            || Error::NotFound { kind: "comment", id: "7".to_owned() }.into(),
        ];
        let call = (subject("rust"), 7, "ann".to_owned());
        for cause in causes {
            let expected = format!("{:?}", cause());
            let fail = move || Err(StorageError::Unavailable(cause()));
            let (unavailable, first) = like(&call, fail).await;
            let fail = move || Err(StorageError::Failed(cause()));
            let (failed, second) = like(&call, fail).await;
            for (kind, liked) in [("Un", unavailable), ("In", failed)] {
                let seen = match (kind, liked) {
                    ("Un", Err(Error::Unavailable(cause))) => cause,
                    ("In", Err(Error::Internal(cause))) => cause,
                    (_, other) => {
                        panic!("{kind}… with {expected}, got {other:?}")
                    }
                };
                assert_eq!(format!("{seen:?}"), expected, "the cause");
                let is_sqlx = cause().is::<sqlx::Error>();
                assert_eq!(seen.is::<sqlx::Error>(), is_sqlx, "its type");
            }
            assert_eq!(first.len(), 1, "the calls if the storage is away");
            assert_eq!(second.len(), 1, "the calls if the storage fails");
        }
    }

    #[tokio::test]
    async fn the_business_layer_runs_on_a_fake_and_names_no_outer_layer() {
        let call = (subject("rust"), 1, "ann".to_owned());
        assert_eq!(like(&call, || Ok(Some(1))).await.0.ok(), Some(1));

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
        fixture
            .run(
                "CREATE TABLE late (id TEXT REFERENCES subjects (id) \
                     DEFERRABLE INITIALLY DEFERRED)",
            )
            .await;
        for (n, (event, fail)) in (1..).zip([
            ("BEFORE INSERT ON likes", "SELECT RAISE(ABORT, 'on purpose')"),
            (
                "BEFORE UPDATE ON comment_index",
                "SELECT RAISE(ABORT, 'on purpose')",
            ),
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
            assert_eq!(added.ok(), Some(Some(n)), "the same call again");
        }
    }

    #[tokio::test]
    async fn an_error_says_whether_a_retry_may_succeed() {
        let fixture = Fixture::sqlite(1).await;
        let pool = fixture.database.pool();
        let mut only = pool.acquire().await.expect("the pool is idle");
        let no_wait = sqlx::query("PRAGMA busy_timeout = 0");
        no_wait.execute(&mut *only).await.expect("a known pragma");
        let added = fixture.add("rust", 1, "ann").await;
        assert_failure(added, true, "an exhausted pool");
        drop(only);

        let mut writer = fixture.observer.acquire().await.expect("it is idle");
        let lock = sqlx::query("BEGIN IMMEDIATE");
        lock.execute(&mut *writer).await.expect("no other writer");
        let added = fixture.add("rust", 1, "ann").await;
        assert_failure(added, true, "a locked database");
        writer.close().await.expect("an open connection");

        let added = fixture.add("rust", 1, "ann").await;
        assert_eq!(added.ok(), Some(Some(1)), "the result after that");
        fixture.run("DROP TABLE likes").await;
        let added = fixture.add("rust", 1, "bob").await;
        assert_failure(added, false, "a missing table");
        fixture.database.close().await;
        let added = fixture.add("rust", 1, "bob").await;
        assert_failure(added, true, "a closed pool");
    }

    #[tokio::test]
    async fn a_call_dropped_at_any_await_leaves_no_half_like_and_no_lock() {
        calls_are_dropped_at_every_await(&Fixture::sqlite(1).await).await;
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
        let lock = "UPDATE comment_index SET like_count = like_count";
        let liked = fixture.adds_during(lock, 1, &users).await;
        assert_eq!(sorted(liked), [1, 2, 3, 4, 5], "five users");
        assert_eq!(fixture.counts(1).await, (5, 5), "likes, like_count");
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn likes_of_one_user_that_wait_for_a_row_lock_count_once() {
        let fixture = Fixture::postgres(5).await;
        let ann = vec!["ann".to_owned(); 5];
        let lock = "UPDATE comment_index SET like_count = like_count";
        let liked = fixture.adds_during(lock, 2, &ann).await;
        assert_eq!(sorted(liked), [1; 5], "five likes of one user");
        assert_eq!(fixture.counts(2).await, (1, 1), "likes, like_count");
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_comment_deleted_while_a_like_waits_gets_no_like() {
        let fixture = Fixture::postgres(5).await;
        let delete = "UPDATE comment_index SET delete_time = 1";
        let users = ["a", "b", "c", "d", "d"].map(str::to_owned);
        for added in fixture.adds_during(delete, 1, &users).await {
            let added = added.expect("expected None, and no error");
            assert_eq!(added, None, "the likes of a deleted comment");
        }
        assert_eq!(fixture.counts(1).await, (0, 0), "likes, like_count");
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn each_sqlstate_says_whether_a_retry_may_succeed() {
        let fixture = Fixture::postgres(1).await;
        let mut n = 0;
        for (retry, codes) in [
            (true, "40001 40P01 53300 55P03 57014 57P01 57P03 08006"),
            (false, "23505 23514 22012 42501 XX001 XX002 P0001 02000"),
        ] {
            for code in codes.split(' ') {
                fixture
                    .run(&format!(
                        "CREATE OR REPLACE FUNCTION fails() RETURNS trigger \
                     LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION \
                     'on purpose' USING ERRCODE = '{code}'; END $$"
                    ))
                    .await;
                for (kind, event) in [
                    ("TRIGGER", "BEFORE INSERT ON likes"),
                    ("TRIGGER", "BEFORE UPDATE ON comment_index"),
                    (
                        "CONSTRAINT TRIGGER",
                        "AFTER INSERT ON likes DEFERRABLE INITIALLY DEFERRED",
                    ),
                ] {
                    let on = format!("CREATE {kind} fails {event}");
                    let each = "FOR EACH ROW EXECUTE FUNCTION fails()";
                    fixture.run(&format!("{on} {each}")).await;
                    let added = fixture.add("rust", 1, "ann").await;
                    assert_failure(added, retry, &format!("{code}, {event}"));
                    assert_eq!(fixture.counts(1).await, (n, n), "after {on}");
                    let table = event.split(' ').nth(3).unwrap_or_default();
                    fixture
                        .run(&format!("DROP TRIGGER fails ON {table}"))
                        .await;
                }
                n += 1;
                let added = fixture.add("rust", 1, code).await;
                assert_eq!(added.ok(), Some(Some(n)), "the next like");
            }
        }
    }

    #[tokio::test]
    #[ignore = "needs postgres"]
    async fn a_call_dropped_at_any_await_leaves_no_transaction_on_postgres() {
        calls_are_dropped_at_every_await(&Fixture::postgres(1).await).await;
    }
}

/// Likes and deletes comments in a generated order, and compares every result,
/// and in the end every row, with a model.
async fn likes_match_a_model(fixture: &Fixture) {
    let users = "[ -~é用]{1,64}|(ann|Ann| ann|ann |O'Brien|%|_|\")|u[0-9]{2}";
    let users = users.prop_filter("not blank", |it| !it.is_empty());
    let subjects = prop::sample::select(vec!["rust", "go", "none"]);
    let ids = COMMENTS.map(|(id, _)| id);
    let ids = prop::sample::select([&ids[..], &[0, 8, i64::MIN]].concat());
    let before = fixture.other_columns().await;
    let mut model: BTreeMap<_, _> =
        COMMENTS.map(|comment| (comment, BTreeSet::new())).into();
    let mut deleted = BTreeSet::from([7]);
    fixture.run("UPDATE comment_index SET delete_time = 1 WHERE id = 7").await;
    let popular = (0..300).map(|n| ("rust", 1, format!("user {}", n % 150)));
    let calls = generated((subjects, ids, users)).into_iter().chain(popular);
    for (n, (on, id, user)) in calls.enumerate() {
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
        if n == 200 {
            deleted.insert(2);
            let delete =
                "UPDATE comment_index SET delete_time = 1 WHERE id = 2";
            fixture.run(delete).await;
        }
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
    assert_eq!(after, before, "the other columns of the comments");
}

/// Drops a call of `add` after each number of polls: when it waits, and when it
/// has been woken. Then the only connection of the pool must be usable.
async fn calls_are_dropped_at_every_await(fixture: &Fixture) {
    let mut users = 0;
    for polls in 0..500 {
        let mut completed = 0;
        for is_woken in [false, true] {
            users += 1;
            let user = format!("user {users}");
            let case = format!("a drop at poll {polls}, woken: {is_woken}");
            let mut add = Box::pin(fixture.add("rust", 1, &user));
            let mut pending = 0;
            let done = poll_fn(|context| {
                if pending == polls {
                    return Poll::Ready(false);
                }
                if add.as_mut().poll(context).is_ready() {
                    return Poll::Ready(true);
                }
                pending += 1;
                if pending == polls && !is_woken {
                    return Poll::Ready(false);
                }
                Poll::Pending
            });
            completed += u8::from(done.await);
            drop(add);
            fixture.next_caller_is_served(users, &case).await;
            let added = fixture.add("rust", 1, &user).await;
            assert_eq!(added.ok(), Some(Some(users)), "the retry after {case}");
        }
        if completed == 2 {
            return;
        }
    }
    panic!("expected `add` to complete within 500 polls");
}

/// The arguments of `like`.
type Call = (SubjectId, i64, String);

/// A storage that records its calls.
struct Fake<F> {
    calls: Arc<Mutex<Vec<Call>>>,
    answer: F,
}

impl<F> LikeRepository for Fake<F>
where
    F: Fn() -> Added + Send + Sync + 'static,
{
    async fn add(
        &self,
        subject: &SubjectId,
        comment: CommentId,
        user: &UserId,
    ) -> Added {
        let call = (subject.clone(), comment.0, user.as_str().to_owned());
        self.calls.lock().unwrap().push(call);
        yield_now().await;
        (self.answer)()
    }
}

/// Calls `like` on a fake. Returns its result and the calls of the fake.
async fn like<F>(
    (on, id, user): &Call,
    answer: F,
) -> (Result<i64, Error>, Vec<Call>)
where
    F: Fn() -> Added + Send + Sync + 'static,
{
    let calls = Arc::default();
    let likes = Likes::new(Fake { calls: Arc::clone(&calls), answer });
    let liked = likes.like(on, CommentId(*id), user).await;
    let calls = std::mem::take(&mut *calls.lock().unwrap());
    (liked, calls)
}

/// Generates calls with any comment and any text as the user's id.
fn call() -> impl Strategy<Value = Call> {
    let on = "[a-z0-9][a-z0-9-]{0,62}".prop_map(|id| subject(&id));
    (on, any::<i64>(), prop_oneof!["\\PC{1,66}", "[ -~]{0,64}", "(?s).{1,9}"])
}

/// Generates 200 values, always the same.
fn generated<S: Strategy>(strategy: S) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    let mut next = || strategy.new_tree(&mut runner).map(|tree| tree.current());
    (0..200).map(|_| next().expect("a value")).collect()
}

/// Checks the kind of an error, and that it keeps the driver's error.
#[track_caller]
fn assert_failure(added: Added, may_retry: bool, case: &str) {
    let error = added.expect_err(case);
    let is_unavailable = matches!(error, StorageError::Unavailable(_));
    assert_eq!(is_unavailable, may_retry, "Unavailable? {case}: {error:?}");
    let mut chain = iter::successors(error.source(), |&error| error.source());
    let is_kept = chain.any(|error| error.is::<sqlx::Error>());
    assert!(is_kept, "no sqlx::Error in the source chain, {case}: {error:?}");
}

#[track_caller]
fn sorted(liked: Vec<Added>) -> Vec<i64> {
    let number = |liked: Result<_, _>| {
        let likes: Option<i64> = liked.expect("expected no error");
        likes.expect("expected a number of likes, got None")
    };
    let mut numbers: Vec<_> = liked.into_iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}
