//! Polling publisher: several pollers share an outbox, and keep the order.
//!
//! *Question.* One relay is too slow for the outbox, so three of them run. How
//! do they share the rows, so that a customer's cancellation is not published
//! before the order? And is a row skipped if it becomes visible late?
//!
//! *Idea.* Pollers share **aggregates**, and not rows. The hash of an aggregate
//! is its **bucket**. A poller claims a bucket with a **lease**, reads its rows
//! from the smallest `seq` on, publishes one after the other, and **finishes**:
//! it deletes the acknowledged rows and releases the lease.
//!
//! *Guarantee.* A row is deleted only after its acknowledgment, so none is lost
//! or skipped, and a gap in `seq` blocks nothing. If the rows of an aggregate
//! become visible in the order of `seq`, their *first* publications are in this
//! order. This holds even if a lease ends while its poller publishes, because
//! each poller begins with the smallest row that is left. The number of the
//! lease is a fence: after a takeover, the former owner deletes and releases
//! nothing.
//!
//! *Cost.* At least once: a row that is published and not deleted is published
//! again, and a repetition may arrive after later rows. A poller that is killed
//! blocks its bucket until the lease ends. A bucket is not faster than one
//! poller. An idle poller queries the database again and again, and a message
//! waits for the next query.
//!
//! ```
//! use week08::money::simulated::Database;
//! use week08::money::{Table, Tx};
//! use week08::poller::{Bounds, Config, Effect, Event, Poller, transact};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let mut database = Database::default();
//! database.insert(Table::Outbox, "customer-7/1", "ordered").await.unwrap();
//! let mut poller = Poller::new(Config {
//!     buckets: 64.try_into().unwrap(),
//!     batch: 100.try_into().unwrap(),
//!     lease_ms: 10_000,
//!     publish_timeout_ms: 2_000,
//!     pause_ms: Bounds { min: 10, max: 1_000 },
//!     backoff_ms: Bounds { min: 100, max: 60_000 },
//! });
//! let effect = poller.step(Event::Wake, 0);
//! let Some(Effect::Transact(claim)) = effect else { panic!() };
//! let claimed = transact(&mut database, &claim, 1_000_000).await.unwrap();
//! let effect = poller.step(Event::Committed(claimed), 3);
//! let Some(Effect::Publish(row)) = effect else { panic!() };
//! assert_eq!(row.value, "ordered");
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::num::NonZero;

use crate::money::{Row, Table, Tx};

/// The settings of a [`Poller`]. All pollers of an outbox have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// The number of buckets.
    pub buckets: NonZero<u32>,
    /// The most rows that one claim reads.
    pub batch: NonZero<usize>,
    /// How long a lease lasts. It must be longer than `publish_timeout_ms`.
    pub lease_ms: u64,
    /// The caller reports [`Event::PublishFailed`] after this time.
    pub publish_timeout_ms: u64,
    /// How long a poller waits after it has found nothing.
    pub pause_ms: Bounds,
    /// How long an aggregate is blocked after a failure.
    pub backoff_ms: Bounds,
}

/// A time that doubles from `min` up to `max`. `min` is not greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// The first time.
    pub min: u64,
    /// The greatest one.
    pub max: u64,
}

/// Publishes the rows of one bucket at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Poller {
    config: Config,
    is_waiting: bool,
    /// Whether a notification has arrived since the last claim was sent.
    is_notified: bool,
    /// The last pause, if nothing was found since.
    pause: Option<u64>,
    /// The aggregates whose first row was not acknowledged.
    blocked: BTreeMap<String, Blocked>,
    lease: Option<Lease>,
    /// When the last claim was sent.
    claimed_at: u64,
    /// The rows that are not acknowledged. The first one is being published.
    unpublished: VecDeque<Row>,
    /// The keys of the rows that are acknowledged.
    published: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Blocked {
    backoff: u64,
    until: u64,
}

/// An event that a poller handles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The time of [`Effect::Wait`] has come. Also the first event.
    Wake,
    /// The database has notified the poller that rows were inserted (`LISTEN`).
    Notified,
    /// The transaction is committed.
    Committed(Outcome),
    /// The transaction is rolled back, or its outcome is unknown.
    RolledBack,
    /// The broker has acknowledged the row.
    Published,
    /// The broker has not acknowledged the row. It may have it.
    PublishFailed,
}

/// An effect that the caller performs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Run [`transact`] in one transaction, and commit it if it returns `Ok`.
    Transact(Command),
    /// Publish a row.
    Publish(Row),
    /// Report [`Event::Wake`] at this time of the poller's clock.
    Wait {
        /// The time.
        until_ms: u64,
    },
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Claims the bucket of the oldest row that may be published, and reads the
    /// bucket.
    Claim {
        /// The number of buckets.
        buckets: NonZero<u32>,
        /// The most rows to read.
        batch: NonZero<usize>,
        /// How long the lease lasts.
        lease_ms: u64,
        /// The aggregates whose rows are left out.
        blocked: BTreeSet<String>,
    },
    /// Deletes rows by their keys and releases the lease, if it was not taken
    /// over.
    Finish {
        /// The lease under which the rows were published.
        lease: Lease,
        /// The keys of the acknowledged rows.
        published: Vec<String>,
    },
}

