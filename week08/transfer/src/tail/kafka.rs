//! A [`Publisher`] that stores messages in a topic of Kafka.

use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use week08::poller::aggregate;
use week08::tailer::Message;

use super::Publisher;

/// Publishes to one topic. The aggregate is the key of a record, so its messages
/// are in one partition. The key of the message is in the header [`KEY`]: by it,
/// a consumer recognizes a repetition.
pub struct Kafka {
    producer: FutureProducer,
    topic: String,
}

/// The name of the header with the key of a message.
pub const KEY: &str = "key";

impl Kafka {
    /// Creates a producer. `timeout` is the time after which a message that is
    /// not acknowledged has failed.
    ///
    /// # Errors
    ///
    /// Returns an error if a setting is wrong. A broker that is away is none.
    pub fn new(
        bootstrap: &str,
        topic: &str,
        timeout: Duration,
    ) -> KafkaResult<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            // All replicas in sync have it: acknowledged is durable.
            .set("acks", "all")
            // The client's own retries neither repeat nor overtake.
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", timeout.as_millis().to_string())
            .set("linger.ms", "1")
            .create()?;
        Ok(Self { producer, topic: topic.to_owned() })
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Publisher for Kafka {
    async fn publish(&self, message: Message) -> bool {
        let key = Header { key: KEY, value: Some(&message.key) };
        let record = FutureRecord::to(&self.topic)
            .key(aggregate(&message.key))
            .headers(OwnedHeaders::new().insert(key))
            .payload(&message.value);
        // Without waiting: a full queue is a failure, and retried.
        let no_time = Timeout::After(Duration::ZERO);
        self.producer.send(record, no_time).await.is_ok()
    }
}
