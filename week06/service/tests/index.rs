//! The page index on a real Redis.

mod reading;

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lab::servers::Redis;
use redis::AsyncCommands as _;
use week06_service::comment::Comment;
use week06_service::index::{CHANNEL, Index, Lease, Lookup};
use week06_service::page::Cursor;

use reading::{Proxy, comment, comment_at, connection, ids, index, until};

const SUBJECT: u64 = 7;

async fn miss(index: &Index) -> Lease {
    match index.page(SUBJECT, None, 3).await {
        Lookup::Miss(lease) => lease,
        other => panic!("expected a miss, got {other:?}"),
    }
}

/// Returns the ids of a hit.
async fn hit(index: &Index, before: Option<Cursor>, limit: usize) -> Vec<u64> {
    match index.page(SUBJECT, before, limit).await {
        Lookup::Hit(page) => ids(&page),
        other => panic!("expected a hit, got {other:?}"),
    }
}

async fn is_bypassed(index: &Index, before: Option<Cursor>) -> bool {
    matches!(index.page(SUBJECT, before, 3).await, Lookup::Bypass)
}

/// Fills the index with the newest of these comments.
async fn fill(index: &Index, mut comments: Vec<Comment>) {
    comments.sort_by_key(|c| std::cmp::Reverse(Cursor::of(c)));
    comments.truncate(index.size());
    let lease = miss(index).await;
    assert!(index.fill(SUBJECT, &lease, &comments).await);
}

async fn add(index: &Index, comment: &Comment) {
    index.refresh(SUBJECT, &[comment], true).await;
}

