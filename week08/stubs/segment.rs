//! ID segments: a double buffer of ids from a database. Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - *Buffer.* `DoubleBuffer` has a current range and a spare one. `try_next`
//!   returns each id of the current range once, in order, and then continues
//!   with the spare range, which becomes the current one. It returns `None` if
//!   and only if both are used up. No id is left out.
//! - *Refill.* A refill is due if no other caller has the claim, there is no
//!   spare range, and a tenth of the current range, rounded up, has been
//!   returned. In a new buffer, it is due at once. `claim_refill` returns true
//!   if a refill is due. The caller then has the claim, until it calls
//!   `give_up`, or `put` with a good range. A caller without the claim calls
//!   neither of them.
//! - `put` stores a range as the spare. It refuses a range that is empty (also
//!   one whose start is above its end), that begins below the end of a range
//!   which was put before, or that ends above `i64::MAX`. When it refuses a
//!   range, it returns `BadRange` with the range, and changes nothing. Every
//!   other range is good, even if its size is not the step.
//! - These rules hold for concurrent threads, and each thread gets its ids in
//!   increasing order. In the last rung (group of tests), loom runs your
//!   `DoubleBuffer`, and shuttle runs your `Segments`. So take atomics and
//!   locks from `crate::model_checked::loom_atomics`. Take `spawn`, `Notify`
//!   and the like from `crate::model_checked::shuttle_tasks`. Take timers from
//!   tokio: under shuttle, they never fire.
//! - *Step.* `adapt` doubles the step if the ids have lasted less than 15
//!   minutes, halves it (rounded down) if they have lasted more than 30, and
//!   keeps it otherwise. The result is at most `max_step` and at least
//!   `min_step`. If `min_step` is the larger of the two, the result is
//!   `min_step`. Nothing overflows.
//! - *Segments.* The call of `next` that makes a refill due starts the refill,
//!   as a task in the background. So `next` returns an id at once if there is
//!   one, whatever the store does. Each id of the leased ranges is returned
//!   once, even if other calls are dropped after any poll.
//! - A refill asks the store for a range. If the lease fails (see `Failed`),
//!   the refill asks again after `backoff`, with the same step, until a range
//!   is good. The calls of `next` do not ask the store, so at most one lease
//!   runs at a time.
//! - The first lease has the step `min_step`. Each later refill adapts the
//!   step to the time from the end of the latest good lease to the start of
//!   that refill. So the time of an outage does not count.
//! - If there is no id, `next` waits up to `max_wait`. Every waiting call gets
//!   an id as soon as there is one for it. If there is no id in time, `next`
//!   returns `Exhausted`. Its `cause` is the failure of the latest lease that
//!   has ended. It is `None` if that lease was good, or if no lease has ended.
//! - If the runtime of a refill shuts down, the next call starts a new refill
//!   in its own runtime. A call that is already waiting in another runtime
//!   does the same.
//! - When `Segments` is dropped, its refill ends soon, and drops the store.
//!
//! Given: the claim as a guard, `take`, and `lease_range`, which asks the store
//! once. You may change everything that is private.

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
        todo!("is there an id? If not, how do you miss no notification?")
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
    async fn run(self) {
        todo!("what do you do if the lease has failed, and what if not?")
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
    /// Returns the step of a refill that begins now.
    fn next_step(&self) -> u64 {
        todo!("how long have the latest ids lasted?")
    }

    /// Leases one range, and returns whether it is good.
    async fn refill(&self, _step: u64) -> bool {
        todo!("is the range good, and what does the next refill need to know?")
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
    pub fn adapt(&self, _step: u64, _lasted: Duration) -> u64 {
        todo!("what is the next step, within its bounds?")
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
        todo!("which threads may take this id, and when is the range used up?")
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().expect("no code panics with the lock held")
    }

    /// Makes the spare range current. Returns whether there are ids.
    fn switch(&self) -> bool {
        todo!("in which order do the start and the end become visible?")
    }

    /// Returns true if a refill is due. Only one caller gets true, and has to
    /// call `put` or `give_up`.
    pub fn claim_refill(&self) -> bool {
        todo!("is a tenth used, and which of two callers gets the claim?")
    }

    /// Stores the spare range, which ends the claim.
    ///
    /// # Errors
    ///
    /// Returns [`BadRange`] if the range must not be used. Then the claim
    /// stays.
    pub fn put(&self, _range: Range<u64>) -> Result<(), BadRange> {
        todo!("could another process have an id of this range?")
    }

    /// Ends the claim without a range. A refill is due at once.
    pub fn give_up(&self) {
        todo!("who may claim the refill now?")
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
