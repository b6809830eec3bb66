//! What the tests of the write path share.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};
use sqlx::AnyPool;
use tempfile::TempDir;
use week06::shave;
use week06_service::broker::{MockBroker, Setup};
use week06_service::comment::Comment;
use week06_service::job;
use week06_service::producer::{self, Producer};
use week06_service::store::Store;

pub(crate) const TOPIC: &str = "comments";
pub(crate) const DEAD: &str = "comments-dead";
pub(crate) const GROUP: &str = "job";
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The longest wait for a condition.
const DEADLINE: Duration = Duration::from_secs(20);

/// Starts a broker with so many partitions. The test binary has a test
/// `broker_process`.
pub(crate) fn broker(partitions: i32) -> MockBroker {
    let setup = Setup {
        arguments: &["broker_process", "--exact", "--nocapture"],
        topics: &[(TOPIC, partitions), (DEAD, 1)],
        session: SECOND,
    };
    MockBroker::spawn(setup).unwrap()
}

/// Returns an empty SQLite file, and its directory.
pub(crate) async fn sqlite() -> (Store, String, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("comments.db").display());
    let store = Store::connect(&url).await.unwrap();
    (store, url, dir)
}

pub(crate) fn job_config(brokers: &str, max_batch: usize) -> job::Config {
    job::Config {
        brokers: brokers.to_owned(),
        group: GROUP.to_owned(),
        topic: TOPIC.to_owned(),
        dead_letters: DEAD.to_owned(),
        batch: shave::Config {
            max_batch: max_batch.try_into().unwrap(),
            linger: Duration::from_millis(5),
            max_waiting: (10 * max_batch).try_into().unwrap(),
            retry_after: Duration::from_millis(100),
        },
        max_poll_interval: 300 * SECOND,
        write_timeout: 5 * SECOND,
    }
}

pub(crate) fn producer(brokers: &str, timeout: Duration) -> Producer {
    let config = producer::Config {
        brokers: brokers.to_owned(),
        topic: TOPIC.to_owned(),
        timeout,
    };
    Producer::new(&config, None).unwrap()
}

pub(crate) fn comment(id: u64, subject: u64) -> Comment {
    let text = format!("text {id}");
    Comment { id, subject, author: 1, text, created_ms: id }
}

/// Publishes all comments at once, and waits for all acknowledgments.
pub(crate) async fn publish_all(producer: &Producer, comments: &[Comment]) {
    let all = comments.iter().map(|comment| producer.publish(comment));
    for published in futures_util::future::join_all(all).await {
        published.unwrap();
    }
}

/// Waits until `condition` holds. Panics after a deadline, and says whether the
/// broker is dead.
pub(crate) async fn wait_until(
    broker: &mut MockBroker,
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        if let Err(died) = broker.check() {
            panic!("{died}, before {what}");
        }
        assert!(
            Instant::now() < deadline,
            "after {DEADLINE:?}, not yet {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn rows(pool: &AnyPool) -> u64 {
    let query = sqlx::query_scalar("SELECT COUNT(*) FROM comment");
    let rows: i64 = query.fetch_one(pool).await.unwrap();
    rows.unsigned_abs()
}

/// A client that is no member of the group.
pub(crate) fn observer(brokers: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", GROUP)
        .set("enable.auto.commit", "false")
        .create()
        .unwrap()
}

/// Returns the committed offset of each partition, 0 if there is none, or `None`
/// if the broker does not answer.
pub(crate) fn committed(
    observer: &BaseConsumer,
    partitions: i32,
) -> Option<Vec<i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(TOPIC, 0, partitions - 1);
    let committed = observer.committed_offsets(list, SECOND).ok()?;
    let offset = |offset| match offset {
        Offset::Offset(offset) => offset,
        _ => 0,
    };
    Some(committed.elements().iter().map(|e| offset(e.offset())).collect())
}

/// Reads all records that a topic contains now.
pub(crate) fn read_all(
    brokers: &str,
    topic: &str,
    partitions: i32,
) -> Vec<OwnedMessage> {
    let reader = observer(brokers);
    let mut assigned = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..partitions {
        let ends = reader.fetch_watermarks(topic, partition, 5 * SECOND);
        left += ends.unwrap().1;
        let first = Offset::Beginning;
        assigned.add_partition_offset(topic, partition, first).unwrap();
    }
    reader.assign(&assigned).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let mut records = Vec::new();
    while (records.len() as i64) < left {
        assert!(Instant::now() < deadline, "{left} records cannot be read");
        if let Some(Ok(message)) = reader.poll(Duration::from_millis(10)) {
            records.push(message.detach());
        }
    }
    records
}

/// Returns a header of a record as text.
pub(crate) fn header(message: &OwnedMessage, key: &str) -> String {
    let headers = message.headers().expect("it has headers");
    let header = headers.iter().find(|header| header.key == key);
    let value = header.and_then(|header| header.value).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}
