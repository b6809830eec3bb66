//! The producer: a comment is acknowledged when Kafka has it.
//!
//! **Question.** A hundred thousand comments arrive in a second, and each author
//! wants to know that their comment is safe. What may the API answer, and when?
//!
//! **Idea.** [`publish`](Producer::publish) returns when all replicas that are in
//! sync have the record (`acks=all`). Records wait for a few milliseconds
//! (`linger.ms`), so that many share a request. The key is the subject, so the
//! comments of a subject are in one partition, in the order of their
//! acknowledgment if each is sent after the one before was acknowledged.
//!
//! **Guarantee.** After `Ok`, the record survives the loss of this process, and
//! of any broker in a cluster with replicas. An error of
//! [`Unavailable`](PublishError::Unavailable) means that nobody knows, so the
//! client sends the comment again with the same id, and the table has it once. A
//! comment that the table refuses is refused here, and not after its
//! acknowledgment.
//!
//! **Cost.** Each acknowledgment is late by the linger time. One subject is one
//! partition, so a celebrity's comments have the throughput of one partition.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use crate::backlog::Backlog;
use crate::comment::{Comment, Invalid};

/// The settings of a [`Producer`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The bootstrap servers: `host:port`, separated by commas.
    pub brokers: String,
    /// The topic of the comments.
    pub topic: String,
    /// The longest time of [`Producer::publish`]. librdkafka checks it once a
    /// second, so an error can come a second later.
    pub timeout: Duration,
}

/// Sends comments to Kafka. A clone uses the same connections.
#[derive(Clone)]
pub struct Producer {
    producer: FutureProducer,
    topic: Arc<str>,
    backlog: Option<Backlog>,
}

/// The reason why a comment is not known to be in Kafka.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The text, or the record, is larger than the limit. It was not sent.
    #[error("the comment is too large")]
    TooLarge,
    /// No table accepts the comment. It was not sent.
    #[error("the comment is invalid")]
    Invalid(#[source] Invalid),
    /// Too many comments wait to be written, or to be sent. It was not sent:
    /// send it again after this time.
    #[error("too many comments wait")]
    Overloaded {
        /// The time after which another attempt makes sense.
        retry_after: Duration,
    },
    /// No broker has acknowledged the comment before the time limit. It may be in
    /// Kafka or not: send it again with the same id.
    #[error("no broker has acknowledged the comment")]
    Unavailable(#[source] KafkaError),
}

/// The longest pause before a client connects again. The default, ten seconds,
/// is longer than the time limit of a request.
pub(crate) const RECONNECT_MS: &str = "1000";

/// The time until some of the records that wait to be sent are sent.
const QUEUE_RETRY: Duration = Duration::from_secs(1);

impl Producer {
    /// Creates a producer. It connects in the background. With a backlog, it
    /// refuses comments while too many wait to be written.
    ///
    /// # Errors
    ///
    /// Returns an error if librdkafka refuses a setting.
    pub fn new(config: &Config, backlog: Option<Backlog>) -> KafkaResult<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .set("reconnect.backoff.max.ms", RECONNECT_MS)
            .set("acks", "all")
            // Without it, a batch that is sent again can overtake the next one.
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            // As the clients for Java do, so that all agree on the partition.
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", config.timeout.as_millis().to_string())
            .create()?;
        let topic = config.topic.as_str().into();
        Ok(Self { producer, topic, backlog })
    }

    /// Sends a comment, and returns when it is durable.
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    ///
    /// # Cancel safety
    ///
    /// The first poll hands the record to librdkafka. If the future is dropped
    /// after it, the record is sent all the same, and only the answer is lost. So
    /// a client that disconnects neither loses nor recalls its comment. A future
    /// that was never polled has sent nothing.
    pub async fn publish(&self, comment: &Comment) -> Result<(), PublishError> {
        comment.check().map_err(|invalid| match invalid {
            Invalid::TextTooLong => PublishError::TooLarge,
            Invalid::NulInText | Invalid::NumberTooLarge => {
                PublishError::Invalid(invalid)
            }
        })?;
        if let Some(backlog) = &self.backlog {
            let in_flight = self.producer.in_flight_count().unsigned_abs();
            backlog.admit(in_flight.into()).map_err(|retry_after| {
                PublishError::Overloaded { retry_after }
            })?;
        }
        let (key, value) = (comment.subject.to_string(), comment.to_bytes());
        let record = FutureRecord::to(&self.topic).key(&key).payload(&value);
        let sent = self.producer.send_result(record);
        let delivery = sent.map_err(|(error, _)| publish_error(error))?;
        match delivery.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(publish_error(error)),
            Err(_canceled) => {
                Err(PublishError::Unavailable(KafkaError::Canceled))
            }
        }
    }

    /// Waits until no record waits for its acknowledgment. Without it, the drop
    /// of the last clone gives up the records of dropped futures.
    ///
    /// # Errors
    ///
    /// Returns an error if some still wait after `limit`.
    ///
    /// # Panics
    ///
    /// Panics if the runtime shuts down meanwhile.
    pub async fn flush(&self, limit: Duration) -> KafkaResult<()> {
        let producer = self.producer.clone();
        let flush = tokio::task::spawn_blocking(move || producer.flush(limit));
        flush.await.expect("a flush does not panic")
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let topic = &self.topic;
        f.debug_struct("Producer").field("topic", topic).finish_non_exhaustive()
    }
}

fn publish_error(error: KafkaError) -> PublishError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::QueueFull) => {
            PublishError::Overloaded { retry_after: QUEUE_RETRY }
        }
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => PublishError::TooLarge,
        _ => PublishError::Unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn records_without_an_acknowledgment_count_as_waiting() {
        let config = Config {
            brokers: "127.0.0.1:1".to_owned(), // no broker answers
            topic: "comments".to_owned(),
            timeout: Duration::from_secs(60),
        };
        let backlog = Backlog::measured_as_empty(10);
        let producer = Producer::new(&config, Some(backlog.clone())).unwrap();
        let comment = Comment {
            id: 1,
            subject: 7,
            author: 1,
            text: "hi".to_owned(),
            created_ms: 0,
        };
        let publish = || {
            let publish = pin!(producer.publish(&comment));
            let mut context = Context::from_waker(Waker::noop());
            let outcome = publish.poll(&mut context);
            // No broker has the record, so it is not part of the lag.
            backlog.measure_again();
            outcome
        };
        assert!(publish().is_pending(), "10 may wait");
        let refused = (0..11).find_map(|_| match publish() {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        });
        assert!(
            matches!(refused, Some(Err(PublishError::Overloaded { .. }))),
            "11 records are in flight, and 10 may wait: {refused:?}"
        );
    }
}