/// Returns the names of all keys of pages.
async fn keys(url: &str) -> Vec<String> {
    let mut keys: Vec<String> =
        connection(url).await.keys("comments:{7}:*").await.expect("it works");
    keys.sort();
    keys
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_miss_is_filled_and_then_hit() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    fill(&index, vec![comment(1), comment(2), comment(3)]).await;
    assert_eq!(hit(&index, None, 2).await, [3, 2]);
    // There are no more, so a short page is complete.
    assert_eq!(hit(&index, None, 9).await, [3, 2, 1]);
    let before = Some(Cursor::of(&comment(3)));
    assert_eq!(hit(&index, before, 9).await, [2, 1]);
    let before = Some(Cursor::of(&comment(1)));
    assert_eq!(hit(&index, before, 9).await, [0_u64; 0]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_page_beyond_the_index_is_bypassed() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    fill(&index, (1..=9).map(comment).collect()).await;
    assert_eq!(hit(&index, None, 5).await, [9, 8, 7, 6, 5]);
    let before = |id| Some(Cursor::of(&comment(id)));
    assert_eq!(hit(&index, before(8), 3).await, [7, 6, 5]);
    assert!(is_bypassed(&index, before(7)).await);
    assert!(is_bypassed(&index, before(1)).await);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn comments_of_one_millisecond_are_ordered_by_id() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    // As text, 10 is before 9.
    let same = [9, 10, 99, 100].map(|id| comment_at(id, 5000));
    fill(&index, same.to_vec()).await;
    assert_eq!(hit(&index, None, 9).await, [100, 99, 10, 9]);
    for (before, expected) in
        [(100, vec![99, 10, 9]), (99, vec![10, 9]), (11, vec![10, 9])]
    {
        let before = Cursor { created_ms: 5000, id: before };
        assert_eq!(hit(&index, Some(before), 9).await, expected);
        let first = &expected[..1];
        assert_eq!(hit(&index, Some(before), 1).await, first);
    }
    // Also when they are added, and when the set is trimmed.
    for id in [8, 11, 101] {
        add(&index, &comment_at(id, 5000)).await;
    }
    assert_eq!(hit(&index, None, 5).await, [101, 100, 99, 11, 10]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn ids_and_times_of_63_bits_keep_their_order() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let large = 1 << 62;
    let comments: Vec<_> =
        (0..4).map(|n| comment_at(large + n, 1_800_000_000_000)).collect();
    fill(&index, comments).await;
    let before = Cursor { created_ms: 1_800_000_000_000, id: large + 2 };
    assert_eq!(hit(&index, Some(before), 9).await, [large + 1, large]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_write_adds_to_a_page_and_creates_none() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    add(&index, &comment(1)).await;
    assert_eq!(keys(&redis.url()).await, [""; 0]);

    fill(&index, (1..=4).map(comment).collect()).await;
    add(&index, &comment(5)).await;
    assert_eq!(hit(&index, None, 5).await, [5, 4, 3, 2, 1]);
    // The sixth does not fit.
    add(&index, &comment(6)).await;
    assert_eq!(hit(&index, None, 5).await, [6, 5, 4, 3, 2]);
    let before = Some(Cursor::of(&comment(3)));
    assert!(is_bypassed(&index, before).await, "the oldest was trimmed");
    // Its body is trimmed, too.
    let key = &keys(&redis.url()).await[0];
    let bodies: usize = connection(&redis.url()).await.hlen(key).await.unwrap();
    assert_eq!(bodies, 6, "five bodies, and whether they are all");
    // The same comment again changes nothing.
    add(&index, &comment(6)).await;
    assert_eq!(hit(&index, None, 5).await, [6, 5, 4, 3, 2]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_late_comment_is_not_added_below_a_trimmed_page() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    // 4 is in the database, and not in the index.
    fill(&index, [4, 5, 6, 7, 8, 9].map(comment).to_vec()).await;
    let late = comment_at(100, Cursor::of(&comment(3)).created_ms);
    add(&index, &late).await;
    let before = Some(Cursor::of(&comment(8)));
    assert_eq!(hit(&index, before, 3).await, [7, 6, 5]);
    let before = Some(Cursor::of(&comment(6)));
    assert!(is_bypassed(&index, before).await, "4 is before 100");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_repeated_comment_deletes_the_page() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    fill(&index, vec![comment(1)]).await;
    // The database has kept the time of the first attempt.
    let again = comment_at(1, 9000);
    index.refresh(SUBJECT, &[&again], false).await;
    miss(&index).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_fill_from_before_a_write_stores_nothing() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let slow = miss(&index).await;
    let old = [comment(1)];
    // Meanwhile, another reader gets the same lease.
    assert_eq!(miss(&index).await, slow);

    add(&index, &comment(2)).await;
    assert!(!index.fill(SUBJECT, &slow, &old).await);
    let fast = miss(&index).await;
    assert_ne!(fast, slow);
    assert!(index.fill(SUBJECT, &fast, &[comment(2), comment(1)]).await);
    // Neither over a page nor after it was deleted.
    assert!(!index.fill(SUBJECT, &slow, &old).await);
    assert_eq!(hit(&index, None, 9).await, [2, 1]);
    index.refresh(SUBJECT, &[&comment(2)], false).await;
    assert!(!index.fill(SUBJECT, &slow, &old).await);
    assert!(!index.fill(SUBJECT, &fast, &old).await);
    miss(&index).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn every_key_expires_and_pages_not_together() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let mut connection = connection(&redis.url()).await;
    let mut ttls = Vec::new();
    for subject in 0..20 {
        let Lookup::Miss(lease) = index.page(subject, None, 1).await else {
            panic!("nothing is stored");
        };
        let comment = Comment { subject, ..comment(1) };
        assert!(index.fill(subject, &lease, &[comment]).await);
        let keys: Vec<String> =
            connection.keys(format!("comments:{{{subject}}}:*")).await.unwrap();
        assert_eq!(keys.len(), 2, "{keys:?}");
        let mut both = Vec::new();
        for key in keys {
            both.push(connection.pttl::<_, i64>(key).await.unwrap());
        }
        assert!(both.iter().all(|ttl| (89_000..=110_000).contains(ttl)));
        assert!(both[0].abs_diff(both[1]) < 100, "{both:?}");
        ttls.push(both[0]);
    }
    let (min, max) = (ttls.iter().min().unwrap(), ttls.iter().max().unwrap());
    assert!(max - min > 5_000, "from {min} to {max} ms");

    // A write does not prolong it, and the lease expires, too.
    let key = format!("comments:{{{}}}", SUBJECT + 100);
    index.page(SUBJECT + 100, None, 1).await;
    let lease: Vec<String> = connection.keys(format!("{key}*")).await.unwrap();
    let ttl: i64 = connection.pttl(&lease[0]).await.unwrap();
    assert!((1..=5_000).contains(&ttl), "{ttl} ms");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn an_empty_subject_is_stored_for_a_short_time() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    fill(&index, Vec::new()).await;
    assert_eq!(hit(&index, None, 3).await, [0_u64; 0]);
    // Its first comment is seen at once, and expires with it.
    add(&index, &comment(1)).await;
    assert_eq!(hit(&index, None, 3).await, [1]);
    for key in keys(&redis.url()).await {
        let ttl: i64 = connection(&redis.url()).await.pttl(key).await.unwrap();
        assert!((1..=11_000).contains(&ttl), "{ttl} ms");
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn an_entry_that_does_not_decode_is_deleted() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let mut connection = connection(&redis.url()).await;
    let other = Comment { subject: 8, ..comment(2) }.to_bytes();
    let bodies = [b"{".to_vec(), b"\xff\xfe".to_vec(), b"{}".to_vec(), other];
    for body in bodies {
        fill(&index, vec![comment(1), comment(2)]).await;
        let key = &keys(&redis.url()).await[0];
        let id = format!("{:020}", 2);
        let _: () = connection.hset(key, id, &body).await.unwrap();
        assert!(is_bypassed(&index, None).await, "{body:?}");
        assert_eq!(keys(&redis.url()).await, [""; 0], "{body:?}");
    }
    // A missing body, missing ids, and a key of another type.
    fill(&index, vec![comment(1)]).await;
    let key = keys(&redis.url()).await[0].clone();
    let _: () = connection.hdel(&key, format!("{:020}", 1)).await.unwrap();
    assert!(is_bypassed(&index, None).await);
    fill(&index, vec![comment(1)]).await;
    let ids = keys(&redis.url()).await[1].clone();
    let _: () = connection.del(&ids).await.unwrap();
    assert!(is_bypassed(&index, None).await);
    let _: () = connection.set(&key, "text").await.unwrap();
    assert!(is_bypassed(&index, None).await);
    miss(&index).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn reads_of_a_full_redis_are_bypassed_and_announce_no_change() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut changes = client.get_async_pubsub().await.unwrap();
    changes.subscribe(CHANNEL).await.unwrap();
    let mut changes = changes.into_on_message();

    let mut connection = connection(&redis.url()).await;
    let mut limit_memory = async |bytes: u64| {
        let mut config = redis::cmd("CONFIG");
        config.arg("SET").arg("maxmemory").arg(bytes);
        let _: () = config.query_async(&mut connection).await.unwrap();
    };
    limit_memory(1).await; // none is left for a lease
    for _ in 0..10 {
        assert!(is_bypassed(&index, None).await);
    }
    limit_memory(0).await;
    // A write does announce its change, after those of the reads.
    let other = Comment { subject: 8, ..comment(1) };
    index.refresh(8, &[&other], true).await;
    let first = changes.next().await.expect("redis runs");
    assert_eq!(first.get_payload(), Ok(8));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn pages_of_another_run_are_not_read() {
    let redis = Redis::start().expect("it starts");
    let proxy = Proxy::new(&redis.socket()).await;
    let index = index(&proxy.url).await;
    fill(&index, vec![comment(1)]).await;
    assert_eq!(hit(&index, None, 3).await, [1]);

    // Redis starts again, with all keys of an old snapshot.
    let restarted = Redis::start().expect("it starts");
    let (mut from, mut to) =
        (connection(&redis.url()).await, connection(&restarted.url()).await);
    for key in keys(&redis.url()).await {
        let dump: Vec<u8> =
            redis::cmd("DUMP").arg(&key).query_async(&mut from).await.unwrap();
        let mut restore = redis::cmd("RESTORE");
        restore.arg(&key).arg(100_000).arg(dump);
        let _: () = restore.query_async(&mut to).await.unwrap();
    }
    assert_eq!(keys(&restarted.url()).await.len(), 2);
    proxy.lead_to(&restarted.socket());
    until("the page is gone", async || {
        !matches!(index.page(SUBJECT, None, 3).await, Lookup::Bypass)
    })
    .await;
    miss(&index).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_page_whose_refresh_has_failed_is_not_read_again() {
    let redis = Redis::start().expect("it starts");
    let proxy = Proxy::new(&redis.socket()).await;
    let index = index(&proxy.url).await;
    fill(&index, vec![comment(1)]).await;

    proxy.cut();
    add(&index, &comment(2)).await;
    assert_eq!(index.missed(), 1);
    proxy.lead_to(&redis.socket());
    // The server is the same, and still has the old page.
    let mut bypassed = 0;
    loop {
        match index.page(SUBJECT, None, 3).await {
            Lookup::Bypass => bypassed += 1,
            Lookup::Miss(_) => break,
            Lookup::Hit(page) => panic!("an old page: {page:?}"),
        }
        tokio::task::yield_now().await;
    }
    assert!(bypassed > 0);
    until("it is repaired", async || index.missed() == 0).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_silent_redis_costs_a_timeout_and_then_nothing() {
    let redis = Redis::start().expect("it starts");
    let proxy = Proxy::new(&redis.socket()).await;
    let index = index(&proxy.url).await;
    fill(&index, vec![comment(1)]).await;

    proxy.silence();
    let mut times = Vec::new();
    for _ in 0..40 {
        let start = Instant::now();
        assert!(is_bypassed(&index, None).await);
        times.push(start.elapsed());
    }
    let slowest = times.iter().max().unwrap();
    // The timeout is 200 ms.
    assert!(*slowest < Duration::from_millis(600), "{slowest:?}");
    let fast = times.iter().filter(|time| time.as_millis() < 50).count();
    assert!(fast > 20, "{fast} of 40 reads did not wait: {times:?}");

    proxy.lead_to(&redis.socket());
    until("it is hit again", async || {
        matches!(index.page(SUBJECT, None, 3).await, Lookup::Hit(_))
    })
    .await;
}
