//! Snowflake ids: 41 bits of time, 10 of worker, 12 of sequence. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - *Layout.* An id has, from the highest bit: a zero, 41 bits of timestamp
//!   (milliseconds since `EPOCH`), 10 bits of worker, 12 bits of sequence.
//! - *Generator.* Call the timestamp and the sequence of the latest id *T* and
//!   *S*. `Generator::after` takes both from its argument. For
//!   `Generator::new`, *T* is the timestamp of `used_to` (or the first or last
//!   timestamp, if that is outside of the 41 bits), and *S* is the largest
//!   sequence. With the time *n* (`now` less `EPOCH`), `try_next` returns the
//!   first of these results that applies:
//!   1. `BeforeEpoch` if *n* is less than 0, and `OutOfTime` if *n* needs more
//!      than 41 bits;
//!   2. the timestamp *n* and the sequence 0, if *n* is above *T*;
//!   3. `ClockBack` with *T* - *n*, if that is more than `TOLERANCE`;
//!   4. `Full` with *T* + 1 - *n*, if *S* is 4,095;
//!   5. the timestamp *T* and the sequence *S* + 1 otherwise.
//!
//!   An error changes nothing.
//! - Concurrent calls return the same results as these calls, made one after
//!   the other in some order. So no id repeats, and each thread gets increasing
//!   ids. In the last rung (group of tests), loom runs your `Generator`, and
//!   shuttle runs your `Ids`. So take atomics and locks from
//!   `crate::model_checked::loom_atomics`. Take `spawn`, `watch` and the like
//!   from `crate::model_checked::shuttle_tasks`. Take timers from tokio: under
//!   shuttle, they never fire.
//! - *Waits.* `Ids::next` returns an id at once if there is one. `Full` and
//!   `ClockBack` say how long to wait (`retry_after`). If this time is at most
//!   what is left of `max_wait` since the call began, `next` waits for this
//!   time, and tries again. If it is longer, `next` returns the error at once.
//!   `BeforeEpoch` and `OutOfTime` are returned at once, too.
//! - If there is no valid lease, `next` waits for one, and tries again as soon
//!   as the registry has answered. It returns `NotLeased` when `max_wait` is
//!   over.
//! - Each error has a `cause`, whatever its `refused` is: the failure of the
//!   latest request that has ended. It is `None` if the registry has answered
//!   that request, or if no request has ended.
//! - A call of `next` that is dropped after any poll has taken no id, and
//!   leaves nothing behind.
//! - *Lease.* `Ids` sends one request at a time. The first is `acquire`. While
//!   a lease is held, each request is `renew` with its grant, even if the lease
//!   has ended. If `renew` returns false, the lease is lost: no more ids come
//!   from it, and `acquire` is sent at once.
//! - After a good answer, the next request is sent a third of `ttl` after the
//!   request was *sent*. A request that has no answer within a third of `ttl`
//!   is dropped, and has failed with `TimedOut`. A request that has failed, in
//!   this way or with an error, is repeated a tenth of `ttl` after the failure.
//!   The lease stays.
//! - A request asks for `ttl`, and for a bound (`until`): the time of the wall
//!   clock when the request is sent, plus `ttl`. A good answer makes them
//!   valid. Ids are issued only
//!   - until `ttl` less `margin` has passed on the monotonic clock
//!     (`tokio::time::Instant`) since the latest good request was *sent*; with
//!     a `margin` of `ttl` or more, no ids are issued;
//!   - while the wall clock is not above the largest bound of the lease;
//!   - with timestamps above the `used_to` of the grant.
//!
//!   Otherwise, there is no valid lease. A renewed lease continues after its
//!   latest id.
//! - So several `Ids` that share a registry never repeat an id, whatever their
//!   wall clocks show.
//! - When `Ids` is dropped, its request is dropped, too, and no other is sent.
//!
//! The registry does not panic, and `Ids` lives in one runtime. `ttl` is at
//! most some years.
//!
//! Given: the types, the task that holds a lease, and `Table`, a registry in
//! memory. You may change everything that is private.