/// What a transaction has done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A bucket is claimed, and these are its rows.
    Claimed(Lease, Vec<Row>),
    /// Each row, if there is one, is blocked or in a bucket with a lease.
    NothingToClaim,
    /// The rows are deleted, and the lease is released.
    Finished,
    /// The bucket has another lease. Nothing is changed.
    LeaseLost,
}

/// The right to publish the rows of a bucket until the lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    /// The bucket.
    pub bucket: u32,
    /// Greater than that of each earlier lease of the bucket.
    pub number: u64,
    /// When the lease ends, by the clock of the database.
    pub until_ms: u64,
}

impl Bounds {
    /// Returns the time that follows `last`.
    pub fn after(self, last: Option<u64>) -> u64 {
        last.map_or(self.min, |last| last.saturating_mul(2)).min(self.max)
    }
}

impl Lease {
    /// Returns the row of `Table::Limits`: its key, and its value `number
    /// until_ms`.
    pub fn to_row(self) -> (String, String) {
        let Self { bucket, number, until_ms } = self;
        (bucket.to_string(), format!("{number} {until_ms}"))
    }

    /// Reads the value of a row. A bucket that was never claimed has none.
    ///
    /// # Panics
    ///
    /// Panics if the value is none of [`to_row`](Self::to_row).
    pub fn from_value(bucket: u32, value: Option<&str>) -> Self {
        let (number, until_ms) = value
            .unwrap_or("0 0")
            .split_once(' ')
            .and_then(|(n, u)| Some((n.parse().ok()?, u.parse().ok()?)))
            .expect("pollers alone write these rows");
        Self { bucket, number, until_ms }
    }
}

/// Returns the aggregate of a row: its key up to the last `/`.
pub fn aggregate(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(aggregate, _)| aggregate)
}

/// Returns the hash of a text modulo `buckets`. It is FNV-1a, so that it is the
/// same in all processes and versions of the program.
pub fn bucket(text: &str, buckets: NonZero<u32>) -> u32 {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash % buckets
}

impl Poller {
    /// Creates a poller, which waits for [`Event::Wake`].
    pub fn new(config: Config) -> Self {
        Self {
            config,
            is_waiting: true,
            is_notified: false,
            pause: None,
            blocked: BTreeMap::new(),
            lease: None,
            claimed_at: 0,
            unpublished: VecDeque::new(),
            published: Vec::new(),
        }
    }

    /// Handles an event, and returns the effect to perform, if any. `now_ms` is
    /// the time of a clock that never goes back, such as `Instant`.
    pub fn step(&mut self, event: Event, now_ms: u64) -> Option<Effect> {
        match event {
            Event::Wake if self.is_waiting => Some(self.claim(now_ms)),
            Event::Notified => {
                self.pause = None;
                self.is_notified = true;
                self.is_waiting.then(|| self.claim(now_ms))
            }
            Event::Committed(Outcome::Claimed(lease, rows)) => {
                self.pause = None;
                self.lease = Some(lease);
                self.unpublished = rows.into();
                Some(self.publish(now_ms))
            }
            // The claim may have run before the rows were committed.
            Event::Committed(Outcome::NothingToClaim) if self.is_notified => {
                Some(self.claim(now_ms))
            }
            Event::Committed(Outcome::NothingToClaim) => {
                // Another poller may have published the rows of an aggregate
                // whose backoff has ended.
                self.blocked.retain(|_, b| self.claimed_at < b.until);
                Some(self.wait(now_ms))
            }
            Event::RolledBack => Some(self.wait(now_ms)),
            Event::Committed(Outcome::Finished | Outcome::LeaseLost) => {
                Some(self.claim(now_ms))
            }
            Event::Published => {
                let row = self.unpublished.pop_front()?;
                self.blocked.remove(aggregate(&row.key));
                self.published.push(row.key);
                Some(self.publish(now_ms))
            }
            Event::PublishFailed => {
                let row = self.unpublished.pop_front()?;
                self.block(aggregate(&row.key), now_ms);
                Some(self.publish(now_ms))
            }
            Event::Wake => None,
        }
    }

    fn claim(&mut self, now_ms: u64) -> Effect {
        let Config { buckets, batch, lease_ms, .. } = self.config;
        self.is_waiting = false;
        self.is_notified = false;
        self.claimed_at = now_ms;
        let blocked = self.blocked.iter().filter(|(_, b)| now_ms < b.until);
        let blocked = blocked.map(|(aggregate, _)| aggregate.clone()).collect();
        Effect::Transact(Command::Claim { buckets, batch, lease_ms, blocked })
    }

