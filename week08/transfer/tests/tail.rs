//! Transaction log tailing on a real server.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lab::servers::Postgres;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use week08::money::{Table, Tx as _};
use week08::poller::aggregate;
use week08::tailer::{self, Lag, Message};
use week08_transfer::sql::Ledger;
use week08_transfer::tail::kafka::{KEY, Kafka};
use week08_transfer::tail::{Config, Publisher, TailError, create, run};

const DEADLINE: Duration = Duration::from_secs(30);

/// A broker that accepts all messages.
const UP: fn(&str) -> bool = |_| true;

/// A broker that is away.
const DOWN: fn(&str) -> bool = |_| false;

/// A broker in memory.
struct Memory {
    /// The keys and values in the order of their arrival.
    log: watch::Sender<Vec<(String, String)>>,
    /// Returns whether the broker accepts the message of a key.
    accepts: watch::Sender<fn(&str) -> bool>,
    /// How many of the next messages fail after they are stored.
    failures: AtomicU64,
}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            log: watch::Sender::default(),
            accepts: watch::Sender::new(UP),
            failures: AtomicU64::new(0),
        })
    }

    /// Waits until messages of so many different keys are stored.
    async fn wait_for(&self, keys: usize) -> Vec<(String, String)> {
        let mut log = self.log.subscribe();
        let count = |log: &Vec<(String, String)>| {
            log.iter().map(|(key, _)| key).collect::<BTreeSet<_>>().len()
        };
        let waited = timeout(DEADLINE, log.wait_for(|log| count(log) >= keys));
        match waited.await {
            Ok(log) => log.expect("the sender is here").clone(),
            Err(_) => panic!(
                "expected {keys} keys, seen {}",
                count(&self.log.borrow())
            ),
        }
    }
}

impl Publisher for Memory {
    async fn publish(&self, message: Message) -> bool {
        let mut accepts = self.accepts.subscribe();
        let is_up = accepts.wait_for(|accepts| accepts(&message.key)).await;
        drop(is_up.expect("the sender is here"));
        let entry = (message.key, message.value);
        self.log.send_modify(|log| log.push(entry));
        let one_less = |n: u64| n.checked_sub(1);
        let (set, load) = (Ordering::SeqCst, Ordering::SeqCst);
        self.failures.fetch_update(set, load, one_less).is_err()
    }
}

/// A server with an outbox and a tailer.
struct Setup {
    server: Postgres,
    ledger: Ledger,
    broker: Arc<Memory>,
}

impl Setup {
    async fn start() -> Self {
        let server = Postgres::start_with(&[
            "wal_level=logical",
            "synchronous_commit=on",
            "wal_sender_timeout=1s",
        ]);
        Self::with(server.expect("it starts")).await
    }

    async fn with(server: Postgres) -> Self {
        let ledger = Ledger::connect(&server.url()).await.unwrap();
        server.psql("CREATE TABLE other (value TEXT)").unwrap();
        let setup = Self { server, ledger, broker: Memory::new() };
        create(&setup.config()).await.unwrap();
        setup
    }

    fn config(&self) -> Config {
        Config {
            url: self.server.url(),
            slot: "outbox".to_owned(),
            tailer: tailer::Config {
                schema: "public".to_owned(),
                table: "outbox".to_owned(),
                max_unacknowledged: 8.try_into().unwrap(),
                retry_ms: 10,
                // A position is confirmed before the tailer dies.
                status_interval_ms: 1,
                lag_limit: 1_000_000,
            },
            tick: Duration::from_millis(10),
            probe: Duration::from_millis(20),
            reports: watch::Sender::default(),
        }
    }

    fn tail(&self) -> (Tailing, watch::Receiver<Option<Lag>>) {
        let config = self.config();
        let received = config.reports.subscribe();
        let (broker, shutdown) =
            (self.broker.clone(), CancellationToken::new());
        let token = shutdown.clone();
        let task = tokio::spawn(async move {
            loop {
                let ended = run(config.clone(), &*broker, token.clone()).await;
                match ended {
                    Err(error) if error.is_slot_in_use() => {
                        tokio::task::yield_now().await;
                    }
                    ended => return ended,
                }
            }
        });
        (Tailing { shutdown, task }, received)
    }