#![allow(dead_code, unused_imports, reason = "you will use them")]

use std::fmt;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::model_checked::loom_atomics::{AtomicU64, Ordering::Relaxed};
use crate::model_checked::shuttle_tasks::{spawn, watch};

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// The time at which the timestamps of ids begin: the start of 2026, UTC.
pub const EPOCH: Millis = 1_767_225_600_000;

/// A clock that is behind the latest id by at most this is no error.
pub const TOLERANCE: Millis = 5;

const WORKER_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;
const MAX_TIMESTAMP: u64 = (1 << 41) - 1;
const MAX_SEQUENCE: u64 = (1 << SEQUENCE_BITS) - 1;

/// The id of a worker: less than 1,024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Worker(u16);

/// Makes the ids of one worker.
#[derive(Debug)]
pub struct Generator {
    worker: Worker,
    /// The timestamp and the sequence of the latest id, without the worker. It
    /// only increases.
    latest: AtomicU64,
}

/// Why there is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// All ids up to the current millisecond are used.
    #[error("no id is left for {retry_after:?}")]
    Full {
        /// The time until the clock reaches an unused millisecond.
        retry_after: Duration,
    },
    /// The clock is behind the latest id by more than [`TOLERANCE`].
    #[error("the clock is {by:?} behind the latest id")]
    ClockBack {
        /// How far the clock is behind.
        by: Duration,
    },
    /// The clock shows a time before [`EPOCH`].
    #[error("the clock is before the epoch of the ids")]
    BeforeEpoch,
    /// The time since [`EPOCH`] needs more than 41 bits.
    #[error("the 41 bits of the timestamp are used up")]
    OutOfTime,
    /// There is no lease, it has ended, or the clock has passed its bound.
    #[error("no worker id is leased")]
    NotLeased,
}

/// Makes ids with a worker id that is leased from a registry.
pub struct Ids<R: Registry> {
    state: watch::Receiver<State<R::Error>>,
    config: Config,
    clock: Clock,
    /// Ends the task that holds the lease when this is dropped.
    _stop: DropGuard,
}

/// Returns the time of the wall clock.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// The settings of [`Ids`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// How long a lease lasts.
    pub ttl: Duration,
    /// The time before the end of the lease in which no id is issued.
    pub margin: Duration,
    /// How long a call waits for an id.
    pub max_wait: Duration,
}

/// The table of the worker ids, which all processes share.
pub trait Registry: Send + Sync + 'static {
    /// Why the registry has not answered.
    type Error: Clone + Debug + Send + Sync + 'static;

    /// Leases a free worker id for `ttl`, and reserves it up to `until`, in one
    /// atomic statement:
    ///
    /// ```sql
    /// UPDATE workers SET token = token + 1, ends_at = now() + $ttl,
    ///     used_to = GREATEST(workers.used_to, $until)
    /// FROM (SELECT id, used_to FROM workers WHERE ends_at <= now()
    ///     ORDER BY used_to LIMIT 1 FOR UPDATE SKIP LOCKED) AS free
    /// WHERE workers.id = free.id
    /// RETURNING workers.id, token, free.used_to
    /// ```
    fn acquire(
        &self,
        ttl: Duration,
        until: Millis,
    ) -> impl Future<Output = Result<Grant, Self::Error>> + Send;

    /// Extends a lease to `ttl` from now, and raises its bound to `until`.
    /// Returns false if another process has got the worker id:
    ///
    /// ```sql
    /// UPDATE workers SET ends_at = now() + $ttl,
    ///     used_to = GREATEST(used_to, $until)
    /// WHERE id = $worker AND token = $token
    /// ```
    fn renew(
        &self,
        grant: Grant,
        ttl: Duration,
        until: Millis,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;
}

/// A worker id that a registry has leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The leased id.
    pub worker: Worker,
    /// The number of this lease among those of the worker id.
    pub token: u64,
    /// Earlier holders may have used timestamps up to this one.
    pub used_to: Millis,
}

