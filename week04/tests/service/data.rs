//! The data layer, on SQLite and on Postgres.

use lab::cancel::after_polls;
use sqlx::AnyPool;
use week04::data::{Database, SqlRepository};
use week04_biz::{
    Comment, CommentId, NewComment, Order, Place, Position, Query,
    Repository as _, StorageError,
};

use crate::common::{Storage, at, new_comment, new_subject, reply, subject};

/// Runs a test on both databases.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test(super::Storage::sqlite()).await;
                }
            )*
        }

        mod postgres {
            $(
                #[tokio::test]
                #[ignore = "needs postgres"]
                async fn $test() {
                    super::$test(super::Storage::postgres()).await;
                }
            )*
        }
    };
}

on_both!(
    a_comment_is_read_as_it_was_written,
    lists_are_complete_while_rows_with_equal_keys_come_and_go,
    a_request_id_creates_one_comment_also_concurrently,
    an_update_of_an_older_version_changes_nothing,
    a_deleted_comment_is_not_read_listed_or_counted,
    a_comment_of_another_subject_is_not_found,
    a_reply_to_a_missing_comment_is_not_created,
    a_dropped_write_happens_whole_or_not_at_all,
    a_full_pool_is_unavailable_and_not_a_failure,
);

/// A repository with the subject `rust`.
async fn prepared(storage: &Storage) -> (SqlRepository, Database) {
    let database = storage.open(4).await;
    let repository = SqlRepository::new(database.clone());
    let created = repository.create_subject(&new_subject("rust"), at(1)).await;
    assert!(created.expect("the database answers").is_some());
    (repository, database)
}

async fn create(
    repository: &SqlRepository,
    new: &NewComment,
    micros: i64,
) -> Comment {
    let created = repository.create_comment(new, at(micros)).await;
    created.expect("the database answers").expect("the subject exists")
}

/// Reads all pages of a list. Calls `between` after each.
async fn list(
    repository: &SqlRepository,
    query: &Query,
    size: u32,
    mut between: impl AsyncFnMut(usize),
) -> Vec<CommentId> {
    let mut ids = Vec::new();
    let mut after: Option<Position> = None;
    for page in 0.. {
        let comments = repository.list(query, after, size).await;
        let comments = comments.expect("the database answers");
        ids.extend(comments.iter().map(|comment| comment.id));
        assert!(page < 500, "a list of about 40 comments has no last page");
        match comments.last() {
            Some(last) => after = Some(last.position(query.order)),
            None => break,
        }
        between(page).await;
    }
    ids
}

fn all(order: Order) -> Query {
    Query { subject: subject("rust"), reply_to: None, order }
}

async fn a_comment_is_read_as_it_was_written(storage: Storage) {
    let (repository, _) = prepared(&storage).await;
    let texts = ["x", "\"'%_\\;--", "多字节\u{1f600}\u{301}", "\u{7f}\r\n\t"];
    for (micros, text) in (i64::MIN / 2..).zip(texts) {
        let mut new = new_comment(text);
        new.labels = [(text.to_owned(), text.to_owned())].into();
        new.place = Some(Place {
            label: text.to_owned(),
            latitude: -90.0,
            longitude: 0.1 + 0.2,
        });
        new.request_id = Some(text.to_owned());
        let created = create(&repository, &new, micros).await;
        let read = repository.comment(&new.subject, created.id).await;
        assert_eq!(read.expect("the database answers"), Some(created));
    }
    let bare = create(&repository, &new_comment("bare"), i64::MAX).await;
    let read = repository.comment(&subject("rust"), bare.id).await;
    assert_eq!(read.expect("the database answers"), Some(bare));
}

