//! Polling publisher: several pollers share an outbox. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! `transact`
//!
//! - `Command::Claim` goes through the rows of `Table::Outbox` by `seq`, without
//!   those of `blocked` aggregates. It takes the first row whose bucket is free:
//!   the bucket was never claimed, or its lease was finished, or `until_ms` of
//!   the lease is `now_ms` or earlier. The new lease has a greater number than
//!   all earlier leases of the bucket, and ends `lease_ms` after `now_ms`.
//! - The outcome `Claimed` has this lease and the rows of its bucket by `seq`,
//!   at most `batch`, without blocked ones. If no row has a free bucket, the
//!   outcome is `NothingToClaim`.
//! - If the bucket has no later lease, `Command::Finish` deletes the rows and
//!   releases the lease, even if the lease has ended or a row is already deleted.
//!   Otherwise the command changes nothing, and the outcome is `LeaseLost`. No
//!   lease is finished twice.
//! - Commands run at the same time. Between two of your statements, another
//!   transaction may commit, unless it waits for a row that you have changed.
//!   Still, two pollers never claim a bucket at once, and no `Finish` deletes a
//!   row after another poller has claimed the bucket. If another poller is faster
//!   at one bucket, `Claim` goes on with the next row.
//! - If a statement returns an error, `transact` returns it at once.
//!
//! `Poller`, when it waits
//!
//! - It claims after `Event::Wake` and after `Event::Notified`. A busy poller
//!   ignores `Wake`, and returns no effect after `Notified`.
//! - After `NothingToClaim` and after `Event::RolledBack`, it waits. The first
//!   pause is `pause_ms.min`, and each further one is twice as long as the last
//!   one, up to `pause_ms.max`. After `Claimed` or a notification, the pauses
//!   begin with `min` again.
//! - If a notification arrives between the effect `Claim` and `NothingToClaim`,
//!   the poller claims once more, without a pause.
//!
//! `Poller`, when it publishes
//!
//! - It publishes the rows of a claim by `seq`. Then it finishes the lease with
//!   the keys of the acknowledged rows, and claims at once, also after
//!   `LeaseLost`. So `n` rows of a bucket need `2 * n.div_ceil(batch) + 1`
//!   transactions, and no pause.
//! - After `Event::PublishFailed`, it publishes no row of this aggregate until
//!   the backoff has ended, and goes on with the other aggregates. The backoffs
//!   of an aggregate double like pauses, from `backoff_ms.min` to
//!   `backoff_ms.max`. They begin with `min` again after an acknowledgment. After
//!   `NothingToClaim`, a poller may forget the backoffs that have ended. A claim
//!   leaves out the aggregates whose backoff has not ended.
//! - By the poller's clock, a lease ends `lease_ms` after the effect `Claim`. The
//!   poller publishes the next row if and only if `now_ms + publish_timeout_ms`
//!   is earlier than this end. Otherwise it finishes. If the lease has ended (now
//!   is its end, or later), the poller claims at once, and does not finish.
//! - After `RolledBack`, it forgets the lease and its rows, and no backoff.
//!
//! All pollers together
//!
//! - Each committed row is published, and none is deleted without an
//!   acknowledgment. If rows of an aggregate are committed in the order of `seq`,
//!   their first publications are in this order. Gaps, and rows that are
//!   committed late, do not change that.
//! - Without failures, rollbacks and ended leases, a row is published once.
//!
//! Help: the clocks of the database and of the pollers show different times, and
//! the database's clock may be set back. An event reports the result of the last
//! effect, except `Notified`, which may arrive at any time, and `Wake`, which may
//! come late. Leases are rows of `Table::Limits`; `Lease` turns them into text
//! and back.

use std::collections::{BTreeSet, VecDeque};
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
    /// The last pause, if nothing was found since.
    pause: Option<u64>,
    // What else does it have to remember?
    lease: Option<Lease>,
    /// The rows that are not acknowledged. The first one is being published.
    unpublished: VecDeque<Row>,
    /// The keys of the rows that are acknowledged.
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
        Self {
            config,
            is_waiting: true,
            pause: None,
            lease: None,
            unpublished: VecDeque::new(),
            published: Vec::new(),
        }
    }

    /// Handles an event, and returns the effect to perform, if any. `now_ms` is
    /// the time of a clock that never goes back, such as `Instant`.
    pub fn step(&mut self, event: Event, now_ms: u64) -> Option<Effect> {
        match event {
            Event::Wake if self.is_waiting => Some(self.claim(now_ms)),
            Event::Wake => None,
            Event::Committed(Outcome::Claimed(lease, rows)) => {
                self.pause = None;
                self.lease = Some(lease);
                self.unpublished = rows.into();
                Some(self.publish(now_ms))
            }
            Event::Committed(Outcome::Finished | Outcome::LeaseLost) => {
                Some(self.claim(now_ms))
            }
            Event::Published => {
                let row = self.unpublished.pop_front()?;
                self.published.push(row.key);
                Some(self.publish(now_ms))
            }
            Event::RolledBack => Some(self.wait(now_ms)),
            Event::Committed(Outcome::NothingToClaim) => {
                todo!("may rows have been committed after the claim has read?")
            }
            Event::Notified => todo!("is it idle or busy?"),
            Event::PublishFailed => {
                todo!("which rows are blocked, until when?")
            }
        }
    }

    fn claim(&mut self, _now_ms: u64) -> Effect {
        todo!("which aggregates are left out, and when does the lease begin?")
    }

    fn publish(&mut self, _now_ms: u64) -> Effect {
        todo!("is there enough time for the next row? And if not?")
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
                todo!("read the bucket of {lease:?}, at most {batch} rows")
            }
            Ok(Outcome::NothingToClaim)
        }
        Command::Finish { lease, published } => {
            todo!("finish {lease:?}, if it is not lost; delete {published:?}")
        }
    }
}

/// Takes the lease of a bucket, if it is free.
async fn take<T: Tx>(
    _tx: &mut T,
    bucket: u32,
    now_ms: u64,
    until_ms: u64,
) -> Result<Option<Lease>, T::Error> {
    todo!("is {bucket} free at {now_ms}? Lock it until {until_ms}")
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