/// Why [`Ids::next`] has returned no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no id: {refused}")]
pub struct NoId<E> {
    /// The reason.
    pub refused: Refused,
    /// Why the latest request to the registry has failed. `None` if it has not
    /// failed.
    #[source]
    pub cause: Option<Failed<E>>,
}

/// Why a request to the registry has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed<E> {
    /// The registry has returned this error.
    #[error("the registry has failed")]
    Registry(#[source] E),
    /// There was no answer within a third of the lease.
    #[error("the registry did not answer in time")]
    TimedOut,
}

#[derive(Debug)]
struct State<E> {
    lease: Option<Lease>,
    /// Why the latest request has failed.
    failed: Option<Failed<E>>,
}

#[derive(Debug, Clone)]
struct Lease {
    grant: Grant,
    /// A renewed lease goes on with the same generator.
    generator: Arc<Generator>,
    /// No id is issued from this time on.
    stop_at: Instant,
    /// The largest timestamp that is reserved.
    until: Millis,
}

/// Holds a lease, as a task in the background.
struct Holder<R: Registry> {
    registry: R,
    config: Config,
    clock: Clock,
    state: watch::Sender<State<R::Error>>,
}

impl Worker {
    /// Returns the worker id `id`, if it has at most 10 bits.
    pub fn new(id: u16) -> Option<Self> {
        (id < 1 << WORKER_BITS).then_some(Self(id))
    }

    /// Returns the number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Generator {
    /// Creates a generator for `worker` that uses only timestamps above
    /// `used_to`, and above [`EPOCH`].
    pub fn new(worker: Worker, used_to: Millis) -> Self {
        let timestamp = used_to.saturating_sub(EPOCH).min(MAX_TIMESTAMP);
        Self::after(pack(timestamp, worker, MAX_SEQUENCE))
    }

    /// Creates a generator that continues after the id `latest`, with the
    /// worker of that id.
    pub fn after(latest: u64) -> Self {
        let worker = latest >> SEQUENCE_BITS & ((1 << WORKER_BITS) - 1);
        let timestamp = latest >> (WORKER_BITS + SEQUENCE_BITS);
        let latest = timestamp << SEQUENCE_BITS | latest & MAX_SEQUENCE;
        Self { worker: Worker(worker as u16), latest: AtomicU64::new(latest) }
    }

    /// Returns the next id, if there is one at the time `now`.
    ///
    /// # Errors
    ///
    /// Returns [`Refused`] with the reason. It is never `NotLeased`.
    pub fn try_next(&self, _now: Millis) -> Result<u64, Refused> {
        todo!("what if another thread takes the id first?")
    }
}

/// Returns the time since [`EPOCH`], if it fits in 41 bits.
fn timestamp(now: Millis) -> Result<u64, Refused> {
    match now.checked_sub(EPOCH) {
        None => Err(Refused::BeforeEpoch),
        Some(timestamp) if timestamp > MAX_TIMESTAMP => Err(Refused::OutOfTime),
        Some(timestamp) => Ok(timestamp),
    }
}

/// Returns the timestamp and the sequence that follow `latest` at the time
/// `now`.
fn successor(_latest: u64, _now: u64) -> Result<u64, Refused> {
    todo!("is the clock ahead of the latest id, at it, or behind?")
}

fn pack(timestamp: u64, worker: Worker, sequence: u64) -> u64 {
    let high = timestamp << WORKER_BITS | u64::from(worker.0);
    high << SEQUENCE_BITS | sequence
}

impl Refused {
    /// Returns how long a caller has to wait, if that is known.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Full { retry_after } => Some(retry_after),
            Self::ClockBack { by } => Some(by),
            Self::BeforeEpoch | Self::OutOfTime | Self::NotLeased => None,
        }
    }
}

