//! Measures the write path end to end against its parts: 20,000 comments through
//! the producer, Kafka and the job into SQLite, against a raw producer that sends
//! the same records, and then raw inserts of the same batches.
//!
//! The raw part reads nothing from Kafka, commits no offset, keeps no counters
//! and inserts without a look at the ids.

use std::time::Duration;

use futures_util::future::join_all;
use lab::ratio::{Plan, measure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, raw_sql};
use tokio::runtime::Runtime;
use week06::shave;
use week06_service::broker::{self, MockBroker, Setup};
use week06_service::comment::Comment;
use week06_service::job::{self, Runner};
use week06_service::producer::{self, Producer};
use week06_service::store::Store;

const COMMENTS: u64 = 20_000;
const BATCH: usize = 512;
const SECOND: Duration = Duration::from_secs(1);

fn main() {
    broker::run_if_asked();
    let topics = [("ours", 12), ("ours-dead", 1), ("raw", 12)];
    let broker = MockBroker::spawn(Setup {
        arguments: &[],
        topics: &topics,
        session: 10 * SECOND,
    });
    let broker = broker.expect("the broker starts");
    let runtime = Runtime::new().expect("a runtime starts");
    let dir = tempfile::tempdir().expect("a directory is created");
    let url = |name| format!("sqlite:{}", dir.path().join(name).display());
    let ours = Ours::start(&runtime, broker.bootstrap(), &url("ours.db"));
    let raw = Raw::start(&runtime, broker.bootstrap(), &url("raw.db"));

    let (mut first, mut first_raw) = (0, 0);
    let plan = Plan { rounds: 11, sample: Duration::from_millis(100) };
    let ratio = measure(
        plan,
        || {
            runtime.block_on(ours.write(first));
            first += COMMENTS;
        },
        || {
            runtime.block_on(raw.write(first_raw));
            first_raw += COMMENTS;
        },
    );
    println!("20,000 comments, end to end / raw producer and inserts: {ratio}");
}

fn comments(first: u64) -> Vec<Comment> {
    let comment = |id| Comment {
        id,
        subject: id % 1000,
        author: id % 977,
        text: "I was here".to_owned(),
        created_ms: id,
    };
    (first..first + COMMENTS).map(comment).collect()
}

struct Ours {
    producer: Producer,
    job: Runner,
}

impl Ours {
    fn start(runtime: &Runtime, brokers: &str, database: &str) -> Self {
        let (brokers, topic) = (brokers.to_owned(), "ours".to_owned());
        let config = producer::Config {
            brokers: brokers.clone(),
            topic: topic.clone(),
            timeout: 10 * SECOND,
        };
        let producer = Producer::new(&config, None);
        let config = job::Config {
            brokers,
            group: topic.clone(),
            topic,
            dead_letters: "ours-dead".to_owned(),
            batch: shave::Config {
                max_batch: BATCH.try_into().expect("it is not zero"),
                linger: Duration::from_millis(5),
                max_waiting: (10 * BATCH).try_into().expect("it is not zero"),
                retry_after: SECOND / 10,
            },
            max_poll_interval: 300 * SECOND,
            write_timeout: 10 * SECOND,
        };
        let _entered = runtime.enter();
        let store = runtime.block_on(Store::connect(database));
        let store = store.expect("the file is created");
        Self {
            producer: producer.expect("the settings are valid"),
            job: Runner::start(&config, store, None).expect("they are valid"),
        }
    }

    async fn write(&self, first: u64) {
        let comments = comments(first);
        let all = comments.iter().map(|c| self.producer.publish(c));
        for published in join_all(all).await {
            published.expect("the broker is up");
        }
        while self.job.report().written < first + COMMENTS {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

struct Raw {
    producer: BaseProducer,
    pool: SqlitePool,
    insert: String,
}

impl Raw {
    fn start(runtime: &Runtime, brokers: &str, database: &str) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .create();
        let create = format!("{database}?mode=rwc");
        let pool = runtime.block_on(async {
            let pool = SqlitePool::connect(&create).await?;
            let setup = raw_sql(
                "PRAGMA journal_mode = WAL;
                CREATE TABLE comment (
                    arrival INTEGER PRIMARY KEY, id BIGINT NOT NULL UNIQUE,
                    subject BIGINT NOT NULL, author BIGINT NOT NULL,
                    body TEXT NOT NULL, created_ms BIGINT NOT NULL
                );
                CREATE INDEX comment_page
                    ON comment (subject, created_ms, id);",
            );
            setup.execute(&pool).await?;
            Ok::<_, sqlx::Error>(pool)
        });
        let rows = vec!["(?, ?, ?, ?, ?)"; BATCH].join(", ");
        let columns = "id, subject, author, body, created_ms";
        Self {
            producer: producer.expect("the settings are valid"),
            pool: pool.expect("the file is created"),
            insert: format!("INSERT INTO comment ({columns}) VALUES {rows}"),
        }
    }

    async fn write(&self, first: u64) {
        let comments = comments(first);
        for comment in &comments {
            let (key, value) =
                (comment.subject.to_string(), comment.to_bytes());
            let record = BaseRecord::to("raw").key(&key).payload(&value);
            let sent = self.producer.send(record);
            sent.map_err(|(error, _)| error).expect("the queue has room");
        }
        self.producer.flush(10 * SECOND).expect("the broker is up");
        for batch in comments.chunks(BATCH) {
            self.insert(batch).await.expect("the file can be written");
        }
    }

    async fn insert(&self, batch: &[Comment]) -> sqlx::Result<()> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let row = "(?, ?, ?, ?, ?)".len() + ", ".len();
        let end = self.insert.len() - (BATCH - batch.len()) * row;
        let insert = AssertSqlSafe(&self.insert[..end]);
        let mut query = sqlx::query(insert);
        for comment in batch {
            query = query.bind(comment.id.cast_signed());
            query = query.bind(comment.subject.cast_signed());
            query = query.bind(comment.author.cast_signed());
            query = query.bind(comment.text.as_str());
            query = query.bind(comment.created_ms.cast_signed());
        }
        query.execute(&mut *transaction).await?;
        transaction.commit().await
    }
}
