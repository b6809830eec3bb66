//! ID segments: a double buffer of ids from a database.
//!
//! *Question.* Ids must be unique and increase, in many processes, and one row
//! of a database is the authority. How does a process hand out ten million ids
//! a second? And what happens while the database is away?
//!
//! *Idea.* One statement takes a whole range of ids, a **segment**. The process
//! then counts through the range in memory. When a tenth of it is used, a task
//! leases the next range in the background (a **prefetch**) and keeps it as a
//! spare: a **double buffer**. The size of a range, the **step**, adapts, so
//! that a range lasts 15 to 30 minutes at any load.
//!
//! *Guarantee.* Each leased id is returned once at most. The row is updated
//! before the first id of its range is returned, so a crash leaves a gap, and
//! no id is repeated. The ids of a process increase: `next` never falls, and a
//! range that begins below the end of an earlier one is refused. At most one
//! lease runs at a time. If the database fails directly after a lease, `step`
//! ids are left, or more.
//!
//! *Cost.* Ids of different processes are not in the order of time. A restart
//! loses up to two ranges. All threads share one cache line. The guarantee is
//! that of the database: if a failover forgets the latest update, two processes
//! get the same range, and only a process that sees both can refuse it.
//!
//! ```
//! use std::convert::Infallible;
//! use std::ops::Range;
//! use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
//! use std::time::Duration;
//! use week08::segment::{Config, Segments, Store};
//!
//! struct Row(AtomicU64);
//!
//! impl Store for Row {
//!     type Error = Infallible;
//!     async fn lease(&self, step: u64) -> Result<Range<u64>, Infallible> {
//!         let start = self.0.fetch_add(step, SeqCst);
//!         Ok(start..start + step)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let config = Config {
//!     min_step: 1_000.try_into().unwrap(),
//!     max_step: 1_000_000.try_into().unwrap(),
//!     lease_timeout: Duration::from_secs(2),
//!     backoff: Duration::from_secs(1),
//!     max_wait: Duration::from_millis(100),
//! };
//! let ids = Segments::new(Row(AtomicU64::new(1)), config);
//! assert_eq!(ids.next().await, Ok(1));
//! assert_eq!(ids.next().await, Ok(2));
//! # }
//! ```

use std::fmt::Debug;
use std::future::poll_fn;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::model_checked::loom_atomics::{
    AtomicU64, Mutex, MutexGuard,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::model_checked::shuttle_tasks::{Notify, spawn};

/// Hands out ids from the ranges of a store. Share it in an `Arc`.
#[derive(Debug)]
pub struct Segments<S: Store> {
    shared: Arc<Shared<S>>,
    /// Ends the refill when this is dropped.
    stop: DropGuard,
}

/// The row of the database.
pub trait Store: Send + Sync + 'static {
    /// Why the store has leased no range.
    type Error: Clone + Debug + Send + Sync + 'static;

    /// Takes the next `step` ids, in one atomic statement: `UPDATE ids SET
    /// max_id = max_id + $step WHERE tag = $tag RETURNING max_id`. The range is
    /// `max_id - step..max_id`.
    fn lease(
        &self,
        step: u64,
    ) -> impl Future<Output = Result<Range<u64>, Self::Error>> + Send;
}

/// The settings of [`Segments`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The first step, and the smallest one.
    pub min_step: NonZero<u64>,
    /// The largest step. If it is less than `min_step`, then `min_step` is
    /// used.
    pub max_step: NonZero<u64>,
    /// A lease that takes longer is dropped, and counts as failed.
    pub lease_timeout: Duration,
    /// The time between a failed lease and the next one.
    pub backoff: Duration,
    /// How long a call waits for an id.
    pub max_wait: Duration,
}

/// The ids that a process has: the current range, and a spare one.
#[derive(Debug)]
pub struct DoubleBuffer {
    /// The next id of the current range. It never falls, so that a
    /// compare-exchange succeeds only if no other thread has taken the id.
    next: AtomicU64,
    /// The end of the current range.
    end: AtomicU64,
    /// The value of `next` at which a refill starts, or `CLAIMED`.
    refill_at: AtomicU64,
    spare: Mutex<Spare>,
}

#[derive(Debug, Default)]
struct Spare {
    range: Option<Range<u64>>,
    /// The end of the latest range, be it current or spare.
    leased_to: u64,
}

/// A refill is running, or the spare range is there.
const CLAIMED: u64 = u64::MAX;

