//! The store on SQLite, and the same tests on Postgres.

use lab::servers::Postgres;
use sqlx::Row as _;
use week06_service::comment::{Comment, MAX_CHARS};
use week06_service::store::{InsertError, Inserted, Store};

fn comment(id: u64, subject: u64) -> Comment {
    let text = format!("text {id}");
    Comment { id, subject, author: 9, text, created_ms: id / 2 }
}

/// Runs `test` with an empty SQLite file.
async fn on_sqlite(test: impl AsyncFnOnce(Store)) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("comments.db").display());
    let store = Store::connect(&url).await.unwrap();
    test(store.clone()).await;
    store.close().await;
}

async fn on_postgres(test: impl AsyncFnOnce(Store)) {
    let server = Postgres::start().unwrap();
    let store = Store::connect(&server.url()).await.unwrap();
    test(store.clone()).await;
    store.close().await;
}

macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::on_sqlite(super::$name).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            #[ignore = "needs postgres"]
            async fn $name() {
                super::on_postgres(super::$name).await;
            })*
        }
    };
}

on_both! {
    a_repeated_batch_changes_nothing
    comments_of_a_subject_arrive_in_the_order_of_the_batch
    pages_contain_each_comment_once_and_newest_first
    the_refused_comment_is_found_at_every_index
    overlapping_batches_at_the_same_time_all_succeed
    a_dropped_insert_stores_all_or_nothing
}

async fn rows(store: &Store) -> i64 {
    let count = "SELECT COUNT(*) FROM comment";
    sqlx::query_scalar(count).fetch_one(store.pool()).await.unwrap()
}

async fn a_repeated_batch_changes_nothing(store: Store) {
    for len in [0, 1, 17, 512, 1500] {
        let first = 10_000 * len as u64;
        let batch: Vec<_> =
            (first..).take(len).map(|id| comment(id, id % 3)).collect();
        let inserted = store.insert(&batch).await.unwrap();
        assert_eq!(inserted, Inserted { new: len, repeated: 0 });
        let inserted = store.insert(&batch).await.unwrap();
        assert_eq!(inserted, Inserted { new: 0, repeated: len });
    }
    let mut twice = vec![comment(1, 1), comment(1, 1)];
    let inserted = store.insert(&twice).await.unwrap();
    assert_eq!(inserted, Inserted { new: 1, repeated: 1 });
    twice[1].id = 2;
    let inserted = store.insert(&twice).await.unwrap();
    assert_eq!(inserted, Inserted { new: 1, repeated: 1 });

    let mut counted = 0;
    for subject in 0..4 {
        counted += store.count(subject).await.unwrap();
    }
    assert_eq!(rows(&store).await, 2032);
    assert_eq!(counted, 2032, "the counters have counted something else");
}

async fn comments_of_a_subject_arrive_in_the_order_of_the_batch(store: Store) {
    let id = |i: u64| (i * 7919) % 1009; // in no order
    let batch: Vec<_> = (0..1000).map(|i| comment(id(i), i % 3)).collect();
    for part in batch.chunks(300) {
        store.insert(part).await.unwrap();
    }
    for subject in 0..3 {
        let select =
            "SELECT id FROM comment WHERE subject = $1 ORDER BY arrival";
        let query = sqlx::query(select).bind(subject);
        let rows = query.fetch_all(store.pool()).await.unwrap();
        let arrived: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let sent = batch.iter().filter(|c| c.subject as i64 == subject);
        let sent: Vec<_> = sent.map(|c| c.id as i64).collect();
        assert_eq!(arrived, sent);
    }
}

async fn pages_contain_each_comment_once_and_newest_first(store: Store) {
    let batch: Vec<_> = (0..100).map(|id| comment(id, id % 2)).collect();
    store.insert(&batch).await.unwrap();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = store.page(1, before, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some((last.created_ms, last.id));
        seen.extend(page);
    }
    let mut expected: Vec<_> =
        batch.into_iter().filter(|c| c.subject == 1).collect();
    expected.reverse();
    assert_eq!(seen, expected);
    let all = store.page(1, Some((u64::MAX, u64::MAX)), 100).await.unwrap();
    assert_eq!(all, expected);
    assert_eq!(store.page(7, None, 7).await.unwrap(), []);
    assert_eq!(store.count(u64::MAX).await.unwrap(), 0);
}

async fn the_refused_comment_is_found_at_every_index(store: Store) {
    let long = "评".repeat(MAX_CHARS + 1);
    for (case, len) in [1, 2, 3, 5, 8].into_iter().enumerate() {
        for bad in 0..len {
            let mut batch: Vec<_> =
                (0..len).map(|i| comment(i, 9 - i)).collect();
            match (case as u64 + bad) % 3 {
                0 => batch[bad as usize].text = long.clone(),
                1 => batch[bad as usize].text.push('\0'),
                _ => batch[bad as usize].id = 1 << 63,
            }
            match store.insert(&batch).await {
                Err(InsertError::Rejected { index, .. }) => {
                    assert_eq!(index as u64, bad);
                }
                other => panic!("expected `Rejected`, got {other:?}"),
            }
            assert_eq!(rows(&store).await, 0, "a part of the batch is stored");
        }
    }
    let longest = "评".repeat(MAX_CHARS);
    let longest = Comment { text: longest, ..comment(1, 1) };
    store.insert(&[longest]).await.unwrap();
}

async fn overlapping_batches_at_the_same_time_all_succeed(store: Store) {
    let batch: Vec<_> = (0..600).map(|id| comment(id, id % 7)).collect();
    let inserts = (0..8).map(|i| {
        let (store, mut part) =
            (store.clone(), batch[50 * i..50 * i + 250].to_vec());
        // As if the partitions of the subjects were read in another order.
        part.sort_by_key(|comment| (comment.subject + i as u64) % 7);
        tokio::spawn(async move { store.insert(&part).await.unwrap().new })
    });
    let mut new = 0;
    for insert in inserts.collect::<Vec<_>>() {
        new += insert.await.unwrap();
    }
    assert_eq!(new, 600);
    assert_eq!(rows(&store).await, 600);
}

async fn a_dropped_insert_stores_all_or_nothing(store: Store) {
    let batch: Vec<_> = (0..40).map(|id| comment(id, id % 3)).collect();
    for polls in 0..100 {
        let insert = store.insert(&batch);
        let done = lab::cancel::after_polls(polls, insert).await;
        let stored = rows(&store).await;
        assert!(
            [0, 40].contains(&stored),
            "{stored} rows of 40 are stored after {polls} polls"
        );
        if done.is_some() {
            break;
        }
    }
    store.insert(&batch).await.unwrap();
    assert_eq!(rows(&store).await, 40);
    assert_eq!(store.count(0).await.unwrap(), 14);
}