    fn publish(&mut self, now_ms: u64) -> Effect {
        let end = now_ms.saturating_add(self.config.publish_timeout_ms);
        match self.unpublished.front() {
            Some(row) if end < self.lease_end() => Effect::Publish(row.clone()),
            _ => self.finish(now_ms),
        }
    }

    /// Returns when the lease ends by the clock of the poller. The time counts
    /// from the claim: for the database, the lease begins before the answer.
    fn lease_end(&self) -> u64 {
        self.claimed_at.saturating_add(self.config.lease_ms)
    }

    /// The other aggregates of the bucket go on.
    fn block(&mut self, aggregate: &str, now_ms: u64) {
        let last = self.blocked.get(aggregate).map(|last| last.backoff);
        let backoff = self.config.backoff_ms.after(last);
        let until = now_ms.saturating_add(backoff);
        self.blocked.insert(aggregate.to_owned(), Blocked { backoff, until });
        self.unpublished.retain(|row| self::aggregate(&row.key) != aggregate);
    }

    fn finish(&mut self, now_ms: u64) -> Effect {
        self.unpublished.clear();
        let published = mem::take(&mut self.published);
        match self.lease.take() {
            Some(lease) if now_ms < self.lease_end() => {
                Effect::Transact(Command::Finish { lease, published })
            }
            // The bucket may have another owner.
            _ => self.claim(now_ms),
        }
    }

    fn wait(&mut self, now_ms: u64) -> Effect {
        self.is_waiting = true;
        let pause = self.config.pause_ms.after(self.pause);
        self.pause = Some(pause);
        Effect::Wait { until_ms: now_ms.saturating_add(pause) }
    }
}

/// Performs a command in a transaction. `now_ms` is the time of the database.
///
/// # Errors
///
/// Returns the error of the database. The transaction has to be rolled back.
///
/// # Cancel safety
///
/// If the future is dropped, the transaction has to be rolled back.
pub async fn transact<T: Tx>(
    tx: &mut T,
    command: &Command,
    now_ms: u64,
) -> Result<Outcome, T::Error> {
    match command {
        Command::Claim { buckets, batch, lease_ms, blocked } => {
            let until_ms = now_ms.saturating_add(*lease_ms);
            let mut tried = BTreeSet::new();
            for row in unblocked(tx, blocked).await? {
                let bucket = bucket_of(&row, *buckets);
                if !tried.insert(bucket) {
                    continue;
                }
                let lease = take(tx, bucket, now_ms, until_ms).await?;
                let Some(lease) = lease else { continue };
                // After the lease, as its former owner may have deleted rows.
                let mut rows = unblocked(tx, blocked).await?;
                rows.retain(|row| bucket_of(row, *buckets) == bucket);
                rows.truncate(batch.get());
                return Ok(Outcome::Claimed(lease, rows));
            }
            Ok(Outcome::NothingToClaim)
        }
        Command::Finish { lease, published } => {
            let (key, held) = lease.to_row();
            let (_, released) = Lease { until_ms: 0, ..*lease }.to_row();
            // First: it locks the lease, so that nobody takes it over meanwhile.
            if !tx.replace(Table::Limits, &key, &held, &released).await? {
                return Ok(Outcome::LeaseLost);
            }
            for key in published {
                tx.delete(Table::Outbox, key).await?;
            }
            Ok(Outcome::Finished)
        }
    }
}

/// Takes the lease of a bucket, if it is free.
async fn take<T: Tx>(
    tx: &mut T,
    bucket: u32,
    now_ms: u64,
    until_ms: u64,
) -> Result<Option<Lease>, T::Error> {
    let stored = tx.get(Table::Limits, &bucket.to_string()).await?;
    let last = Lease::from_value(bucket, stored.as_deref());
    if now_ms < last.until_ms {
        return Ok(None);
    }
    let lease = Lease { bucket, number: last.number + 1, until_ms };
    let (key, value) = lease.to_row();
    // False if another poller was faster.
    let is_taken = match stored {
        Some(last) => tx.replace(Table::Limits, &key, &last, &value).await?,
        None => tx.insert(Table::Limits, &key, &value).await?,
    };
    Ok(is_taken.then_some(lease))
}

fn bucket_of(row: &Row, buckets: NonZero<u32>) -> u32 {
    bucket(aggregate(&row.key), buckets)
}

/// Returns all rows by `seq` without those of the blocked aggregates. A real
/// outbox has the columns `bucket` and `aggregate`, and an index:
///
/// ```sql
/// SELECT seq, key, value FROM outbox
/// WHERE bucket = $1 AND aggregate <> ALL($2) ORDER BY seq LIMIT $3
/// ```
async fn unblocked<T: Tx>(
    tx: &mut T,
    blocked: &BTreeSet<String>,
) -> Result<Vec<Row>, T::Error> {
    let mut rows = tx.oldest(Table::Outbox, usize::MAX).await?;
    rows.retain(|row| !blocked.contains(aggregate(&row.key)));
    Ok(rows)
}
