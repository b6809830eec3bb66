//! One fault in each test: nothing is lost, nothing is in the table twice.

use std::future::{Future as _, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use common::*;
use lab::cancel::after_polls;
use lab::servers::Postgres;
use rdkafka::ClientConfig;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sqlx::raw_sql;
use tokio::sync::Semaphore;
use week06_service::backlog::{self, Backlog};
use week06_service::broker;
use week06_service::comment::{Comment, MAX_CHARS};
use week06_service::job::{AfterWrite, Report, Runner, StopFailed};
use week06_service::producer::{Config, Producer, PublishError};
use week06_service::store::Store;

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod common;

const MS: Duration = Duration::from_millis(1);

/// The process of the broker, and otherwise nothing.
#[test]
fn broker_process() {
    broker::run_if_asked();
}

fn comments(ids: std::ops::Range<u64>) -> Vec<Comment> {
    ids.map(|id| comment(id, id % 7)).collect()
}

/// A hook that lets a batch pass for each permit.
fn gate() -> (AfterWrite, Arc<Semaphore>) {
    let permits = Arc::new(Semaphore::new(0));
    let shared = Arc::clone(&permits);
    let hook: AfterWrite = Arc::new(move |_, _| {
        let permits = Arc::clone(&shared);
        Box::pin(async move { permits.acquire().await.unwrap().forget() })
    });
    (hook, permits)
}

/// Puts bytes into the topic that no producer of this service would send.
fn send_raw(brokers: &str, payloads: &[&[u8]]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("message.max.bytes", "3000000")
        .create()
        .unwrap();
    for payload in payloads {
        let record = BaseRecord::to(TOPIC).key("7").payload(*payload);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(10 * SECOND).unwrap();
}

async fn sum_of_counts(store: &Store) -> u64 {
    let mut sum = 0;
    for subject in 0..20 {
        sum += store.count(subject).await.unwrap();
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_down_for_a_while_lose_nothing() {
    let mut broker = broker(3);
    let brokers = broker.bootstrap().to_owned();
    let (store, _, _dir) = sqlite().await;
    let job = Runner::start(&job_config(&brokers, 50), store.clone(), None);
    let job = job.unwrap();
    let patient = producer(&brokers, 30 * SECOND);
    let impatient = producer(&brokers, SECOND);
    publish_all(&patient, &comments(0..500)).await;
    wait_until(&mut broker, "it is connected", async || {
        impatient.publish(&comment(9000, 1)).await.is_ok()
    })
    .await;

    broker.down().unwrap();
    let waiting = tokio::spawn(async move {
        publish_all(&patient, &comments(500..1000)).await;
    });
    let started = Instant::now();
    let refused = impatient.publish(&comment(9001, 1)).await;
    assert!(
        matches!(refused, Err(PublishError::Unavailable(_))),
        "expected `Unavailable`, got {refused:?}"
    );
    let took = started.elapsed();
    assert!(took < 4 * SECOND, "the error came after {took:?}, not after 1 s");
    broker.up().unwrap();

    // The client sends it again, with the same id.
    wait_until(&mut broker, "the comment is accepted", async || {
        impatient.publish(&comment(9001, 1)).await.is_ok()
    })
    .await;
    waiting.await.unwrap();
    wait_until(&mut broker, "all rows", async || {
        rows(store.pool()).await == 1002
    })
    .await;
    job.stop(10 * SECOND).await.unwrap();
    assert_eq!(sum_of_counts(&store).await, 1002);
    let records = read_all(&brokers, TOPIC, 3).len() as i64;
    let all = committed(&observer(&brokers), 3).unwrap();
    assert_eq!(all.iter().sum::<i64>(), records, "not all is committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_whose_acknowledgment_was_lost_is_stored_once() {
    let mut broker = broker(1);
    let brokers = broker.bootstrap().to_owned();
    let (store, _, _dir) = sqlite().await;
    let producer = producer(&brokers, SECOND);
    wait_until(&mut broker, "it is connected", async || {
        producer.publish(&comment(0, 0)).await.is_ok()
    })
    .await;
    // The broker appends the record, and answers too late.
    broker.round_trip(3 * SECOND).unwrap();
    let refused = producer.publish(&comment(1, 1)).await;
    assert!(
        matches!(refused, Err(PublishError::Unavailable(_))),
        "expected `Unavailable`, got {refused:?}"
    );
    broker.round_trip(Duration::ZERO).unwrap();
    wait_until(&mut broker, "the comment is accepted", async || {
        producer.publish(&comment(1, 1)).await.is_ok()
    })
    .await;
    let records = read_all(&brokers, TOPIC, 1).len();
    assert!(records >= 3, "{records} records: the first attempt was not sent");
    let job = Runner::start(&job_config(&brokers, 50), store.clone(), None);
    let job = job.unwrap();
    wait_until(&mut broker, "all records are read", async || {
        let Report { written, repeated, .. } = job.report();
        written + repeated == records as u64
    })
    .await;
    assert_eq!(rows(store.pool()).await, 2);
    assert_eq!(sum_of_counts(&store).await, 2);
    job.stop(10 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_in_the_middle_of_a_batch_loses_nothing() {
    let mut broker = broker(6);
    let brokers = broker.bootstrap().to_owned();
    let (store, _, _dir) = sqlite().await;
    publish_all(&producer(&brokers, 5 * SECOND), &comments(0..2000)).await;
    let config = job_config(&brokers, 100);

    // The first member has written a batch, and cannot commit it.
    let (hook, permits) = gate();
    let first = Runner::start(&config, store.clone(), Some(hook)).unwrap();
    wait_until(&mut broker, "the first batch", async || {
        rows(store.pool()).await == 100
    })
    .await;
    let second = Runner::start(&config, store.clone(), None).unwrap();
    wait_until(&mut broker, "the second member has partitions", async || {
        second.report().written > 0
    })
    .await;
    permits.add_permits(Semaphore::MAX_PERMITS);
    wait_until(&mut broker, "all rows", async || {
        rows(store.pool()).await == 2000
    })
    .await;
    let first = first.stop(10 * SECOND).await.unwrap();
    let second = second.stop(10 * SECOND).await.unwrap();
    assert_eq!(first.written + second.written, 2000);
    let repeated = first.repeated + second.repeated;
    assert!(repeated <= 100, "{repeated} repeated, of a batch of 100");
    assert_eq!(sum_of_counts(&store).await, 2000);
    let committed = committed(&observer(&brokers), 6).unwrap();
    assert_eq!(committed.iter().sum::<i64>(), 2000);
}

/// Publishes half of the comments while `store` can write, and the others while
/// it cannot.
async fn with_a_read_only_database(
    store: &Store,
    set_read_only: impl AsyncFn(bool),
) {
    let mut broker = broker(3);
    let brokers = broker.bootstrap().to_owned();
    let producer = producer(&brokers, 5 * SECOND);
    let job = Runner::start(&job_config(&brokers, 50), store.clone(), None);
    let job = job.unwrap();
    publish_all(&producer, &comments(0..500)).await;
    wait_until(&mut broker, "the first half", async || {
        rows(store.pool()).await == 500
    })
    .await;
    set_read_only(true).await;
    publish_all(&producer, &comments(500..1000)).await;
    wait_until(&mut broker, "failed writes", async || {
        job.report().failures >= 3
    })
    .await;
    assert_eq!(rows(store.pool()).await, 500, "it was not read-only");
    set_read_only(false).await;
    wait_until(&mut broker, "the second half", async || {
        rows(store.pool()).await == 1000
    })
    .await;
    let report = job.stop(10 * SECOND).await.unwrap();
    assert_eq!(report.written, 1000);
    assert_eq!(report.dead_letters, 0, "a good comment is a dead letter");
    assert_eq!(sum_of_counts(store).await, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_sqlite_delays_the_comments() {
    let (store, _, _dir) = sqlite().await;
    // The pragma is of one connection, so all that can exist get it.
    with_a_read_only_database(&store, async |is_read_only| {
        let sql = if is_read_only {
            "PRAGMA query_only = 1"
        } else {
            "PRAGMA query_only = 0"
        };
        let mut all = Vec::new();
        for _ in 0..store.pool().options().get_max_connections() {
            all.push(store.pool().acquire().await.unwrap());
        }
        for connection in &mut all {
            raw_sql(sql).execute(&mut **connection).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn a_read_only_postgres_delays_the_comments() {
    let server = Postgres::start().unwrap();
    let store = Store::connect(&server.url()).await.unwrap();
    with_a_read_only_database(&store, async |is_read_only| {
        let set = if is_read_only {
            "ALTER SYSTEM SET default_transaction_read_only = on"
        } else {
            "ALTER SYSTEM SET default_transaction_read_only = off"
        };
        raw_sql(set).execute(store.pool()).await.unwrap();
        let reload = raw_sql("SELECT pg_reload_conf()");
        reload.execute(store.pool()).await.unwrap();
    })
    .await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_records_are_dead_letters_and_the_others_go_on() {
    let mut broker = broker(1);
    let brokers = broker.bootstrap().to_owned();
    let (store, _, _dir) = sqlite().await;
    let producer = producer(&brokers, 5 * SECOND);
    let too_long = "评".repeat(MAX_CHARS + 1);
    let too_long = Comment { text: too_long, ..comment(5000, 7) }.to_bytes();
    let negative = Comment { id: u64::MAX, ..comment(0, 7) }.to_bytes();
    let large = vec![b'x'; 2_000_000];
    // The error of the decoder quotes the whole text.
    let quoted = format!(r#"{{"id":"{}"}}"#, "x".repeat(600_000));
    let poison: [&[u8]; 7] = [
        b"\xff\xfe",
        b"",
        b"{}",
        &too_long,
        &negative,
        &large,
        quoted.as_bytes(),
    ];

    publish_all(&producer, &comments(0..30)).await;
    send_raw(&brokers, &poison);
    publish_all(&producer, &comments(30..60)).await;
    let job = Runner::start(&job_config(&brokers, 16), store.clone(), None);
    let job = job.unwrap();
    wait_until(&mut broker, "all other comments", async || {
        rows(store.pool()).await == 60
    })
    .await;
    let report = job.stop(10 * SECOND).await.unwrap();
    assert_eq!(report.dead_letters, 7);
    assert_eq!(committed(&observer(&brokers), 1).unwrap(), [67]);

    let letters = read_all(&brokers, DEAD, 1);
    let sizes: Vec<_> = letters.iter().map(|l| header(l, "size")).collect();
    let sent: Vec<_> = poison.iter().map(|p| p.len().to_string()).collect();
    assert_eq!(sizes, sent, "expected the dead letters in order");
    for (letter, poison) in letters.iter().zip(poison) {
        let reason = header(letter, "reason");
        assert!(!reason.is_empty(), "a dead letter has no reason");
        assert_eq!(header(letter, "origin"), "comments/0");
        let payload = letter.payload().unwrap_or_default();
        assert!(poison.starts_with(payload), "the payload is another one");
        assert_eq!(payload.len(), poison.len().min(900_000));
    }
    assert_eq!(header(&letters[3], "offset"), "33");
}

#[tokio::test]
async fn a_comment_that_is_too_large_or_invalid_is_not_sent() {
    let broker = broker(1);
    let producer = producer(broker.bootstrap(), 5 * SECOND);
    for chars in [MAX_CHARS + 1, 1_000_000, 2_000_000] {
        let large = Comment { text: "x".repeat(chars), ..comment(1, 1) };
        let refused = producer.publish(&large).await;
        assert!(
            matches!(refused, Err(PublishError::TooLarge)),
            "expected `TooLarge` for {chars} characters, got {refused:?}"
        );
    }
    let nul = Comment { text: "\0".to_owned(), ..comment(1, 1) };
    let refused = producer.publish(&nul).await;
    assert!(
        matches!(refused, Err(PublishError::Invalid(_))),
        "expected `Invalid`, got {refused:?}"
    );
    let longest = Comment { text: "🦀".repeat(MAX_CHARS), ..comment(1, 1) };
    producer.publish(&longest).await.unwrap();
    assert_eq!(read_all(broker.bootstrap(), TOPIC, 1).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_producer_refuses_above_high_and_accepts_below_low() {
    let mut broker = broker(3);
    let brokers = broker.bootstrap().to_owned();
    let (store, _, _dir) = sqlite().await;
    let backlog = Backlog::watch(backlog::Config {
        brokers: brokers.clone(),
        topic: TOPIC.to_owned(),
        group: GROUP.to_owned(),
        high: 300,
        low: 100,
        every: 20 * MS,
        stale_after: 5 * SECOND,
    });
    let backlog = backlog.unwrap();
    wait_until(&mut broker, "the lag is known", async || {
        backlog.lag() == Some(0)
    })
    .await;
    let config = Config {
        brokers: brokers.clone(),
        topic: TOPIC.to_owned(),
        timeout: 5 * SECOND,
    };
    let producer = Producer::new(&config, Some(backlog.clone())).unwrap();
    let mut accepted = 0;
    // At once: the gate has to count what it has not measured yet.
    let all = comments(0..1000);
    let all = all.iter().map(|comment| producer.publish(comment));
    for published in futures_util::future::join_all(all).await {
        match published {
            Ok(()) => accepted += 1,
            Err(PublishError::Overloaded { retry_after }) => {
                assert!(retry_after >= SECOND, "retry after {retry_after:?}");
            }
            Err(other) => panic!("expected `Overloaded`, got {other:?}"),
        }
    }
    assert_eq!(accepted, 301, "expected one more than `high`");

    // The job writes down to a lag between low and high, and stops.
    let (hook, permits) = gate();
    permits.add_permits(3);
    let config = job_config(&brokers, 50);
    let job = Runner::start(&config, store.clone(), Some(hook)).unwrap();
    wait_until(&mut broker, "three batches of at most 50", async || {
        permits.available_permits() == 0 && backlog.lag() < Some(301)
    })
    .await;
    let refused = producer.publish(&comment(2000, 1)).await;
    assert!(
        matches!(refused, Err(PublishError::Overloaded { .. })),
        "expected `Overloaded` between low and high, got {refused:?}"
    );
    permits.add_permits(Semaphore::MAX_PERMITS / 2);
    wait_until(&mut broker, "a lag of 0", async || backlog.lag() == Some(0))
        .await;
    producer.publish(&comment(2000, 1)).await.unwrap();
    wait_until(&mut broker, "all accepted comments", async || {
        rows(store.pool()).await == accepted + 1
    })
    .await;
    job.stop(10 * SECOND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_publish_is_sent_if_it_was_polled() {
    let mut broker = broker(1);
    let brokers = broker.bootstrap().to_owned();
    let producer = producer(&brokers, 5 * SECOND);
    drop(producer.publish(&comment(0, 1))); // never polled
    for polls in 1..20 {
        let comment = comment(polls, 1);
        let publish = after_polls(polls as u32, producer.publish(&comment));
        if publish.await.is_some() {
            break;
        }
    }
    // Alone at its first poll, then the broker goes down: it is sent later.
    broker.down().unwrap();
    let last = comment(100, 1);
    let mut publish = Box::pin(producer.publish(&last));
    poll_fn(|cx| Poll::Ready(publish.as_mut().poll(cx).is_pending())).await;
    drop(publish);
    broker.up().unwrap();
    producer.flush(10 * SECOND).await.unwrap();

    let mut ids: Vec<_> = read_all(&brokers, TOPIC, 1)
        .iter()
        .map(|r| Comment::from_bytes(r.payload().unwrap()).unwrap().id)
        .collect();
    ids.dedup();
    let first: Vec<u64> = (1..ids.len() as u64).collect();
    assert_eq!(ids, [first, vec![100]].concat());
    assert!(ids.len() >= 3, "no publish was dropped: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_commits_the_batch_that_is_being_written() {
    let mut broker = broker(3);
    let brokers = broker.bootstrap().to_owned();
    let (store, _, _dir) = sqlite().await;
    publish_all(&producer(&brokers, 5 * SECOND), &comments(0..1000)).await;
    let (hook, permits) = gate();
    let job =
        Runner::start(&job_config(&brokers, 50), store.clone(), Some(hook));
    let job = job.unwrap();
    wait_until(&mut broker, "the first batch", async || {
        rows(store.pool()).await == 50
    })
    .await;
    let observer = observer(&brokers);
    assert_eq!(committed(&observer, 3).unwrap(), [0; 3]);
    let mut stop = Box::pin(job.stop(10 * SECOND));
    poll_fn(|cx| Poll::Ready(stop.as_mut().poll(cx).is_pending())).await;
    permits.add_permits(Semaphore::MAX_PERMITS);
    let report = stop.await.unwrap();
    let written = rows(store.pool()).await;
    assert_eq!(report.written, written);
    let committed = committed(&observer, 3).unwrap();
    assert_eq!(
        committed.iter().sum::<i64>().unsigned_abs(),
        written,
        "not all that was written is committed"
    );
    assert!(written < 1000, "a stopped job has read all");
}

#[tokio::test]
async fn a_stop_reports_a_panic_of_the_job() {
    let broker = broker(1);
    let (store, _, _dir) = sqlite().await;
    let config = job_config(broker.bootstrap(), 50);
    let job = Runner::start(&config, store, None).unwrap();
    job.stall(Duration::MAX); // no instant is so late
    let stopped = job.stop(10 * SECOND).await;
    assert_eq!(stopped, Err(StopFailed::Panicked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_never_ends_delays_each_batch_for_a_limited_time() {
    let mut broker = broker(1);
    let brokers = broker.bootstrap().to_owned();
    let (store, _, _dir) = sqlite().await;
    publish_all(&producer(&brokers, 5 * SECOND), &comments(0..100)).await;
    let (hook, _permits) = gate();
    let job =
        Runner::start(&job_config(&brokers, 50), store.clone(), Some(hook));
    let job = job.unwrap();
    wait_until(&mut broker, "both batches", async || {
        rows(store.pool()).await == 100
    })
    .await;
    let report = job.stop(10 * SECOND).await.unwrap();
    assert_eq!((report.written, report.repeated), (100, 0));
    assert_eq!(committed(&observer(&brokers), 1).unwrap(), [100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_after_its_limit_and_a_failed_hook_is_ignored() {
    let mut broker = broker(1);
    let brokers = broker.bootstrap().to_owned();
    let (store, _, _dir) = sqlite().await;
    let producer = producer(&brokers, 5 * SECOND);
    let config = job_config(&brokers, 50);
    publish_all(&producer, &comments(0..10)).await;
    let has_panicked = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&has_panicked);
    let panics: AfterWrite = Arc::new(move |comments, _| {
        shared.store(true, Relaxed);
        Box::pin(async move { assert!(comments.is_empty(), "as asked") })
    });
    let job = Runner::start(&config, store.clone(), Some(panics)).unwrap();
    wait_until(&mut broker, "ten rows", async || {
        rows(store.pool()).await == 10
    })
    .await;
    let report = job.stop(10 * SECOND).await.unwrap();
    assert!(has_panicked.load(Relaxed));
    assert_eq!((report.written, report.repeated), (10, 0));

    // The table is locked, so that a write lasts.
    let mut lock = store.pool().acquire().await.unwrap();
    raw_sql("BEGIN IMMEDIATE").execute(&mut *lock).await.unwrap();
    publish_all(&producer, &comments(10..20)).await;
    let job = Runner::start(&config, store.clone(), None).unwrap();
    let started = Instant::now();
    // It may stop before it has read anything: then there is nothing to write.
    let _ = job.stop(200 * MS).await;
    assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
    raw_sql("ROLLBACK").execute(&mut *lock).await.unwrap();
    drop(lock);

    let job = Runner::start(&config, store.clone(), None).unwrap();
    wait_until(&mut broker, "twenty rows", async || {
        rows(store.pool()).await == 20
    })
    .await;
    job.stop(10 * SECOND).await.unwrap();
}
