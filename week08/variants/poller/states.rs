//! A variant: the poller is an enum of its states.
//!
//! Each state has only the data that it needs, so nothing of an earlier lease is
//! left in a later one. The next pause and the next backoffs are stored instead
//! of the last ones. `Finish` locks the lease first, and releases it last.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    state: State,
    /// The next pause.
    pause: u64,
    /// By aggregate: the next backoff, and when the current one ends.
    backoffs: BTreeMap<String, (u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State {
    Waiting,
    Claiming { since_ms: u64, is_notified: bool },
    Publishing(Batch),
    Finishing,
}

/// A bucket that is claimed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Batch {
    lease: Lease,
    /// By the clock of the poller.
    end_ms: u64,
    rows: VecDeque<Row>,
    published: Vec<String>,
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
        let (pause, backoffs) = (config.pause_ms.min, BTreeMap::new());
        Self { config, state: State::Waiting, pause, backoffs }
    }

    /// Handles an event, and returns the effect to perform, if any. `now_ms` is
    /// the time of a clock that never goes back, such as `Instant`.
    pub fn step(&mut self, event: Event, now_ms: u64) -> Option<Effect> {
        if event == Event::Notified {
            self.pause = self.config.pause_ms.min;
        }
        // Each event of an effect leaves the state of this effect.
        let (state, effect) = match (&mut self.state, event) {
            (State::Waiting, Event::Wake | Event::Notified)
            | (State::Finishing, Event::Committed(_)) => self.claim(now_ms),
            (State::Claiming { is_notified, .. }, Event::Notified) => {
                *is_notified = true;
                return None;
            }
            (_, Event::Wake | Event::Notified) => return None,
            (
                State::Claiming { since_ms, .. },
                Event::Committed(Outcome::Claimed(lease, rows)),
            ) => {
                let end_ms = since_ms.saturating_add(self.config.lease_ms);
                let (rows, published) = (rows.into(), Vec::new());
                self.pause = self.config.pause_ms.min;
                self.publish(Batch { lease, end_ms, rows, published }, now_ms)
            }
            (
                State::Claiming { is_notified: true, .. },
                Event::Committed(_),
            ) => self.claim(now_ms),
            (State::Publishing(batch), event) => {
                let mut batch = batch.clone();
                let row = batch.rows.pop_front()?;
                let aggregate = aggregate(&row.key).to_owned();
                if event == Event::Published {
                    self.backoffs.remove(&aggregate);
                    batch.published.push(row.key);
                } else {
                    self.back_off(&aggregate, now_ms);
                    batch.rows.retain(|r| self::aggregate(&r.key) != aggregate);
                }
                self.publish(batch, now_ms)
            }
            _ => self.wait(now_ms),
        };
        self.state = state;
        Some(effect)
    }

    fn claim(&self, now_ms: u64) -> (State, Effect) {
        let Config { buckets, batch, lease_ms, .. } = self.config;
        let is_blocked = |(_, until): &(u64, u64)| *until > now_ms;
        let all = self.backoffs.iter();
        let blocked = all.filter(|(_, b)| is_blocked(b));
        let blocked = blocked.map(|(name, _)| name.clone()).collect();
        let command = Command::Claim { buckets, batch, lease_ms, blocked };
        let state = State::Claiming { since_ms: now_ms, is_notified: false };
        (state, Effect::Transact(command))
    }

    fn publish(&self, batch: Batch, now_ms: u64) -> (State, Effect) {
        let timeout = self.config.publish_timeout_ms;
        let left = batch.end_ms.saturating_sub(now_ms);
        if left == 0 {
            return self.claim(now_ms);
        }
        match batch.rows.front().cloned() {
            Some(row) if left > timeout => {
                (State::Publishing(batch), Effect::Publish(row))
            }
            _ => {
                let Batch { lease, published, .. } = batch;
                let command = Command::Finish { lease, published };
                (State::Finishing, Effect::Transact(command))
            }
        }
    }

    fn back_off(&mut self, aggregate: &str, now_ms: u64) {
        let Bounds { min, max } = self.config.backoff_ms;
        let last = self.backoffs.get(aggregate);
        let backoff = last.map_or(min, |(next, _)| *next);
        let next = backoff.saturating_mul(2).min(max);
        let until = now_ms.saturating_add(backoff);
        self.backoffs.insert(aggregate.to_owned(), (next, until));
    }

    fn wait(&mut self, now_ms: u64) -> (State, Effect) {
        let until_ms = now_ms.saturating_add(self.pause);
        let Bounds { max, .. } = self.config.pause_ms;
        self.pause = self.pause.saturating_mul(2).min(max);
        (State::Waiting, Effect::Wait { until_ms })
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
            let mut rows = unblocked(tx, blocked).await?;
            let until_ms = now_ms.saturating_add(*lease_ms);
            while let Some(oldest) = rows.first() {
                let bucket = bucket_of(oldest, *buckets);
                if let Some(lease) = take(tx, bucket, now_ms, until_ms).await? {
                    rows = unblocked(tx, blocked).await?;
                    rows.retain(|row| bucket_of(row, *buckets) == bucket);
                    rows.truncate(batch.get());
                    return Ok(Outcome::Claimed(lease, rows));
                }
                rows.retain(|row| bucket_of(row, *buckets) != bucket);
            }
            Ok(Outcome::NothingToClaim)
        }
        Command::Finish { lease, published } => {
            // Locks the lease, and keeps it until the rows are deleted.
            let (key, held) = lease.to_row();
            if !tx.replace(Table::Limits, &key, &held, &held).await? {
                return Ok(Outcome::LeaseLost);
            }
            for key in published {
                tx.delete(Table::Outbox, key).await?;
            }
            let (_, released) = Lease { until_ms: 0, ..*lease }.to_row();
            tx.replace(Table::Limits, &key, &held, &released).await?;
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
    // A bucket that was never claimed gets a lease that has ended.
    let (key, never) = Lease::from_value(bucket, None).to_row();
    tx.insert(Table::Limits, &key, &never).await?;
    let stored = tx.get(Table::Limits, &key).await?.unwrap_or(never);
    let last = Lease::from_value(bucket, Some(&stored));
    if now_ms < last.until_ms {
        return Ok(None);
    }
    let lease = Lease { bucket, number: last.number + 1, until_ms };
    let (_, value) = lease.to_row();
    let is_taken = tx.replace(Table::Limits, &key, &stored, &value).await?;
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