/// No id was available within [`Config::max_wait`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no ids are left")]
pub struct Exhausted<E> {
    /// Why the latest lease has failed. `None` if no lease has failed since the
    /// latest range.
    #[source]
    pub cause: Option<Failed<E>>,
}

/// Why a lease has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed<E> {
    /// The store has returned this error.
    #[error("the store has leased no ids")]
    Store(#[source] E),
    /// The store has returned a range that must not be used.
    #[error(transparent)]
    BadRange(BadRange),
    /// The lease took longer than [`Config::lease_timeout`].
    #[error("the lease timed out")]
    TimedOut,
    /// The store has panicked.
    #[error("the lease panicked")]
    Panicked,
}

/// The range is empty, begins below the end of an earlier range, or ends above
/// `i64::MAX`, the largest `BIGINT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the range {0:?} is empty, overlaps an earlier one, or is too high")]
pub struct BadRange(pub Range<u64>);

#[derive(Debug)]
struct Shared<S: Store> {
    ids: DoubleBuffer,
    store: S,
    config: Config,
    lease: Mutex<Lease<S::Error>>,
    /// Wakes the callers that wait for an id.
    refilled: Notify,
}

#[derive(Debug)]
struct Lease<E> {
    step: u64,
    /// When the latest range was leased. `None` while a refill is running.
    leased_at: Option<Instant>,
    failed: Option<Failed<E>>,
}

/// A claimed refill. Dropping it gives the claim back, unless the refill has
/// succeeded.
struct Refill<S: Store> {
    shared: Arc<Shared<S>>,
    is_done: bool,
}

impl<S: Store> Segments<S> {
    /// Creates an issuer without ids. The first call of `next` leases a range.
    pub fn new(store: S, config: Config) -> Self {
        let step = config.min_step.get();
        let lease = Lease { step, leased_at: None, failed: None };
        let shared = Arc::new(Shared {
            ids: DoubleBuffer::new(),
            store,
            config,
            lease: Mutex::new(lease),
            refilled: Notify::new(),
        });
        Self { shared, stop: CancellationToken::new().drop_guard() }
    }

    /// Returns the next id. Waits only if no id is left.
    ///
    /// # Errors
    ///
    /// Returns [`Exhausted`] if there is no id after [`Config::max_wait`].
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no id. A refill that it has started goes on.
    pub async fn next(&self) -> Result<u64, Exhausted<S::Error>> {
        if let Some(id) = self.take() {
            return Ok(id);
        }
        let wait = async {
            loop {
                // Created first, so that it misses no notification.
                let refilled = self.shared.refilled.notified();
                if let Some(id) = self.take() {
                    return id;
                }
                refilled.await;
                // A runtime that shuts down drops each refill at once. Without
                // this, the loop would never let it drop the caller.
                yield_now().await;
            }
        };
        let id = timeout(self.shared.config.max_wait, wait).await;
        id.map_err(|_| Exhausted { cause: self.shared.lease().failed.clone() })
    }

    fn take(&self) -> Option<u64> {
        let id = self.shared.ids.try_next();
        if self.shared.ids.claim_refill() {
            let shared = Arc::clone(&self.shared);
            let refill = Refill { shared, is_done: false }.run();
            // A task of its own, since the caller may be dropped.
            let stop = self.stop.token().clone();
            spawn(stop.run_until_cancelled_owned(refill));
        }
        id
    }
}

impl<S: Store> Refill<S> {
    /// Leases ranges until one is good. The task is the only one that asks the
    /// store, so an outage costs one lease for each backoff.
    async fn run(mut self) {
        let step = self.shared.next_step();
        while !self.shared.refill(step).await {
            sleep(self.shared.config.backoff).await;
        }
        self.is_done = true;
        self.shared.refilled.notify_waiters();
    }
}

impl<S: Store> Drop for Refill<S> {
    fn drop(&mut self) {
        if !self.is_done {
            self.shared.ids.give_up();
            self.shared.refilled.notify_waiters();
        }
    }
}

impl<S: Store> Shared<S> {
    fn next_step(&self) -> u64 {
        let mut lease = self.lease();
        // The time of an outage does not count: it comes after this moment.
        if let Some(leased_at) = lease.leased_at.take() {
            lease.step = self.config.adapt(lease.step, leased_at.elapsed());
        }
        lease.step
    }

