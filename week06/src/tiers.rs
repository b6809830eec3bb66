//! Origin shield: two tiers of nodes, so that a hot key costs one query.
//!
//! *Question.* Ten thousand readers want one key, on ten nodes. Single flight in
//! each node still costs the origin ten queries. How does it get one? What does
//! a node do when a parent is dead or slow, or when the key does not exist?
//!
//! *Idea.* Put **parents** between the nodes at the **edge** and the origin. Each
//! node merges equal reads and keeps each result for a short time, as readers
//! never come in one instant. **Rendezvous hashing** orders the parents by a
//! hash of key and name. So all edges ask the same parent for a key, without
//! talking to each other, and a dead parent moves only its own keys.
//!
//! *Guarantee.* A node asks for a key at most once at a time, and not while it
//! keeps a result. It asks another upstream only if one gives no answer: "there
//! is none" and an error of the origin are answers, so a broken origin is not
//! asked through every parent. All attempts together end at the deadline. A
//! parent that gives no answer is left alone, and later asked by one flight.
//!
//! *Cost.* One more hop, and a value that is older by the `keep` of both tiers.
//! All results of the last `keep` are in memory. If all parents are dead, each
//! edge asks the origin. The deadline of a parent must be shorter than the
//! `attempt_timeout` of the edges: otherwise a slow origin looks like a dead
//! parent, and is asked through each parent in turn.
//!
//! ```
//! use std::convert::Infallible;
//! use std::time::Duration;
//! use week06::tiers::{Answer, Config, Node, Upstream};
//!
//! #[derive(Clone)]
//! struct Database;
//! impl Upstream for Database {
//!     type Value = u32;
//!     type Error = Infallible;
//!     async fn get(&self, key: &str) -> Answer<Self> {
//!         Ok((key == "celebrity").then_some(7))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let ms = Duration::from_millis;
//! let config = |deadline| Config {
//!     keep: ms(1_000),
//!     attempt_timeout: ms(200),
//!     deadline,
//!     retry_after: ms(5_000),
//! };
//! let parent = Node::new(config(ms(100)), Vec::new(), Database);
//! // Asked if no parent answers: a node that has only the origin.
//! let direct = Node::new(config(ms(100)), Vec::new(), Database);
//! let parents = vec![("parent-1".to_owned(), parent)];
//! let edge = Node::new(config(ms(500)), parents, direct);
//! assert_eq!(edge.get("celebrity").await, Ok(Some(7)));
//! assert_eq!(edge.get("nobody").await, Ok(None));
//! # }
//! ```

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::singleflight::{self, Group};

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
    config: Config,
    parents: Vec<Parent<U>>,
    origin: U,
    flights: Group<String, Option<U::Value>, Failed<U::Error>>,
    kept: Mutex<Kept<U>>,
}

struct Parent<U> {
    name: String,
    upstream: U,
    /// When the parent last gave no answer, or when the latest probe began.
    /// `None` if its latest attempt has ended with an answer.
    unavailable_since: Mutex<Option<Instant>>,
}

struct Kept<U: Upstream> {
    answers: HashMap<String, (Instant, Answer<U>)>,
    /// When the answers were last removed that are no longer kept.
    swept: Instant,
}

/// Returns the indices of `names` in the order in which to ask for `key`.
pub fn rank<'a>(
    key: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Vec<usize> {
    let names = names.into_iter();
    let scores: Vec<_> = names.map(|name| score(key, name)).collect();
    let mut order: Vec<_> = (0..scores.len()).collect();
    order.sort_by_key(|index| Reverse(scores[*index]));
    order
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
    pub fn new(config: Config, parents: Vec<(String, U)>, origin: U) -> Self {
        let parents = parents.into_iter().map(|(name, upstream)| Parent {
            name,
            upstream,
            unavailable_since: Mutex::default(),
        });
        let kept = Kept { answers: HashMap::new(), swept: Instant::now() };
        let shared = Shared {
            config,
            parents: parents.collect(),
            origin,
            flights: Group::default(),
            kept: Mutex::new(kept),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl<U: Upstream> Upstream for Node<U> {
    type Value = U::Value;
    type Error = U::Error;

    /// Returns the result that is kept for `key`, or waits for its flight.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime with a timer.
    ///
    /// # Cancel safety
    ///
    /// The first poll joins or starts the flight. Dropping the future leaves
    /// it, which cancels its attempt if no other reader is left.
    async fn get(&self, key: &str) -> Answer<U> {
        if let Some(answer) = self.shared.kept(key) {
            return answer;
        }
        let (shared, owned) = (Arc::clone(&self.shared), key.to_owned());
        let flight = move || async move { shared.fetch(owned).await };
        let answer = self.shared.flights.run(key.to_owned(), flight).await;
        answer.map_err(|failed| match failed {
            singleflight::Failed::Error(failed) => failed,
            singleflight::Failed::Panicked(text) => Failed::Panicked(text),
            // Not this key, but this node is at its end.
            singleflight::Failed::Cancelled => Failed::Unavailable,
        })
    }
}

impl<U: Upstream> Shared<U> {
    fn kept(&self, key: &str) -> Option<Answer<U>> {
        let kept = lock(&self.kept);
        let (since, answer) = kept.answers.get(key)?;
        (since.elapsed() < self.config.keep).then(|| answer.clone())
    }

    async fn fetch(&self, key: String) -> Answer<U> {
        // A flight may have ended after the reader of this one looked, and
        // before it could join.
        if let Some(answer) = self.kept(&key) {
            return answer;
        }
        let asked = timeout(self.config.deadline, self.ask(&key)).await;
        let answer = asked.unwrap_or(Err(Failed::NoAnswer));
        // In the flight: when it can no longer be joined, the answer is kept.
        self.keep(key, answer.clone());
        answer
    }

    fn keep(&self, key: String, answer: Answer<U>) {
        let (now, keep) = (Instant::now(), self.config.keep);
        let mut kept = lock(&self.kept);
        // Not in each call: so each answer is visited twice at most.
        if now - kept.swept >= keep {
            kept.answers.retain(|_, (since, _)| now - *since < keep);
            kept.swept = now;
        }
        kept.answers.insert(key, (now, answer));
    }

    async fn ask(&self, key: &str) -> Answer<U> {
        let Config { attempt_timeout, retry_after, .. } = self.config;
        for index in rank(key, self.parents.iter().map(|p| p.name.as_str())) {
            let parent = &self.parents[index];
            if !parent.may_be_asked(retry_after) {
                continue;
            }
            let answer = timeout(attempt_timeout, parent.upstream.get(key));
            let answer = answer.await.unwrap_or(Err(Failed::Unavailable));
            let is_unavailable = matches!(answer, Err(Failed::Unavailable));
            let since = is_unavailable.then(Instant::now);
            *lock(&parent.unavailable_since) = since;
            if !is_unavailable {
                return answer;
            }
        }
        // No other upstream is left: the origin may take the rest of the time.
        match self.origin.get(key).await {
            Err(Failed::Unavailable) => Err(Failed::NoAnswer),
            answer => answer,
        }
    }
}

impl<U> Parent<U> {
    /// Returns whether a flight may ask the parent. If it was unavailable, only
    /// one flight may, the probe. A probe begins as a failure, which only an
    /// answer changes. So it may be dropped.
    fn may_be_asked(&self, retry_after: Duration) -> bool {
        let mut since = lock(&self.unavailable_since);
        let may = since.is_none_or(|since| since.elapsed() >= retry_after);
        if may && since.is_some() {
            *since = Some(Instant::now());
        }
        may
    }
}

impl<U: Upstream> Clone for Node<U> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
