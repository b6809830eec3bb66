//! One lock around the state of the generator, and one around the lease.
//!
//! The generator is a pair of numbers, so each rule is a line, and no word has
//! to be packed. On one thread, an uncontended lock costs a few nanoseconds more
//! than a compare-exchange. On several threads, a thread that is suspended with
//! the lock held stops all others.
//!
//! The lease is in a mutex, and a `Notify` wakes the calls that wait for it. One
//! loop holds the lease, with a deadline for each step.

use std::fmt;
use std::fmt::Debug;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard};
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::model_checked::loom_atomics::Mutex;
use crate::model_checked::shuttle_tasks::{AbortHandle, Notify, spawn};

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
    latest: Mutex<Latest>,
}

/// The latest id, without the worker. It only increases.
#[derive(Debug, Clone, Copy)]
struct Latest {
    timestamp: u64,
    sequence: u64,
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
    shared: Arc<Shared<R>>,
    /// The task that holds the lease.
    holder: AbortHandle,
}

struct Shared<R: Registry> {
    registry: R,
    config: Config,
    clock: Clock,
    state: StdMutex<State<R::Error>>,
    /// Wakes the calls that wait for a lease.
    answered: Notify,
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
        let sequence = latest & MAX_SEQUENCE;
        let latest = Mutex::new(Latest { timestamp, sequence });
        Self { worker: Worker(worker as u16), latest }
    }

    /// Returns the next id, if there is one at the time `now`.
    ///
    /// # Errors
    ///
    /// Returns [`Refused`] with the reason. It is never `NotLeased`.
    pub fn try_next(&self, now: Millis) -> Result<u64, Refused> {
        let now = now.checked_sub(EPOCH).ok_or(Refused::BeforeEpoch)?;
        if now > MAX_TIMESTAMP {
            return Err(Refused::OutOfTime);
        }
        let mut latest = self.latest.lock().expect("no panic while locked");
        let behind = latest.timestamp.saturating_sub(now);
        let millis = Duration::from_millis;
        if now > latest.timestamp {
            *latest = Latest { timestamp: now, sequence: 0 };
        } else if behind > TOLERANCE {
            return Err(Refused::ClockBack { by: millis(behind) });
        } else if latest.sequence == MAX_SEQUENCE {
            return Err(Refused::Full { retry_after: millis(behind + 1) });
        } else {
            latest.sequence += 1;
        }
        Ok(pack(latest.timestamp, self.worker, latest.sequence))
    }
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
        let state = StdMutex::new(State { lease: None, failed: None });
        let answered = Notify::new();
        let shared = Shared { registry, config, clock, state, answered };
        let shared = Arc::new(shared);
        let holder = spawn(Arc::clone(&shared).hold());
        Self { shared, holder: holder.abort_handle() }
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
        let Shared { config, answered, .. } = &*self.shared;
        let start = Instant::now();
        loop {
            // Created before the state is read, so that it misses no answer.
            let answered = answered.notified();
            let (refused, cause) = match self.shared.try_next() {
                Ok(id) => return Ok(id),
                Err(refused) => (refused, self.shared.state().failed.clone()),
            };
            let left = config.max_wait.saturating_sub(start.elapsed());
            let wait = match refused {
                Refused::Full { retry_after } => retry_after,
                Refused::ClockBack { by } => by,
                Refused::NotLeased if timeout(left, answered).await.is_ok() => {
                    continue;
                }
                _ => return Err(NoId { refused, cause }),
            };
            if wait > left {
                return Err(NoId { refused, cause });
            }
            sleep(wait).await;
        }
    }
}

impl<R: Registry> Drop for Ids<R> {
    fn drop(&mut self) {
        self.holder.abort();
    }
}

impl<R: Registry> Shared<R> {
    fn state(&self) -> StdMutexGuard<'_, State<R::Error>> {
        self.state.lock().expect("no panic while locked")
    }

    fn try_next(&self) -> Result<u64, Refused> {
        let wall = (self.clock)();
        let now = Instant::now();
        let lease = self.state().lease.clone();
        match lease {
            Some(lease) if now < lease.stop_at && wall <= lease.until => {
                lease.generator.try_next(wall)
            }
            _ => Err(Refused::NotLeased),
        }
    }

    /// Leases a worker id, and renews the lease. Never returns.
    async fn hold(self: Arc<Self>) {
        let ttl = self.config.ttl;
        loop {
            let sent = Instant::now();
            let until = (self.clock)().saturating_add(ttl.as_millis() as u64);
            let held = self.state().lease.clone();
            let request = async {
                match &held {
                    Some(lease) => {
                        let grant = lease.grant;
                        let held = self.registry.renew(grant, ttl, until);
                        Ok(held.await?.then(|| lease.clone()))
                    }
                    None => {
                        let grant = self.registry.acquire(ttl, until).await?;
                        let generator =
                            Generator::new(grant.worker, grant.used_to);
                        let generator = Arc::new(generator);
                        Ok(Some(Lease {
                            grant,
                            generator,
                            stop_at: sent,
                            until,
                        }))
                    }
                }
            };
            let answer = timeout_at(sent + ttl / 3, request).await;
            let wake_at = self.store(sent, until, answer);
            self.answered.notify_waiters();
            sleep_until(wake_at).await;
        }
    }

    /// Stores the answer, and returns the time of the next request.
    fn store(
        &self,
        sent: Instant,
        until: Millis,
        answer: Result<Result<Option<Lease>, R::Error>, Elapsed>,
    ) -> Instant {
        let Config { ttl, margin, .. } = self.config;
        let mut state = self.state();
        let lease = match answer {
            Ok(Ok(lease)) => lease,
            Ok(Err(error)) => {
                state.failed = Some(Failed::Registry(error));
                return Instant::now() + ttl / 10;
            }
            Err(_) => {
                state.failed = Some(Failed::TimedOut);
                return Instant::now() + ttl / 10;
            }
        };
        let wake_at = if lease.is_some() { sent + ttl / 3 } else { sent };
        let stop_at = sent + ttl.saturating_sub(margin);
        let lease = lease.map(|lease| {
            let until = lease.until.max(until);
            Lease { stop_at, until, ..lease }
        });
        *state = State { lease, failed: None };
        wake_at
    }
}

impl<R: Registry> Debug for Ids<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = &*self.shared.state();
        f.debug_struct("Ids").field("state", state).finish_non_exhaustive()
    }
}

/// A registry in memory: the table that the SQL of [`Registry`] describes.
#[derive(Debug)]
pub struct Table {
    rows: StdMutex<Vec<Row>>,
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
        Self { rows: StdMutex::new(vec![Row::default(); workers.into()]) }
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