    /// Leases one range, and returns whether it is good.
    async fn refill(&self, step: u64) -> bool {
        let range = self.lease_range(step).await;
        // Locked first: the next refill may begin as soon as the ids are there.
        let mut lease = self.lease();
        let put = |range| self.ids.put(range).map_err(Failed::BadRange);
        lease.failed = range.and_then(put).err();
        lease.leased_at = lease.failed.is_none().then(Instant::now);
        lease.failed.is_none()
    }

    /// Asks the store once.
    async fn lease_range(
        &self,
        step: u64,
    ) -> Result<Range<u64>, Failed<S::Error>> {
        let lease = catch_panic(async { self.store.lease(step).await });
        match timeout(self.config.lease_timeout, lease).await {
            Ok(Some(result)) => result.map_err(Failed::Store),
            Ok(None) => Err(Failed::Panicked),
            Err(_) => Err(Failed::TimedOut),
        }
    }

    fn lease(&self) -> MutexGuard<'_, Lease<S::Error>> {
        self.lease.lock().expect("no code panics with the lock held")
    }
}

impl Config {
    /// Returns the step that follows `step`, whose range has lasted for
    /// `lasted`.
    pub fn adapt(&self, step: u64, lasted: Duration) -> u64 {
        const MINUTE: Duration = Duration::from_secs(60);
        let (min, max) = (self.min_step.get(), self.max_step.get());
        let step = match lasted {
            _ if lasted < 15 * MINUTE => step.saturating_mul(2),
            _ if lasted > 30 * MINUTE => step / 2,
            _ => step,
        };
        step.min(max).max(min)
    }
}

impl DoubleBuffer {
    /// Creates a buffer without ids.
    #[expect(clippy::new_without_default, reason = "nobody needs a default")]
    pub fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            end: AtomicU64::new(0),
            refill_at: AtomicU64::new(0),
            spare: Mutex::new(Spare::default()),
        }
    }

    /// Returns the next id, or `None` if both ranges are used up.
    pub fn try_next(&self) -> Option<u64> {
        loop {
            // Pairs with the store in `switch`: with a new end comes its start.
            let end = self.end.load(Acquire);
            let id = self.next.load(Relaxed);
            if id >= end {
                if !self.switch() {
                    return None;
                }
                continue;
            }
            // It is tempting to add 1 and to look at the end after that. But
            // then the end may be that of the next range already, and an id
            // beyond the old range, which another process has, looks valid.
            let taken =
                self.next.compare_exchange_weak(id, id + 1, Relaxed, Relaxed);
            if taken.is_ok() {
                return Some(id);
            }
        }
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().expect("no code panics with the lock held")
    }

    /// Makes the spare range current. Returns whether there are ids.
    fn switch(&self) -> bool {
        let mut spare = self.spare();
        if self.next.load(Relaxed) < self.end.load(Relaxed) {
            return true; // Another thread has switched.
        }
        let Some(range) = spare.range.take() else { return false };
        let tenth = (range.end - range.start).div_ceil(10);
        self.next.store(range.start, Relaxed);
        self.refill_at.store(range.start + tenth, Relaxed);
        self.end.store(range.end, Release);
        true
    }

    /// Returns true if a refill is due. Only one caller gets true, and has to
    /// call `put` or `give_up`.
    pub fn claim_refill(&self) -> bool {
        let at = self.refill_at.load(Relaxed);
        // It fails if the range has changed since the load.
        at != CLAIMED
            && self.next.load(Relaxed) >= at
            && self
                .refill_at
                .compare_exchange(at, CLAIMED, Relaxed, Relaxed)
                .is_ok()
    }

    /// Stores the spare range, which ends the claim.
    ///
    /// # Errors
    ///
    /// Returns [`BadRange`] if the range must not be used. Then the claim
    /// stays.
    pub fn put(&self, range: Range<u64>) -> Result<(), BadRange> {
        let mut spare = self.spare();
        let is_new = range.start >= spare.leased_to;
        if range.is_empty() || !is_new || i64::try_from(range.end).is_err() {
            return Err(BadRange(range));
        }
        spare.leased_to = range.end;
        spare.range = Some(range);
        Ok(())
    }

    /// Ends the claim without a range. A refill is due at once.
    pub fn give_up(&self) {
        self.refill_at.store(0, Relaxed);
    }
}

/// Waits for `future`, and returns `None` if it panics.
async fn catch_panic<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let poll = AssertUnwindSafe(|| future.as_mut().poll(context));
        match catch_unwind(poll) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}
