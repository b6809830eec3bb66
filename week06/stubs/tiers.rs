//! Origin shield: two tiers of nodes, so that a hot key costs one query. Your
//! turn.
//!
//! A node merges equal reads. A node at the edge asks its parents and, if none
//! of them answers, the origin. A parent is a node that has no parents.
//!
//! These rules are graded, and nothing else:
//!
//! - *Order.* `rank` returns the index of each name once, the highest `score`
//!   first. `score` is given. The order of equal scores is free.
//! - *Reading.* A read returns the result that is kept for the key. If no
//!   result is kept, the read joins the flight of the key, or starts one if no
//!   flight is running. A flight asks upstreams. All its readers get its
//!   result. Flights of different keys do not wait for each other. Before its
//!   first poll, a future of `get` neither joins nor starts a flight.
//! - *Attempts.* A flight asks one upstream at a time: the parents in the
//!   order of `rank`, then the origin. It asks the next one only in two cases:
//!   the upstream returns `Unavailable`, or the upstream is a parent and has
//!   not answered when `attempt_timeout` has passed since it was asked. In the
//!   second case, the attempt is dropped.
//! - Everything else that an upstream returns is an answer and ends the flight:
//!   a value, `None`, an error of the origin, and a `NoAnswer` or `Panicked`
//!   that comes from a node.
//! - `attempt_timeout` does not apply to the origin. If the origin returns
//!   `Unavailable`, the result is `NoAnswer`.
//! - *Deadline.* At the time `deadline` after its start, a flight without a
//!   result drops its attempt and ends with `NoAnswer`. The deadline of a
//!   flight does not make a parent unavailable.
//! - *Keep.* The result of a flight is kept from the end of the flight, even
//!   if no reader is polled then. While less than `keep` has passed since that
//!   end, reads return clones of the result, and no upstream is asked. This
//!   holds for errors, too, and for readers on several threads.
//! - *Memory.* After the result of a flight has been stored, the node has no
//!   results of flights that ended more than `2 × keep` ago.
//! - *Unavailable parents.* A parent that has returned `Unavailable`, or has
//!   not answered within `attempt_timeout`, is unavailable: no flight begins
//!   to ask it while less than `retry_after` has passed since then. After
//!   that, only one flight asks it. This attempt is the *probe*. Other flights
//!   skip the parent while less than `retry_after` has passed since the start
//!   of the probe. Any answer of the parent, also to an earlier attempt, makes
//!   it available. If a probe ends without a result, the next probe is due
//!   when `retry_after` has passed since the start of that probe.
//! - *Leaving.* A flight goes on as long as one of its readers waits. A flight
//!   with two or more readers goes on even if none of them is polled. When the
//!   last reader is dropped, the attempt is dropped soon, nothing is kept, and
//!   the next read starts a new flight.
//! - *Panics and shutdown.* If an upstream panics, the readers get `Panicked`
//!   with its message. If the runtime of a flight with two or more readers
//!   shuts down, its readers in other runtimes get `Unavailable`. In both
//!   cases, no other upstream is asked, nothing is kept, and no parent becomes
//!   unavailable.
//! - All settings may be as large as `Duration::MAX`, and `keep` and
//!   `retry_after` may be zero. A clone of a node shares everything. The time
//!   is that of `tokio::time`, which tests pause.
//!
//! Help: `Group` has the rules of week 6's first exercise. Its flight is a
//! task, which ends when the last reader leaves.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::singleflight::Group;

/// A node that is asked for keys: the origin, or a parent.
pub trait Upstream: Send + Sync + 'static {
    /// The value of a key.
    type Value: Clone + Send + Sync + 'static;
    /// An error of the origin.
    type Error: Clone + Send + Sync + 'static;

    /// Returns the value of `key`, or `None` if there is none.
    fn get(&self, key: &str) -> impl Future<Output = Answer<Self>> + Send;
}

/// The result of a read.
pub type Answer<U> =
    Result<Option<<U as Upstream>::Value>, Failed<<U as Upstream>::Error>>;

/// Why a read has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failed<E> {
    /// This upstream gives no answer. Another one may.
    #[error("the upstream is unavailable")]
    Unavailable,
    /// The origin has answered with this error.
    #[error(transparent)]
    Origin(E),
    /// The origin has given no answer, or none before the deadline.
    #[error("the origin has not answered")]
    NoAnswer,
    /// The call of an upstream has panicked with this message.
    #[error("the call of an upstream panicked: {0}")]
    Panicked(String),
}

/// The settings of a [`Node`].
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// For how long a result is given to later readers.
    pub keep: Duration,
    /// How long a parent may take before the next upstream is asked.
    pub attempt_timeout: Duration,
    /// How long all attempts of a flight may take together.
    pub deadline: Duration,
    /// For how long a parent that gave no answer is not asked.
    pub retry_after: Duration,
}

/// Reads from its parents or the origin. A clone shares everything.
#[expect(missing_debug_implementations, reason = "upstreams need none")]
pub struct Node<U: Upstream> {
    shared: Arc<Shared<U>>,
}

struct Shared<U: Upstream> {
    _flights: Group<String, Option<U::Value>, Failed<U::Error>>,
    // What does a flight need? What is known of a parent? What is kept of a
    // result, and how does it go away?
    _upstreams: PhantomData<U>,
}

/// Returns the indices of `names` in the order in which to ask for `key`.
pub fn rank<'a>(
    key: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Vec<usize> {
    let _scores = names.into_iter().map(|name| score(key, name));
    todo!("whom does a node ask first, without talking to the other nodes?")
}

/// Returns the score of a name for a key. All nodes must use the same function,
/// so it is not one of `std`, which may change with the version.
fn score(key: &str, name: &str) -> u64 {
    let fnv1a = |text: &str| {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    // The last byte of a name changes few bits of its FNV-1a hash, and then some
    // parents would get more keys than others. So mix them, as SplitMix64 does.
    let hash: u64 = fnv1a(key) ^ fnv1a(name);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

impl<U: Upstream> Node<U> {
    /// Creates a node. A parent is given with its name, which must be the same
    /// in all nodes. A node without parents asks the origin.
    pub fn new(
        _config: Config,
        _parents: Vec<(String, U)>,
        _origin: U,
    ) -> Self {
        todo!("what do all clones share?")
    }
}

impl<U: Upstream> Upstream for Node<U> {
    type Value = U::Value;
    type Error = U::Error;

    /// Returns the result that is kept for `key`, or waits for its flight.
    ///
    /// # Panics
    ///
    /// May panic outside of a tokio runtime with a timer.
    ///
    /// # Cancel safety
    ///
    /// The first poll joins or starts the flight. Dropping the future leaves
    /// it, which cancels its attempt if no other reader is left.
    async fn get(&self, _key: &str) -> Answer<U> {
        todo!("is a result kept, is there a flight, and whom does it ask?")
    }
}

impl<U: Upstream> Clone for Node<U> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[allow(dead_code, reason = "you will use it")]
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