impl<R: Registry> Ids<R> {
    /// Spawns a task that leases a worker id, and renews the lease until this
    /// is dropped.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    pub fn new(registry: R, config: Config, clock: Clock) -> Self {
        let (sender, state) =
            watch::channel(State { lease: None, failed: None });
        let stop = CancellationToken::new();
        let holder =
            Holder { registry, config, clock: clock.clone(), state: sender };
        let hold = stop.clone().run_until_cancelled_owned(holder.hold());
        spawn(hold);
        Self { state, config, clock, _stop: stop.drop_guard() }
    }

    /// Returns the next id. Waits up to [`Config::max_wait`] if there is none.
    ///
    /// # Errors
    ///
    /// Returns [`NoId`]: at once, if waiting is of no use.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no id, and leaves nothing behind.
    pub async fn next(&self) -> Result<u64, NoId<R::Error>> {
        todo!("is it of use to wait, for how long, and for what?")
    }
}

impl<E> State<E> {
    fn try_next(&self, _clock: &Clock) -> Result<u64, Refused> {
        todo!("is there a lease, and is it valid by both clocks?")
    }
}

impl<R: Registry> Holder<R> {
    /// Leases a worker id, and renews the lease. Never returns.
    async fn hold(self) {
        let ttl = self.config.ttl;
        loop {
            let sent = Instant::now();
            let wake_at = match self.ask().await {
                Ok(lease) => {
                    let is_held = lease.is_some();
                    self.state.send_replace(State { lease, failed: None });
                    // A lost lease is replaced at once.
                    if is_held { sent + ttl / 3 } else { sent }
                }
                Err(failed) => {
                    self.state.send_modify(|s| s.failed = Some(failed));
                    Instant::now() + ttl / 10
                }
            };
            sleep_until(wake_at).await;
        }
    }

    /// Asks the registry once, for a lease or to renew it. Returns `None` if the
    /// lease is lost.
    async fn ask(&self) -> Result<Option<Lease>, Failed<R::Error>> {
        todo!("what do you have to know before the request is sent?")
    }
}

impl<R: Registry> Debug for Ids<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = &*self.state.borrow();
        f.debug_struct("Ids").field("state", state).finish_non_exhaustive()
    }
}

/// A registry in memory: the table that the SQL of [`Registry`] describes.
#[derive(Debug)]
pub struct Table {
    rows: Mutex<Vec<Row>>,
}

#[derive(Debug, Clone, Default)]
struct Row {
    token: u64,
    ends_at: Option<Instant>,
    used_to: Millis,
}

/// All worker ids are leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all worker ids are leased")]
pub struct NoneFree;

impl Table {
    /// Creates a table of the worker ids `0..workers`, all of them free.
    pub fn new(workers: u16) -> Self {
        Self { rows: Mutex::new(vec![Row::default(); workers.into()]) }
    }
}

impl Registry for Table {
    type Error = NoneFree;

    async fn acquire(
        &self,
        ttl: Duration,
        until: Millis,
    ) -> Result<Grant, NoneFree> {
        let now = Instant::now();
        let mut rows = self.rows.lock().expect("no panic while locked");
        let workers = (0..).map_while(Worker::new).zip(rows.iter_mut());
        let (worker, row) = workers
            .filter(|(_, row)| row.ends_at.is_none_or(|end| end <= now))
            .min_by_key(|(_, row)| row.used_to)
            .ok_or(NoneFree)?;
        let (token, used_to) = (row.token + 1, row.used_to);
        let (ends_at, until) = (Some(now + ttl), used_to.max(until));
        *row = Row { token, ends_at, used_to: until };
        Ok(Grant { worker, token, used_to })
    }

    async fn renew(
        &self,
        grant: Grant,
        ttl: Duration,
        until: Millis,
    ) -> Result<bool, NoneFree> {
        let mut rows = self.rows.lock().expect("no panic while locked");
        let row = rows.get_mut(usize::from(grant.worker.0));
        let Some(row) = row.filter(|row| row.token == grant.token) else {
            return Ok(false);
        };
        row.ends_at = Some(Instant::now() + ttl);
        row.used_to = row.used_to.max(until);
        Ok(true)
    }
}
