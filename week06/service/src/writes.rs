//! The write path: through Kafka, or directly to the database.
//!
//! Both end in [`Refresh::written`], which changes the pages of all processes
//! after a commit.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rdkafka::error::KafkaError;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::comment::{Comment, Invalid};
use crate::index::Index;
use crate::invalidation::{Bus, Change};
use crate::producer::{Producer, PublishError};
use crate::reads::Reads;
use crate::store::{InsertError, Inserted, Store};

/// Where accepted comments go.
#[derive(Debug, Clone)]
pub enum Writes {
    /// To Kafka. A job writes them to the database.
    Kafka(Producer),
    /// To the database, without a log in front of it.
    Direct(Direct),
}

/// The comment is not accepted, or nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is never accepted.
    #[error("the comment is not valid")]
    Invalid(#[source] Invalid),
    /// It does not fit into a message of Kafka.
    #[error("the comment is too large")]
    TooLarge,
    /// It is not accepted now.
    #[error("too many comments wait")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// It may be accepted. Send it again with the same id.
    #[error("the comment could not be written")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

/// Some writes have not ended in time.
#[derive(Debug, thiserror::Error)]
pub enum WritesPending {
    /// Kafka has not acknowledged all comments.
    #[error("kafka has not acknowledged all comments")]
    Kafka(#[source] KafkaError),
    /// The database has not answered all writes.
    #[error("the database has not answered all writes")]
    Database,
}

/// Writes each comment to the database at once.
#[derive(Debug, Clone)]
pub struct Direct {
    store: Store,
    refresh: Refresh,
    tasks: TaskTracker,
}

/// Changes pages after a write.
#[derive(Debug, Clone)]
pub struct Refresh {
    index: Option<Index>,
    reads: Reads,
    bus: Bus,
}

/// Generates ids: time, a sequence number and the node, from the highest bits
/// to the lowest. They rise within a node, and have 63 bits until 2093.
#[derive(Debug)]
pub struct Ids {
    node: u64,
    /// The latest id without its node.
    latest: AtomicU64,
}

const NODE_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;

/// The first millisecond of 2024.
const EPOCH_MS: u64 = 1_704_067_200_000;

impl Writes {
    /// Writes a comment. Once it returns `Ok`, the comment is durable.
    ///
    /// # Errors
    ///
    /// Returns a [`WriteError`] if the comment is not known to be durable.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the comment may be written. It is not lost
    /// half-way: if it is in the database, it is in the pages.
    pub async fn publish(&self, comment: &Comment) -> Result<(), WriteError> {
        comment.check().map_err(WriteError::Invalid)?;
        match self {
            Self::Kafka(producer) => Ok(producer.publish(comment).await?),
            Self::Direct(direct) => direct.write(comment.clone()).await,
        }
    }

    /// Waits until all writes have ended, also of callers that did not wait.
    ///
    /// # Errors
    ///
    /// Returns an error if some have not ended after `limit`.
    pub async fn stop(&self, limit: Duration) -> Result<(), WritesPending> {
        match self {
            Self::Kafka(producer) => {
                producer.flush(limit).await.map_err(WritesPending::Kafka)
            }
            Self::Direct(direct) => {
                direct.tasks.close();
                let ended = timeout(limit, direct.tasks.wait()).await;
                ended.map_err(|_elapsed| WritesPending::Database)
            }
        }
    }
}

impl Direct {
    /// Creates a write path without Kafka.
    #[must_use]
    pub fn new(store: Store, refresh: Refresh) -> Self {
        Self { store, refresh, tasks: TaskTracker::new() }
    }

    async fn write(&self, comment: Comment) -> Result<(), WriteError> {
        let Self { store, refresh, .. } = self.clone();
        // A task of its own: after a commit, the pages must change, also if the
        // client has disconnected meanwhile.
        let write = self.tasks.spawn(async move {
            let inserted = store.insert(&[&comment]).await;
            if let Err(InsertError::Unconfirmed(_)) = inserted {
                // If it is stored, a page without it would be wrong. As after a
                // repeated comment, the page is deleted.
                let unknown = Inserted { new: 0, repeated: 1 };
                refresh.written(&[&comment], unknown).await;
            }
            refresh.written(&[&comment], inserted?).await;
            Ok::<_, InsertError>(())
        });
        let unavailable = |error| WriteError::Unavailable(error);
        match write.await {
            Ok(written) => written.map_err(|error| unavailable(error.into())),
            Err(panicked) => Err(unavailable(panicked.into())),
        }
    }
}

impl Refresh {
    /// Creates the last step of a write path.
    #[must_use]
    pub fn new(index: Option<Index>, reads: Reads, bus: Bus) -> Self {
        Self { index, reads, bus }
    }

    /// Changes the pages of a batch that has been committed. Never fails: what
    /// cannot be changed now is deleted later.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, call it again.
    pub async fn written<C: Borrow<Comment>>(
        &self,
        batch: &[C],
        inserted: Inserted,
    ) {
        let mut subjects = BTreeMap::<u64, Vec<&Comment>>::new();
        for comment in batch.iter().map(Borrow::borrow) {
            subjects.entry(comment.subject).or_default().push(comment);
        }
        if let Some(index) = &self.index {
            // Together: the connection sends many calls in one packet.
            let refreshes = subjects.iter().map(|(subject, comments)| {
                index.refresh(*subject, comments, inserted.repeated == 0)
            });
            let mut refreshes: FuturesUnordered<_> = refreshes.collect();
            while refreshes.next().await.is_some() {}
        }
        // After the index: the next load reads it.
        for subject in subjects.into_keys() {
            self.reads.forget(Change::Subject(subject));
            self.bus.publish(subject);
        }
    }
}

impl From<PublishError> for WriteError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::TooLarge => Self::TooLarge,
            PublishError::Invalid(invalid) => Self::Invalid(invalid),
            PublishError::Overloaded { retry_after } => {
                Self::Overloaded { retry_after }
            }
            PublishError::Unavailable(error) => Self::Unavailable(error.into()),
        }
    }
}

impl Ids {
    /// Creates a generator. No two nodes that run have the same number.
    ///
    /// # Panics
    ///
    /// Panics if the number is not below 1024: with fewer of its bits, it is the
    /// number of another node, and two comments get one id.
    #[must_use]
    pub fn new(node: u16) -> Self {
        assert!(node < 1 << NODE_BITS, "node {node}, expected below 1024");
        Self { node: node.into(), latest: AtomicU64::new(0) }
    }

    /// Returns an id that no other call has got.
    pub fn next(&self, now_ms: u64) -> u64 {
        let time = now_ms.saturating_sub(EPOCH_MS) << SEQUENCE_BITS;
        // If the clock goes back, or the sequence is used up, the next number is
        // taken from the future.
        let next = |latest: u64| time.max(latest + 1);
        let update = |latest| Some(next(latest));
        let (Ok(latest) | Err(latest)) =
            self.latest.fetch_update(Relaxed, Relaxed, update);
        next(latest) << NODE_BITS | self.node
    }
}

/// Returns the time in milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