    /// Inserts messages in one transaction.
    async fn insert(&self, keys: &[&str]) {
        let insert = async |tx: &mut week08_transfer::sql::SqlTx| {
            for key in keys {
                tx.insert(Table::Outbox, key, &format!("value of {key}"))
                    .await?;
            }
            Ok::<_, sqlx::Error>(())
        };
        self.ledger.transaction(insert).await.unwrap();
    }

    /// Waits until a query returns `t`.
    async fn wait_until(&self, query: &str) {
        let wait = async {
            while self.server.psql(query).unwrap().trim() != "t" {
                tokio::task::yield_now().await;
            }
        };
        let waited = timeout(DEADLINE, wait).await;
        assert!(waited.is_ok(), "expected a row `t` of {query}");
    }

    /// Waits until the server has got a status update that was sent after all
    /// of the log was received.
    async fn wait_until_confirmed(&self) {
        let end = self.server.psql("SELECT pg_current_wal_lsn()").unwrap();
        let is_sent = format!("sent_lsn >= '{}'", end.trim());
        self.wait_until(&format!("SELECT {is_sent} FROM pg_stat_replication"))
            .await;
        // The first one may have been on its way.
        for _ in 0..2 {
            let now = self.server.psql("SELECT clock_timestamp()").unwrap();
            let is_later = format!("reply_time > '{}'", now.trim());
            self.wait_until(&format!(
                "SELECT {is_later} FROM pg_stat_replication"
            ))
            .await;
        }
    }

    async fn wait_until_connected(&self) {
        self.wait_until("SELECT count(*) = 1 FROM pg_stat_replication").await;
    }
}

struct Tailing {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), TailError>>,
}

impl Tailing {
    async fn stop(self) {
        self.shutdown.cancel();
        let ended = timeout(DEADLINE, self.task).await;
        ended.expect("it ends").expect("no panic").expect("no error");
    }
}

