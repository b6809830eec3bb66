//! The queue between the relay and the savings service.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use rdkafka::consumer::{BaseConsumer, Consumer as _, StreamConsumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::Message as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio::task::spawn_local;

/// The topic, and the number of its partitions.
pub(crate) const TOPIC: (&str, i32) = ("transfers", 2);

/// The most messages that are handled together.
const BATCH: usize = 100;

/// Creates a producer, which connects in the background.
pub(crate) fn producer(brokers: &str) -> KafkaResult<FutureProducer> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // The relay waits for each acknowledgment.
        .set("linger.ms", "0")
        .create()
}

/// Publishes a message, and returns whether Kafka has acknowledged it.
pub(crate) async fn publish(
    producer: &FutureProducer,
    key: &str,
    message: &str,
) -> bool {
    let record = FutureRecord::to(TOPIC.0).key(key).payload(message);
    producer.send(record, Timeout::Never).await.is_ok()
}

/// The group of the consumers.
const GROUP: &str = "savings";

/// The longest time until Kafka answers a question.
const ANSWER: Duration = Duration::from_secs(5);

/// Asks for the lag of the consumers.
pub(crate) struct Observer {
    consumer: BaseConsumer,
}

impl Observer {
    pub(crate) fn new(brokers: &str) -> KafkaResult<Self> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", GROUP)
            .create()?;
        Ok(Self { consumer })
    }

    /// Returns the number of messages that are not acknowledged. It blocks the
    /// thread.
    pub(crate) fn lag(&self) -> KafkaResult<i64> {
        let (topic, partitions) = TOPIC;
        let mut all = TopicPartitionList::new();
        all.add_partition_range(topic, 0, partitions - 1);
        let committed = self.consumer.committed_offsets(all, ANSWER)?;
        let mut lag = 0;
        for partition in committed.elements() {
            let number = partition.partition();
            let (start, end) =
                self.consumer.fetch_watermarks(topic, number, ANSWER)?;
            lag += end
                - match partition.offset() {
                    Offset::Offset(committed) => committed,
                    _ => start,
                };
        }
        Ok(lag)
    }
}

/// Passes the messages that have arrived to `handle`, and acknowledges them
/// afterwards. The partitions are handled at the same time, and the messages of
/// a partition one batch after the other.
pub(crate) async fn consume(
    brokers: &str,
    handle: impl AsyncFn(&[String]) + 'static,
) -> Result<()> {
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", GROUP)
        .set("group.protocol", "consumer")
        .set("auto.offset.reset", "earliest")
        // The stored offsets are committed, and an offset is stored after the
        // message is credited.
        .set("enable.auto.offset.store", "false")
        .set("auto.commit.interval.ms", "100")
        // The mock cluster answers an empty fetch only after this time.
        .set("fetch.wait.max.ms", "5")
        .create()?;
    consumer.subscribe(&[TOPIC.0])?;
    let (consumer, handle) = (Rc::new(consumer), Rc::new(handle));
    let mut partitions: HashMap<i32, mpsc::Sender<(i64, String)>> =
        HashMap::new();
    loop {
        // The client connects again on its own.
        let Ok(message) = consumer.recv().await else { continue };
        let text = message.payload().unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        let number = message.partition();
        let partition = partitions.entry(number).or_insert_with(|| {
            let (sender, mut receiver) = mpsc::channel(BATCH);
            let (consumer, handle) = (Rc::clone(&consumer), Rc::clone(&handle));
            spawn_local(async move {
                let mut batch = Vec::new();
                while receiver.recv_many(&mut batch, BATCH).await > 0 {
                    let (offsets, texts): (Vec<i64>, Vec<String>) =
                        batch.drain(..).unzip();
                    handle(&texts).await;
                    // It fails if the partition has another consumer now.
                    if let Some(last) = offsets.last() {
                        let _ = consumer.store_offset(TOPIC.0, number, *last);
                    }
                }
            });
            sender
        });
        partition.send((message.offset(), text)).await?;
    }
}