async fn lists_are_complete_while_rows_with_equal_keys_come_and_go(
    storage: Storage,
) {
    let (repository, _) = prepared(&storage).await;
    let mut kept = Vec::new();
    // Ten comments at each of three points in time: many equal keys.
    for micros in [5, 6, 7] {
        for _ in 0..10 {
            let new = new_comment("kept");
            kept.push(create(&repository, &new, micros).await.id);
        }
    }
    let mut newest = kept.clone();
    newest.reverse();
    for (order, expected) in [
        (Order::Oldest, &kept),
        (Order::Newest, &newest),
        (Order::MostLiked, &newest),
    ] {
        for size in [1, 2, 7, 17, 130] {
            let mut others = Vec::new();
            let seen = list(&repository, &all(order), size, async |page| {
                // One row is created and one deleted, before and behind the
                // position of the list.
                let micros = if page % 2 == 0 { 1 } else { 9 };
                if page < 8 {
                    let new = new_comment("other");
                    let other = create(&repository, &new, micros).await;
                    others.push(other.id);
                }
                if page % 3 == 2
                    && let Some(id) = others.pop()
                {
                    let subject = subject("rust");
                    let deleted = repository.delete(&subject, id, at(10)).await;
                    assert!(deleted.expect("the database answers"));
                }
            })
            .await;
            let kept_and_seen: Vec<_> =
                seen.iter().filter(|id| kept.contains(id)).copied().collect();
            assert_eq!(
                &kept_and_seen, expected,
                "pages of {size} in the order {order:?}"
            );
            let mut unique = seen.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), seen.len(), "a comment is listed twice");
            for id in others {
                let deleted =
                    repository.delete(&subject("rust"), id, at(10)).await;
                assert!(deleted.expect("the database answers"));
            }
        }
    }
}

async fn a_request_id_creates_one_comment_also_concurrently(storage: Storage) {
    let (repository, database) = prepared(&storage).await;
    let mut new = new_comment("once");
    new.request_id = Some("7".to_owned());
    let mut tasks = tokio::task::JoinSet::new();
    for micros in 0..16 {
        let (repository, new) = (repository.clone(), new.clone());
        tasks.spawn(async move { create(&repository, &new, micros).await });
    }
    let created = tasks.join_all().await;
    assert!(
        created.iter().all(|comment| *comment == created[0]),
        "expected one comment for all requests, and got {created:?}"
    );
    let count = count(database.pool(), "SELECT comment_count FROM subjects");
    assert_eq!(count.await, 1);
    // The id of another author's request is another id.
    new.author = week04_biz::UserId::new("author", "bob").expect("it is valid");
    assert_ne!(create(&repository, &new, 1).await.id, created[0].id);
}

async fn an_update_of_an_older_version_changes_nothing(storage: Storage) {
    let (repository, _) = prepared(&storage).await;
    let first = create(&repository, &new_comment("first"), 1).await;
    let second = Comment { text: "second".to_owned(), ..first.clone() };
    assert!(repository.update(&second).await.expect("it answers"));
    let third = Comment { text: "third".to_owned(), ..first.clone() };
    assert!(!repository.update(&third).await.expect("it answers"));
    let read = repository.comment(&first.subject, first.id).await;
    let read = read.expect("it answers").expect("it is there");
    assert_eq!((read.text.as_str(), read.version), ("second", 2));
}

async fn a_deleted_comment_is_not_read_listed_or_counted(storage: Storage) {
    let (repository, database) = prepared(&storage).await;
    let rust = subject("rust");
    let parent = create(&repository, &new_comment("parent"), 1).await;
    let child = create(&repository, &reply(parent.id, "child"), 2).await;
    let counts = async || {
        let read = repository.comment(&rust, parent.id).await;
        let replies = read.expect("it answers").map(|read| read.reply_count);
        let comments = "SELECT comment_count FROM subjects";
        (replies, count(database.pool(), comments).await)
    };
    assert_eq!(counts().await, (Some(1), 2));
    assert!(repository.delete(&rust, child.id, at(3)).await.expect("answers"));
    assert_eq!(counts().await, (Some(0), 1));
    assert!(!repository.delete(&rust, child.id, at(4)).await.expect("answers"));
    assert_eq!(counts().await, (Some(0), 1));
    let replies = Query { reply_to: Some(parent.id), ..all(Order::Newest) };
    let listed = repository.list(&replies, None, 9).await;
    assert_eq!(listed.expect("it answers"), []);
    assert!(!repository.update(&child).await.expect("it answers"));
    assert!(repository.delete(&rust, parent.id, at(5)).await.expect("answers"));
    assert_eq!(counts().await, (None, 0));
}

