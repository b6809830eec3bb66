//! One lock around both ranges.
//!
//! Each id takes the lock, so `try_next` is `Range::next`, the switch is one
//! assignment, and no order of stores has to be argued. On one thread, an
//! uncontended lock costs a few nanoseconds more than a compare-exchange. On
//! several threads, a thread that is suspended with the lock held stops all
//! others.
//!
//! A `watch` channel wakes the waiting calls, and an abort handle ends the
//! refill.

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

use crate::model_checked::loom_atomics::{Mutex, MutexGuard};
use crate::model_checked::shuttle_tasks::{AbortHandle, spawn, watch};

/// Hands out ids from the ranges of a store. Share it in an `Arc`.
#[derive(Debug)]
pub struct Segments<S: Store> {
    shared: Arc<Shared<S>>,
    /// The task of the latest refill.
    task: Mutex<Option<AbortHandle>>,
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
    ranges: Mutex<Ranges>,
}

#[derive(Debug)]
struct Ranges {
    /// The ids of the current range that are left.
    current: Range<u64>,
    /// A refill is due when so many ids are left, or fewer.
    refill_at: u64,
    spare: Option<Range<u64>>,
    is_claimed: bool,
    /// The end of the latest range, be it current or spare.
    leased_to: u64,
}

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
    refilled: watch::Sender<()>,
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
            refilled: watch::channel(()).0,
        });
        Self { shared, task: Mutex::default() }
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
                // Subscribed first, so that it misses no change.
                let mut refilled = self.shared.refilled.subscribe();
                if let Some(id) = self.take() {
                    return id;
                }
                refilled.changed().await.expect("the sender is shared");
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
            // Locked first, so that the latest task is stored last.
            let mut task = self.task();
            let spawned = spawn(refill);
            *task = Some(spawned.abort_handle());
        }
        id
    }

    fn task(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.task.lock().expect("no code panics with the lock held")
    }
}

impl<S: Store> Drop for Segments<S> {
    fn drop(&mut self) {
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }
}

impl<S: Store> Refill<S> {
    /// Leases ranges until one is good.
    async fn run(mut self) {
        let step = self.shared.next_step();
        while !self.shared.refill(step).await {
            sleep(self.shared.config.backoff).await;
        }
        self.is_done = true;
        self.shared.refilled.send_replace(());
    }
}

impl<S: Store> Drop for Refill<S> {
    fn drop(&mut self) {
        if !self.is_done {
            self.shared.ids.give_up();
            self.shared.refilled.send_replace(());
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
        let ranges = Ranges {
            current: 0..0,
            refill_at: 0,
            spare: None,
            is_claimed: false,
            leased_to: 0,
        };
        Self { ranges: Mutex::new(ranges) }
    }

    /// Returns the next id, or `None` if both ranges are used up.
    pub fn try_next(&self) -> Option<u64> {
        let mut ranges = self.ranges();
        if ranges.current.is_empty() {
            ranges.current = ranges.spare.take()?;
            let len = ranges.current.end - ranges.current.start;
            ranges.refill_at = len - len.div_ceil(10);
        }
        ranges.current.next()
    }

    /// Returns true if a refill is due. Only one caller gets true, and has to
    /// call `put` or `give_up`.
    pub fn claim_refill(&self) -> bool {
        let mut ranges = self.ranges();
        let left = ranges.current.end - ranges.current.start;
        let is_due = ranges.spare.is_none() && left <= ranges.refill_at;
        is_due && !std::mem::replace(&mut ranges.is_claimed, true)
    }

    /// Stores the spare range, which ends the claim.
    ///
    /// # Errors
    ///
    /// Returns [`BadRange`] if the range must not be used. Then the claim
    /// stays.
    pub fn put(&self, range: Range<u64>) -> Result<(), BadRange> {
        let mut ranges = self.ranges();
        let is_new = range.start >= ranges.leased_to;
        if range.is_empty() || !is_new || i64::try_from(range.end).is_err() {
            return Err(BadRange(range));
        }
        ranges.is_claimed = false;
        ranges.leased_to = range.end;
        ranges.spare = Some(range);
        Ok(())
    }

    /// Ends the claim without a range. A refill is due at once.
    pub fn give_up(&self) {
        self.ranges().is_claimed = false;
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.ranges.lock().expect("no code panics with the lock held")
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
