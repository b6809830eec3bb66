//! The read path over SQLite, and with Redis.

mod reading;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lab::cancel::after_polls;
use lab::servers::Redis;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use week06_service::comment::Comment;
use week06_service::index::Index;
use week06_service::invalidation::{self, Bus, Change};
use week06_service::own::{self, Own, merge};
use week06_service::page::Cursor;
use week06_service::reads::{Config, Local, MAX_LIMIT, ReadError, Reads};
use week06_service::store::Store;
use week06_service::writes::Refresh;

use reading::{
    Counting, Database, MS, Proxy, comment, comment_at, connection, ids, index,
    redis_client, until,
};

const SUBJECT: u64 = 7;
const QUERIES: u32 = 4;

/// A read path without Redis and its database.
struct Path {
    reads: Reads,
    database: Arc<Counting>,
    _file: Database,
}

fn config(local_cache: bool, singleflight: bool) -> Config {
    let number = |n| NonZero::new(n).expect("it is not zero");
    let ttl = Duration::from_secs(100);
    let local = Local { hot_at: number(3), ttl };
    Config {
        local_cache: local_cache.then_some(local),
        singleflight,
        max_queries: NonZero::new(QUERIES).expect("it is not zero"),
        max_waiting: 100,
    }
}

async fn path(config: Config, index: Option<Index>) -> Path {
    let file = Database::new();
    let store = Store::connect(&file.url).await.expect("it is created");
    let database = Counting::new(store);
    let reads = Reads::new(Arc::clone(&database) as _, index, &config);
    Path { reads, database, _file: file }
}

impl Path {
    async fn ids(&self, before: Option<Cursor>, limit: usize) -> Vec<u64> {
        let page = self.reads.page(SUBJECT, before, limit).await;
        ids(&page.expect("the database works"))
    }

    /// Writes as the job does.
    async fn write(&self, refresh: &Refresh, comments: &[Comment]) {
        let written = self.database.store.insert(comments).await;
        refresh.written(comments, written.expect("it is written")).await;
    }

    fn refresh(&self, index: Option<Index>) -> Refresh {
        Refresh::new(index, self.reads.clone(), Bus::default())
    }

    async fn store(&self, comments: &[Comment]) {
        let stored = self.database.store.insert(comments).await;
        stored.expect("it is written");
    }
}

/// Compares all pages with a sorted list, twice, so that each part has stored
/// what it stores.
async fn assert_pages(path: &Path, comments: &[Comment]) {
    let mut all = comments.to_vec();
    all.sort_by_key(|comment| std::cmp::Reverse(Cursor::of(comment)));
    let mut cursors: Vec<_> = all.iter().map(|c| Some(Cursor::of(c))).collect();
    cursors.push(Some(Cursor { created_ms: u64::MAX, id: u64::MAX }));
    cursors.extend([None; 5]);
    for round in 0..2 {
        for before in &cursors {
            for limit in [1, 2, 5, 17, MAX_LIMIT] {
                let expected: Vec<_> = all
                    .iter()
                    .filter(|c| before.is_none_or(|b| Cursor::of(c) < b))
                    .take(limit)
                    .map(|comment| comment.id)
                    .collect();
                let seen = path.ids(*before, limit).await;
                assert_eq!(seen, expected, "{round} {before:?} {limit}");
            }
        }
    }
}

/// Comments in bursts: ten in each millisecond.
fn bursts(count: u64) -> Vec<Comment> {
    // The order of ids is not the order of times.
    (0..count).map(|n| comment_at(n * 7919 % 10_007, 1000 + n / 10)).collect()
}