fn keys_of(log: &[(String, String)], name: &str) -> Vec<String> {
    let keys = log.iter().map(|(key, _)| key);
    keys.filter(|key| aggregate(key) == name).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn commits_are_published_once_in_order() {
    let setup = Arc::new(Setup::start().await);
    let (tailing, _reports) = setup.tail();
    setup.wait_until_connected().await;
    let mut tasks = JoinSet::new();
    for name in ["a", "b", "c"] {
        let setup = Arc::clone(&setup);
        tasks.spawn(async move {
            for number in (0..40).step_by(2) {
                let keys = [number, number + 1].map(|n| format!("{name}/{n}"));
                setup.insert(&keys.each_ref().map(|key| &**key)).await;
                let failed = setup.ledger.transaction(async |tx| {
                    let key = format!("{name}/rolled back {number}");
                    tx.insert(Table::Outbox, &key, "").await?;
                    tx.delete(Table::Outbox, &keys[0]).await?;
                    Err::<(), _>(sqlx::Error::RowNotFound)
                });
                assert!(failed.await.is_err());
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    // Deleted in its transaction, emptied, and too long for a row.
    let long = "long ".repeat(20_000);
    let deleted = setup.ledger.transaction(async |tx| {
        tx.insert(Table::Outbox, "d/1", &long).await?;
        tx.delete(Table::Outbox, "d/1").await
    });
    assert!(deleted.await.unwrap());
    setup.server.psql("TRUNCATE outbox").unwrap();
    setup.insert(&["d/2"]).await;

    let log = setup.broker.wait_for(3 * 40 + 2).await;
    for name in ["a", "b", "c"] {
        let expected: Vec<_> = (0..40).map(|n| format!("{name}/{n}")).collect();
        assert_eq!(keys_of(&log, name), expected);
    }
    assert_eq!(keys_of(&log, "d"), ["d/1", "d/2"]);
    let values: BTreeMap<_, _> = log.into_iter().collect();
    assert_eq!(values["d/1"], long);
    assert_eq!(values["a/7"], "value of a/7");
    tailing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn a_tailer_that_stops_or_dies_resumes_without_loss() {
    let setup = Setup::start().await;
    let mut expected = Vec::new();
    for round in 0..6 {
        let (tailing, _reports) = setup.tail();
        setup.wait_until_connected().await;
        setup.broker.failures.store(round % 3, Ordering::SeqCst);
        for number in 0..5 {
            // The second half is in flight or unread when the tailer ends.
            setup.broker.accepts.send_replace(if number < 3 {
                UP
            } else {
                DOWN
            });
            let keys = ["a", "b", "c", "a"].map(|name| {
                let key = format!("{name}/{}", expected.len());
                expected.push(key.clone());
                key
            });
            setup.insert(&keys.each_ref().map(|key| &**key)).await;
        }
        if round % 2 == 0 {
            tailing.stop().await;
        } else {
            tailing.task.abort();
        }
        setup.insert(&[&format!("a/{}", expected.len())]).await;
        expected.push(format!("a/{}", expected.len()));
        setup.broker.accepts.send_replace(UP);
    }
    let (tailing, _reports) = setup.tail();
    let log = setup.broker.wait_for(expected.len()).await;
    let mut seen = BTreeSet::new();
    let first: Vec<_> =
        log.into_iter().filter(|(key, _)| seen.insert(key.clone())).collect();
    for name in ["a", "b", "c"] {
        let of_name = expected.iter().filter(|key| aggregate(key) == name);
        let of_name: Vec<_> = of_name.cloned().collect();
        assert_eq!(keys_of(&first, name), of_name, "first publications");
    }
    tailing.stop().await;
}

/// The server must not have got a position after a message that the broker has
/// not acknowledged: neither that of its transaction nor that of a keepalive.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn a_crash_loses_no_message_that_was_not_acknowledged() {
    let setup = Setup::start().await;
    for round in 0..2 {
        let (tailing, _reports) = setup.tail();
        setup.wait_until_connected().await;
        setup.broker.accepts.send_replace(|key| key.starts_with("a/"));
        let keys = ["a", "b"].map(|name| format!("{name}/{round}"));
        setup.insert(&keys.each_ref().map(|key| &**key)).await;
        setup.broker.wait_for(2 * round + 1).await;
        if round == 1 {
            // A transaction that the server does not send: a keepalive.
            setup.server.psql("INSERT INTO other VALUES ('')").unwrap();
        }
        setup.wait_until_confirmed().await;
        tailing.task.abort();

        let (tailing, _reports) = setup.tail();
        setup.broker.accepts.send_replace(UP);
        setup.broker.wait_for(2 * round + 2).await;
        tailing.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn a_message_may_be_published_before_its_row_is_visible() {
    let server = Postgres::start_with(&[
        "wal_level=logical",
        "synchronous_standby_names=nobody",
    ]);
    let server = server.expect("it starts");
    // The others do not wait for a standby that does not exist.
    let local = "SET synchronous_commit = local;
        ALTER ROLE postgres SET synchronous_commit = local;
        CHECKPOINT";
    server.psql(local).unwrap();
    let setup = Setup::with(server).await;
    let (tailing, _reports) = setup.tail();
    setup.wait_until_connected().await;
    let options = PgConnectOptions::from_str(&setup.server.url()).unwrap();
    let options = options.options([("synchronous_commit", "on")]);
    let inserting = tokio::spawn(async move {
        let mut connection = PgConnection::connect_with(&options).await?;
        let insert = "INSERT INTO outbox (key, value) VALUES ('a/1', '')";
        sqlx::raw_sql(insert).execute(&mut connection).await
    });
    setup.broker.wait_for(1).await;
    // The commit is in the log, and waits.
    let waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    setup.wait_until(&format!("SELECT count(*) = 1 {waiting}")).await;
    let rows = || setup.server.psql("SELECT count(*) FROM outbox").unwrap();
    assert_eq!(rows().trim(), "0", "rows that others see");
    let cancel = format!("SELECT pg_cancel_backend(pid) {waiting}");
    setup.server.psql(&cancel).unwrap();
    inserting.await.unwrap().expect("it is committed");
    assert_eq!(rows().trim(), "1");
    tailing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn the_slot_of_a_quiet_outbox_follows_a_busy_table() {
    let setup = Setup::start().await;
    let (tailing, _reports) = setup.tail();
    setup.wait_until_connected().await;
    for _ in 0..3 {
        let end = setup.server.psql(
            "INSERT INTO other SELECT repeat('x', 1000)
                FROM generate_series(1, 3000);
            SELECT pg_current_wal_lsn()",
        );
        let is_confirmed = format!(
            "SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots",
            end.unwrap().trim()
        );
        setup.wait_until(&is_confirmed).await;
    }
    assert!(setup.broker.log.borrow().is_empty());
    tailing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn a_broker_that_is_away_costs_a_report_and_no_connection() {
    let setup = Setup::start().await;
    let (tailing, mut reports) = setup.tail();
    setup.wait_until_connected().await;
    setup.broker.accepts.send_replace(DOWN);
    for number in 0..20 {
        setup.insert(&[&format!("{number}/{number}")]).await;
    }
    setup
        .server
        .psql(
            "INSERT INTO other SELECT repeat('x', 1000)
            FROM generate_series(1, 3000)",
        )
        .unwrap();
    let behind = |lag: &_| matches!(lag, Some(Lag::Behind(1_000_001..)));
    let waited = timeout(DEADLINE, reports.wait_for(behind)).await;
    waited.expect("a report").expect("the sender is here");
    // Longer than the timeout of the server.
    setup
        .wait_until(
            "SELECT now() > backend_start + '3 s' FROM pg_stat_replication",
        )
        .await;
    setup.broker.accepts.send_replace(UP);
    let log = setup.broker.wait_for(20).await;
    assert_eq!(log.len(), 20, "published once: {log:?}");
    let caught_up = |lag: &_| matches!(lag, Some(Lag::CaughtUp(..=500_000)));
    let waited = timeout(DEADLINE, reports.wait_for(caught_up)).await;
    waited.expect("a report").expect("the sender is here");
    tailing.stop().await;
}

/// A new slot begins at the end of the log: creating it silently would lose all
/// earlier messages.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs postgres"]
async fn a_dropped_slot_is_an_error_and_not_created_again() {
    let setup = Setup::start().await;
    setup.server.psql("SELECT pg_drop_replication_slot('outbox')").unwrap();
    let (tailing, _reports) = setup.tail();
    let ended = timeout(DEADLINE, tailing.task).await;
    let error = ended.expect("it ends").expect("no panic").unwrap_err();
    assert!(
        matches!(&error, TailError::NoSlot(slot) if slot == "outbox"),
        "expected that the slot outbox is missing, got {error:?}"
    );
    let slots = setup.server.psql("SELECT slot_name FROM pg_replication_slots");
    assert_eq!(slots.unwrap(), "", "slots");
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_stores_messages_in_order_with_aggregate_and_key() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("transfers", 1, 1).unwrap();
    let bootstrap = cluster.bootstrap_servers();
    let kafka = Kafka::new(&bootstrap, "transfers", DEADLINE).unwrap();
    for id in 0..3 {
        let (key, value) = (format!("a/{id}"), format!("value {id}"));
        assert!(kafka.publish(Message { id, key, value }).await);
    }
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &bootstrap)
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut partition = TopicPartitionList::new();
    partition.add_partition_offset("transfers", 0, Offset::Beginning).unwrap();
    consumer.assign(&partition).unwrap();
    for id in 0..3 {
        let record = consumer.poll(DEADLINE).expect("a record").unwrap();
        assert_eq!(record.key(), Some(&b"a"[..]));
        let value = format!("value {id}");
        assert_eq!(record.payload(), Some(value.as_bytes()));
        let headers = record.headers().expect("a record has the header");
        let headers: Vec<_> =
            headers.iter().map(|h| (h.key, h.value)).collect();
        assert_eq!(headers, [(KEY, Some(format!("a/{id}").as_bytes()))]);
    }
}
