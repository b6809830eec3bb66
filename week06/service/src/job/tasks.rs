//! What runs on the tokio runtime: writes and dead letters.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::runtime::Handle;
use tokio::time::timeout;
use week06::shave::{Event, Record};

use super::{AfterWrite, Config, Input, Report};
use crate::comment::Comment;
use crate::producer::RECONNECT_MS;
use crate::store::{InsertError, Inserted, Store};

/// A record of the topic.
#[derive(Debug)]
pub(super) struct Message {
    /// `None` if the bytes do not decode.
    comment: Option<Arc<Comment>>,
    /// The bytes of a record that does not decode. Otherwise it is empty.
    undecoded: Vec<u8>,
    /// Why the record is a dead letter.
    reason: OnceLock<String>,
}

/// Starts tasks whose answers arrive as inputs.
pub(super) struct Tasks {
    runtime: Handle,
    store: Store,
    after_write: Option<AfterWrite>,
    inputs: SyncSender<Input>,
    pub(super) counters: Arc<Counters>,
    producer: FutureProducer,
    dead_letters: String,
    topic: String,
    write_timeout: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    written: AtomicU64,
    repeated: AtomicU64,
    dead_letters: AtomicU64,
    failures: AtomicU64,
    pub(super) refused_commits: AtomicU64,
}

/// Sends an event when it is dropped: the failure, unless something better has
/// happened. So a task that panics or is aborted answers, too.
struct Answer {
    event: Option<Event<Arc<Message>>>,
    inputs: SyncSender<Input>,
    counters: Arc<Counters>,
}

/// The most bytes of a dead letter. With its headers, it fits into the default
/// limit of brokers, 1 MB.
const MAX_DEAD_LETTER: usize = 900_000;

/// The most characters of the reason. A decoder quotes the value that it does
/// not expect, so a reason can be as long as the record.
const MAX_REASON: usize = 1000;

/// The longest time of [`AfterWrite`].
const AFTER_WRITE: Duration = Duration::from_secs(1);

impl Message {
    pub(super) fn decode(payload: &[u8]) -> Self {
        let reason = OnceLock::new();
        match Comment::from_bytes(payload) {
            Ok(comment) => {
                let comment = Some(Arc::new(comment));
                Self { comment, undecoded: Vec::new(), reason }
            }
            Err(error) => {
                let _ = reason.set(format!("it does not decode: {error}"));
                Self { comment: None, undecoded: payload.to_owned(), reason }
            }
        }
    }
}

impl Tasks {
    pub(super) fn new(
        config: &Config,
        runtime: Handle,
        store: Store,
        after_write: Option<AfterWrite>,
        inputs: SyncSender<Input>,
        counters: Arc<Counters>,
    ) -> KafkaResult<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &config.brokers)
            .set("reconnect.backoff.max.ms", RECONNECT_MS)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set(
                "message.timeout.ms",
                config.write_timeout.as_millis().to_string(),
            )
            .create()?;
        Ok(Self {
            runtime,
            store,
            after_write,
            inputs,
            counters,
            producer,
            dead_letters: config.dead_letters.clone(),
            topic: config.topic.clone(),
            write_timeout: config.write_timeout,
        })
    }

    /// Writes a batch, or rejects its first record that does not decode.
    pub(super) fn write(&self, batch: Vec<Record<Arc<Message>>>) {
        let answer = self.answer(Event::WriteFailed);
        let decoded = batch.iter().map(|record| record.value.comment.clone());
        let comments: Result<Vec<_>, usize> = decoded
            .enumerate()
            .map(|(index, comment)| comment.ok_or(index))
            .collect();
        let comments = match comments {
            Ok(comments) => comments,
            Err(index) => {
                answer.send(Event::Rejected(index));
                return;
            }
        };
        let (store, limit) = (self.store.clone(), self.write_timeout);
        let after_write = self.after_write.clone();
        self.runtime.spawn(async move {
            match timeout(limit, store.insert(&comments)).await {
                Ok(Ok(inserted)) => {
                    answer.counters.inserted(inserted);
                    if let Some(after_write) = after_write {
                        // In a task of its own, a panic ends only the hook.
                        let mut hook =
                            tokio::spawn(after_write(comments, inserted));
                        if timeout(AFTER_WRITE, &mut hook).await.is_err() {
                            hook.abort();
                        }
                    }
                    answer.send(Event::Written);
                }
                Ok(Err(InsertError::Rejected { index, reason })) => {
                    let _ = batch[index].value.reason.set(reason);
                    answer.send(Event::Rejected(index));
                }
                // The batch is inserted again.
                Ok(Err(
                    InsertError::Unavailable(_) | InsertError::Unconfirmed(_),
                ))
                | Err(_) => {}
            }
        });
    }

    /// Sends a record to the dead-letter topic, with the reason and its origin as
    /// headers. A payload or a reason that is too large for a record is cut.
    pub(super) fn send_dead_letter(&self, record: &Record<Arc<Message>>) {
        let answer = self.answer(Event::DeadLetterFailed);
        let Message { comment, undecoded, reason } = &*record.value;
        let encoded = comment.as_ref().map(|comment| comment.to_bytes());
        let payload = encoded.as_ref().unwrap_or(undecoded);
        let cut = &payload[..payload.len().min(MAX_DEAD_LETTER)];
        let reason = reason.get().map_or("", String::as_str);
        let reason: String = reason.chars().take(MAX_REASON).collect();
        let origin = format!("{}/{}", self.topic, record.partition);
        let headers = OwnedHeaders::new()
            .insert(Header { key: "reason", value: Some(&reason) })
            .insert(Header { key: "origin", value: Some(&origin) })
            .insert(Header {
                key: "offset",
                value: Some(&record.offset.to_string()),
            })
            .insert(Header {
                key: "size",
                value: Some(&payload.len().to_string()),
            });
        // The key of the origin: a dead letter can be sent there again.
        let key = comment.as_ref().map(|comment| comment.subject.to_string());
        let mut letter = FutureRecord::<str, [u8]>::to(&self.dead_letters)
            .payload(cut)
            .headers(headers);
        letter.key = key.as_deref();
        let Ok(delivery) = self.producer.send_result(letter) else {
            return; // the queue is full: later
        };
        self.runtime.spawn(async move {
            if let Ok(Ok(_)) = delivery.await {
                answer.counters.dead_letters.fetch_add(1, Relaxed);
                answer.send(Event::DeadLettered);
            }
        });
    }

    fn answer(&self, failure: Event<Arc<Message>>) -> Answer {
        Answer {
            event: Some(failure),
            inputs: self.inputs.clone(),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl Answer {
    fn send(mut self, event: Event<Arc<Message>>) {
        self.event = Some(event);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let Some(event) = self.event.take() else { return };
        if let Event::WriteFailed | Event::DeadLetterFailed = event {
            self.counters.failures.fetch_add(1, Relaxed);
        }
        // It can only fail when the thread has ended.
        let _ = self.inputs.try_send(Input::Event(event));
    }
}

impl Counters {
    fn inserted(&self, Inserted { new, repeated }: Inserted) {
        self.written.fetch_add(new as u64, Relaxed);
        self.repeated.fetch_add(repeated as u64, Relaxed);
    }

    pub(super) fn report(&self) -> Report {
        Report {
            written: self.written.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            dead_letters: self.dead_letters.load(Relaxed),
            failures: self.failures.load(Relaxed),
            refused_commits: self.refused_commits.load(Relaxed),
        }
    }
}