#[tokio::test]
async fn the_answers_are_the_same_without_any_part() {
    for (local_cache, singleflight) in
        [(false, false), (false, true), (true, false), (true, true)]
    {
        let path = path(config(local_cache, singleflight), None).await;
        let comments = bursts(57);
        path.store(&comments).await;
        assert_pages(&path, &comments).await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn the_answers_are_the_same_with_redis_and_after_its_end() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let path = path(config(true, true), Some(index)).await;
    let comments = bursts(27);
    path.store(&comments).await;
    assert_pages(&path, &comments).await;
    assert!(path.reads.counts().index_hits > 0);
    drop(redis);
    assert_pages(&path, &comments).await;
}

#[tokio::test]
async fn equal_reads_at_the_same_time_are_one_query() {
    let path = path(config(false, true), None).await;
    path.store(&[comment(1)]).await;
    path.database.open.send_replace(false);
    let mut readers = JoinSet::new();
    for n in 0..100 {
        let reads = path.reads.clone();
        // The limits of newest pages may differ.
        readers.spawn(async move { reads.page(SUBJECT, None, 1 + n).await });
    }
    path.database.has_read.notified().await;
    until("all wait", async || path.reads.counts().reads == 100).await;
    path.database.open.send_replace(true);
    for page in readers.join_all().await {
        assert_eq!(ids(&page.expect("it is read")), [1]);
    }
    assert_eq!(path.database.count(), 1);
}

#[tokio::test]
async fn without_single_flight_a_limited_number_of_queries_runs() {
    let path = path(config(false, false), None).await;
    path.database.open.send_replace(false);
    let mut readers = JoinSet::new();
    for _ in 0..150 {
        let reads = path.reads.clone();
        readers.spawn(async move { reads.page(SUBJECT, None, 9).await });
    }
    until("the queue is full", async || {
        path.database.count() == u64::from(QUERIES)
            && path.reads.counts().reads == 150
    })
    .await;
    path.database.open.send_replace(true);
    let pages = readers.join_all().await;
    let served = pages.iter().filter(|page| page.is_ok()).count();
    let refused =
        pages.iter().filter(|page| matches!(page, Err(ReadError::Overloaded)));
    assert_eq!((served, refused.count()), (104, 46));
    assert_eq!(path.database.most.load(Relaxed), u64::from(QUERIES));
}

#[tokio::test]
async fn a_read_that_is_dropped_leaves_no_query() {
    for (local_cache, singleflight) in
        [(false, false), (false, true), (true, true)]
    {
        let path = path(config(local_cache, singleflight), None).await;
        path.store(&[comment(1)]).await;
        path.database.open.send_replace(false);
        for polls in 1..20 {
            let read = path.reads.page(SUBJECT, None, 9);
            let read = tokio::time::timeout(20 * MS, after_polls(polls, read));
            assert!(!matches!(read.await, Ok(Some(_))), "the gate is closed");
            until("no query is left", async || path.reads.queries() == 0).await;
        }
        path.database.open.send_replace(true);
        assert_eq!(path.ids(None, 9).await, [1]);
        assert_eq!(path.reads.queries(), 0);
    }
}

#[tokio::test]
async fn a_hot_page_is_read_from_memory_until_it_changes() {
    let path = path(config(true, true), None).await;
    let refresh = path.refresh(None);
    path.write(&refresh, &[comment(1)]).await;
    for _ in 0..1000 {
        assert_eq!(path.ids(None, 9).await, [1]);
    }
    // The first reads find out that it is hot.
    assert!(path.database.count() <= 3, "{} queries", path.database.count());

    path.write(&refresh, &[comment(2)]).await;
    assert_eq!(path.ids(None, 9).await, [2, 1]);
    let before = path.database.count();
    for limit in 1..1000 {
        assert_eq!(path.ids(None, limit).await.len(), limit.min(2));
    }
    assert_eq!(path.database.count(), before);
}

#[tokio::test]
async fn a_read_from_before_a_write_is_not_kept() {
    for local_cache in [false, true] {
        let path = path(config(local_cache, true), None).await;
        let refresh = path.refresh(None);
        path.write(&refresh, &[comment(1)]).await;
        for _ in 0..2 {
            path.ids(None, 9).await;
        }
        path.database.has_read.notified().await;
        path.database.open.send_replace(false);
        path.reads.forget(Change::Subject(SUBJECT));
        let reads = path.reads.clone();
        let slow =
            tokio::spawn(async move { reads.page(SUBJECT, None, 9).await });
        path.database.has_read.notified().await;
        path.write(&refresh, &[comment(2)]).await;
        // It does not join the slow query.
        let reads = path.reads.clone();
        let next =
            tokio::spawn(async move { reads.page(SUBJECT, None, 9).await });
        path.database.has_read.notified().await;
        path.database.open.send_replace(true);
        let page = next.await.expect("no panic").expect("it is read");
        assert_eq!(ids(&page), [2, 1]);
        slow.await.expect("no panic").expect("it is read");
        assert_eq!(path.ids(None, 9).await, [2, 1]);
    }
}

#[tokio::test]
async fn a_read_after_missed_messages_joins_no_older_query() {
    for local_cache in [false, true] {
        let path = path(config(local_cache, true), None).await;
        path.database.open.send_replace(false);
        let read = || {
            let reads = path.reads.clone();
            tokio::spawn(async move { reads.page(SUBJECT, None, 9).await })
        };
        let slow = read();
        path.database.has_read.notified().await;
        path.store(&[comment(1)]).await;
        path.reads.forget(Change::Everything);
        let next = read();
        until("it has joined or read", async || path.reads.counts().reads == 2)
            .await;
        path.database.open.send_replace(true);
        let page = next.await.expect("no panic").expect("it is read");
        assert_eq!(ids(&page), [1]);
        slow.await.expect("no panic").expect("it is read");
    }
}

#[tokio::test]
async fn a_change_reaches_the_local_caches_of_other_services() {
    let bus = Bus::default();
    let first = path(config(true, true), None).await;
    // A second service over the same database.
    let reads =
        Reads::new(Arc::clone(&first.database) as _, None, &config(true, true));
    let second = Path { reads, database: first.database.clone(), ..first };
    let reads = second.reads.clone();
    let listener = bus.listen(move |change| reads.forget(change));
    let _listener = AbortOnDropHandle::new(tokio::spawn(listener));
    let refresh = Refresh::new(None, first.reads.clone(), bus);
    for id in 1..20 {
        second.write(&refresh, &[comment(id)]).await;
        until("the second service has the comment", async || {
            second.ids(None, 1).await == [id]
        })
        .await;
        for _ in 0..5 {
            second.ids(None, 1).await;
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_is_behind_forgets_everything() {
    let bus = Bus::default();
    let changes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&changes);
    let listener = bus.listen(move |change| seen.lock().unwrap().push(change));
    for subject in 0..5000 {
        bus.publish(subject);
    }
    drop(bus);
    listener.await;
    let changes = changes.lock().unwrap();
    assert_eq!(changes[0], Change::Everything);
    assert_eq!(changes.last(), Some(&Change::Subject(4999)));
}

fn own(redis: Option<&str>) -> Own {
    let ttl = Duration::from_secs(60);
    let config = own::Config { ttl, capacity: 1000, per_author: 3 };
    Own::new(redis.map(redis_client), config)
}

#[tokio::test]
async fn pages_merged_with_own_comments_have_each_comment_once() {
    let stored: Vec<_> = (0..30).map(|n| comment_at(n, 1000 + n / 4)).collect();
    // Some of the author's comments are stored already.
    let mine: Vec<_> =
        (20..45).map(|n| comment_at(n, 1000 + n / 4)).rev().collect();
    for limit in 1..20 {
        let path = path(config(false, true), None).await;
        path.store(&stored).await;
        let mut before = None;
        let mut seen = Vec::new();
        loop {
            let page = path.reads.page(SUBJECT, before, limit).await;
            let page = page.expect("it is read");
            let page = merge(page, mine.clone(), before, limit);
            seen.extend(ids(&page));
            if page.len() < limit {
                break;
            }
            before = page.last().map(Cursor::of);
        }
        let expected: Vec<_> = (0..45).rev().collect();
        assert_eq!(seen, expected, "with pages of {limit}");
    }
}

#[tokio::test]
async fn own_comments_are_of_one_author_and_subject_and_bounded() {
    let own = own(None);
    own.remember(&comment(1)).await;
    own.remember(&Comment { subject: 8, ..comment(2) }).await;
    own.remember(&Comment { author: 2, ..comment(3) }).await;
    assert_eq!(ids(&own.recent(1, SUBJECT).await), [1]);
    assert_eq!(ids(&own.recent(2, SUBJECT).await), [3]);
    assert_eq!(own.recent(3, SUBJECT).await, []);
    for id in 10..1009 {
        own.remember(&Comment { author: 2, ..comment(id) }).await;
    }
    assert_eq!(own.recent(1, SUBJECT).await, [], "there are a thousand others");
    assert_eq!(own.recent(2, SUBJECT).await.len(), 1000);
}

#[tokio::test]
async fn own_comments_are_forgotten_after_their_time_to_live() {
    let ttl = Duration::from_millis(50);
    let config = own::Config { ttl, capacity: 1000, per_author: 3 };
    let own = Own::new(None, config);
    own.remember(&comment(1)).await;
    until("it is forgotten", async || own.recent(1, SUBJECT).await.is_empty())
        .await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_subscription_that_is_silent_forgets_everything() {
    let redis = Redis::start().expect("it starts");
    let proxy = Proxy::new(&redis.socket()).await;
    let client = redis::Client::open(&*proxy.url).unwrap();
    let (sender, forgotten) = tokio::sync::watch::channel(0);
    let listener = invalidation::listen(client, move |change| {
        assert_eq!(change, Change::Everything);
        sender.send_modify(|n| *n += 1);
    });
    let _listener = AbortOnDropHandle::new(tokio::spawn(listener));
    let is_forgotten = async |times| {
        let mut forgotten = forgotten.clone();
        let again = forgotten.wait_for(|n| *n == times);
        let again = tokio::time::timeout(Duration::from_secs(10), again);
        let again = again.await.expect("it forgets everything").map(drop);
        again.expect("it listens");
    };
    is_forgotten(1).await; // it has subscribed
    proxy.silence(); // the connection stays open
    is_forgotten(2).await;
    proxy.lead_to(&redis.socket());
    is_forgotten(3).await; // it has subscribed again
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn other_processes_know_own_comments_from_redis() {
    let redis = Redis::start().expect("it starts");
    let url = redis.url();
    let (here, there) = (own(Some(&url)), own(Some(&url)));
    redis_client(&url).connected().await;
    until("redis has it", async || {
        here.remember(&comment(1)).await;
        !there.recent(1, SUBJECT).await.is_empty()
    })
    .await;
    for id in 2..6 {
        here.remember(&comment(id)).await;
    }
    let mut latest = ids(&there.recent(1, SUBJECT).await);
    latest.sort_unstable();
    assert_eq!(latest, [3, 4, 5], "three for each author");
    let ttl: i64 = redis::AsyncCommands::pttl(
        &mut connection(&url).await,
        "comments:own:{1}",
    )
    .await
    .unwrap();
    assert!((1..=60_000).contains(&ttl), "{ttl} ms");
    drop(redis);
    here.remember(&comment(6)).await;
    assert!(ids(&here.recent(1, SUBJECT).await).contains(&6));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_slow_reader_stores_no_old_page_in_redis() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let path = path(config(false, true), Some(index.clone())).await;
    let refresh = path.refresh(Some(index.clone()));
    path.store(&[comment(1)]).await;
    path.database.open.send_replace(false);
    let reads = path.reads.clone();
    let slow = tokio::spawn(async move { reads.page(SUBJECT, None, 9).await });
    path.database.has_read.notified().await;
    path.write(&refresh, &[comment(2)]).await;
    let reads = path.reads.clone();
    let next = tokio::spawn(async move { reads.page(SUBJECT, None, 9).await });
    until("the next reader has a query of its own", async || {
        path.database.count() == 2
    })
    .await;
    path.database.open.send_replace(true);
    slow.await.expect("no panic").expect("it is read");
    let page = next.await.expect("no panic").expect("it is read");
    assert_eq!(ids(&page), [2, 1]);
    // Now it is in Redis.
    assert_eq!(path.ids(None, 9).await, [2, 1]);
    assert_eq!(path.database.count(), 2);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_reader_that_has_waited_for_the_database_looks_into_redis_again() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let path = path(config(false, false), Some(index.clone())).await;
    let refresh = path.refresh(Some(index));
    path.database.open.send_replace(false);
    let mut readers = JoinSet::new();
    for _ in 0..50 {
        let reads = path.reads.clone();
        readers.spawn(async move { reads.page(SUBJECT, None, 9).await });
    }
    until("all run or wait", async || path.reads.queries() == 50).await;
    // It ends the leases of all of them.
    path.write(&refresh, &[comment(1)]).await;
    path.database.open.send_replace(true);
    for page in readers.join_all().await {
        let page = page.expect("it is read");
        assert!(page.len() <= 1, "{page:?}");
    }
    let queries = path.database.count();
    assert!(queries <= 3 * u64::from(QUERIES), "{queries} queries");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_written_comment_is_in_redis_without_a_query() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let path = path(config(false, true), Some(index.clone())).await;
    let refresh = path.refresh(Some(index));
    assert_eq!(path.ids(None, 3).await, [0_u64; 0]);
    for id in 1..10 {
        path.write(&refresh, &[comment(id)]).await;
        assert_eq!(path.ids(None, 1).await, [id]);
    }
    assert_eq!(path.database.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server"]
async fn reads_go_on_when_redis_is_killed_and_use_it_again_when_it_is_back() {
    let redis = Redis::start().expect("it starts");
    let proxy = Proxy::new(&redis.socket()).await;
    let index = index(&proxy.url).await;
    let path = path(config(false, true), Some(index)).await;
    let all: Vec<_> =
        (0..50).map(|n| Comment { subject: n, ..comment(n) }).collect();
    path.store(&all).await;
    *path.database.delay.lock().unwrap() = 2 * MS;
    let read_all = async || {
        let mut readers = JoinSet::new();
        for n in 0..1000 {
            let reads = path.reads.clone();
            readers.spawn(async move {
                let page = reads.page(n % 50, None, 9).await;
                assert_eq!(ids(&page.expect("it is read")), [n % 50]);
            });
        }
        readers.join_all().await;
    };
    until("all pages are in redis", async || {
        let queries = path.database.count();
        read_all().await;
        path.database.count() == queries
    })
    .await;
    let warm = path.database.count();

    drop(redis);
    proxy.cut();
    path.database.most.store(0, Relaxed);
    for _ in 0..5 {
        read_all().await;
    }
    let most = path.database.most.load(Relaxed);
    assert!(most <= u64::from(QUERIES), "{most} queries at once");
    let cold = path.database.count() - warm;
    assert!(cold < 2500, "{cold} queries for 5,000 reads");

    let redis = Redis::start().expect("it starts");
    proxy.lead_to(&redis.socket());
    until("redis is used", async || {
        let hits = path.reads.counts().index_hits;
        read_all().await;
        path.reads.counts().index_hits - hits == 1000
    })
    .await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_paused_redis_does_not_slow_reads_for_long() {
    let redis = Redis::start().expect("it starts");
    let index = index(&redis.url()).await;
    let path = path(config(false, true), Some(index)).await;
    path.store(&[comment(1)]).await;
    path.ids(None, 9).await;
    let mut connection = connection(&redis.url()).await;
    let mut pause = redis::cmd("CLIENT");
    pause.arg("PAUSE").arg(3000).arg("ALL");
    let _: () = pause.query_async(&mut connection).await.unwrap();

    let start = std::time::Instant::now();
    let mut slow = 0;
    let mut reads = 0;
    while start.elapsed() < Duration::from_secs(2) {
        let start = std::time::Instant::now();
        assert_eq!(path.ids(None, 9).await, [1]);
        let elapsed = start.elapsed();
        // The timeout of the index is 200 ms.
        assert!(elapsed < Duration::from_millis(800), "{elapsed:?}");
        slow += u32::from(elapsed > 150 * MS);
        reads += 1;
    }
    assert!(slow < 20 && reads > 50, "{slow} of {reads} reads were slow");
    until("redis is used again", async || {
        let hits = path.reads.counts().index_hits;
        path.ids(None, 9).await;
        path.reads.counts().index_hits > hits
    })
    .await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_change_reaches_other_processes_through_redis() {
    let redis = Redis::start().expect("it starts");
    let proxy = Proxy::new(&redis.socket()).await;
    let writer_index = index(&redis.url()).await;
    let first = path(config(true, true), Some(writer_index.clone())).await;
    // A second process: nothing is shared but the database and Redis.
    let index = index(&redis.url()).await;
    let reads = Reads::new(
        Arc::clone(&first.database) as _,
        Some(index),
        &config(true, true),
    );
    let refresh = first.refresh(Some(writer_index));
    let second = Path { reads, database: first.database.clone(), ..first };
    let reads = second.reads.clone();
    let client = redis::Client::open(&*proxy.url).unwrap();
    let (sender, subscribed) = tokio::sync::watch::channel(0);
    let listener = invalidation::listen(client, move |change| {
        reads.forget(change);
        sender.send_modify(|n| *n += u32::from(change == Change::Everything));
    });
    let _listener = AbortOnDropHandle::new(tokio::spawn(listener));
    let seen = async |id| {
        until("the second process has the comment", async || {
            second.ids(None, 1).await == [id]
        })
        .await;
        for _ in 0..9 {
            assert_eq!(second.ids(None, 1).await, [id]);
        }
    };
    subscribed.clone().wait_for(|n| *n == 1).await.unwrap();
    for id in 1..20 {
        second.write(&refresh, &[comment(id)]).await;
        seen(id).await;
    }
    // A message is lost, while the subscription is cut.
    proxy.cut();
    subscribed.clone().wait_for(|n| *n == 2).await.unwrap();
    seen(19).await;
    second.write(&refresh, &[comment(20)]).await;
    assert_eq!(second.ids(None, 1).await, [19], "the local cache has it");
    proxy.lead_to(&redis.socket());
    seen(20).await;
}