async fn a_comment_of_another_subject_is_not_found(storage: Storage) {
    let (repository, database) = prepared(&storage).await;
    let go = subject("go");
    let created = repository.create_subject(&new_subject("go"), at(1)).await;
    assert!(created.expect("it answers").is_some());
    let comment = create(&repository, &new_comment("on rust"), 1).await;
    let read = repository.comment(&go, comment.id).await;
    assert_eq!(read.expect("it answers"), None);
    assert!(!repository.delete(&go, comment.id, at(2)).await.expect("answers"));
    let moved = Comment { subject: go.clone(), ..comment.clone() };
    assert!(!repository.update(&moved).await.expect("it answers"));
    let new = NewComment { subject: go, ..reply(comment.id, "across") };
    let created = repository.create_comment(&new, at(3)).await;
    assert_eq!(created.expect("it answers"), None);
    let sum = "SELECT CAST(SUM(comment_count) AS BIGINT) FROM subjects";
    assert_eq!(count(database.pool(), sum).await, 1);
}

async fn a_reply_to_a_missing_comment_is_not_created(storage: Storage) {
    let (repository, database) = prepared(&storage).await;
    let new = reply(CommentId(404), "lost");
    let created = repository.create_comment(&new, at(1)).await;
    assert_eq!(created.expect("it answers"), None);
    assert_eq!(
        count(database.pool(), "SELECT comment_count FROM subjects").await,
        0
    );
}

async fn a_dropped_write_happens_whole_or_not_at_all(storage: Storage) {
    let (repository, database) = prepared(&storage).await;
    let rust = subject("rust");
    let kept = create(&repository, &new_comment("kept"), 1).await;
    let mut comments = 1;
    // The number of polls until a call is complete depends on the speed of the
    // database, so each number is tried several times.
    let polls = (1..=20).chain(1..=10);
    for (round, polls) in polls.enumerate() {
        // After each dropped call, four writes that must not be lost: one for
        // each connection.
        let mut new = reply(kept.id, "reply");
        new.request_id = Some(format!("{round}"));
        let result =
            after_polls(polls, repository.create_comment(&new, at(2))).await;
        let mut update = repository
            .comment(&rust, kept.id)
            .await
            .expect("it answers")
            .expect("it is there");
        update.text = format!("text {round}");
        let _ = after_polls(polls, repository.update(&update)).await;
        let deleted = create(&repository, &new_comment("deleted"), 3).await;
        let _ = after_polls(polls, repository.delete(&rust, deleted.id, at(4)))
            .await;
        for _ in 0..4 {
            create(&repository, &new_comment("later"), 5).await;
        }
        comments += 4;
        // A retry finds what the dropped call has done, or does it.
        create(&repository, &new, 2).await;
        check_counts(&database).await;
        if let Some(result) = result {
            assert!(result.expect("it answers").is_some());
        }
    }
    // All writes are there for a client with a connection of its own.
    let other = storage.open(1).await;
    let later = "SELECT COUNT(*) FROM comment_content WHERE text = 'later'";
    assert_eq!(count(other.pool(), later).await, comments - 1);
    check_counts(&other).await;
}

/// Compares the stored counts with the rows.
async fn check_counts(database: &Database) {
    for difference in [
        "SELECT COUNT(*) FROM comment_index i WHERE NOT EXISTS
            (SELECT 1 FROM comment_content c WHERE c.comment_id = i.id)",
        "SELECT COUNT(*) FROM subjects s WHERE comment_count <>
            (SELECT COUNT(*) FROM comment_index i
             WHERE i.subject_id = s.id AND i.delete_time IS NULL)",
        "SELECT COUNT(*) FROM comment_index p WHERE reply_count <>
            (SELECT COUNT(*) FROM comment_index i
             WHERE i.reply_to = p.id AND i.delete_time IS NULL)",
    ] {
        let rows = count(database.pool(), difference).await;
        assert_eq!(rows, 0, "{difference}");
    }
}

async fn a_full_pool_is_unavailable_and_not_a_failure(storage: Storage) {
    let limits = week04::data::Limits {
        max_connections: 1,
        acquire_timeout: std::time::Duration::from_secs(1),
    };
    let database = Database::open(storage.url(), None, limits).await;
    let database = database.expect("the database can be opened");
    let repository = SqlRepository::new(database.clone());
    let transaction = database.begin().await.expect("it answers");
    let read = repository.subject(&subject("rust")).await;
    assert!(
        matches!(read, Err(StorageError::Unavailable(_))),
        "expected Unavailable, and got {read:?}"
    );
    transaction.rollback().await.expect("it answers");
    let read = repository.subject(&subject("rust")).await;
    assert_eq!(read.expect("the connection is free again"), None);
}

async fn count(pool: &AnyPool, select: &'static str) -> i64 {
    let counted = sqlx::query_scalar(select).fetch_one(pool).await;
    counted.expect("the database answers")
}
