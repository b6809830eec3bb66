//! Variant: each read is a flight, and a parent is one atomic number.
//!
//! A read does not look at the kept results itself: it joins a flight or starts
//! one, and the flight looks. So there is one place where a result is looked up,
//! and no reader can come between a look and a flight. But a read of a kept
//! result costs a task, where that of the answer costs a lookup.
//!
//! All results are kept for the same time, so they expire in the order in which
//! they came. A queue removes each one soon after, where the answer visits all
//! of them at times. And the state of a parent is the time from which it may be
//! asked: a flight that moves this time with a compare-and-exchange is the probe.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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
    start: Instant,
    parents: Vec<Parent<U>>,
    origin: U,
    flights: Group<String, Option<U::Value>, Failed<U::Error>>,
    results: Mutex<Results<U>>,
}

struct Parent<U> {
    name: String,
    upstream: U,
    /// The time in nanoseconds since `start` from which one flight may ask, or
    /// 0 if all may. It publishes nothing else.
    closed_until: AtomicU64,
}

struct Results<U: Upstream> {
    by_key: HashMap<String, (Instant, Answer<U>)>,
    by_age: VecDeque<(Instant, String)>,
}

/// Returns the indices of `names` in the order in which to ask for `key`.
pub fn rank<'a>(
    key: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Vec<usize> {
    let names = names.into_iter().enumerate();
    let mut ranked: Vec<_> =
        names.map(|(index, name)| (score(key, name), index)).collect();
    ranked.sort_unstable();
    ranked.into_iter().rev().map(|(_, index)| index).collect()
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
        let by_age = VecDeque::new();
        let results = Results { by_key: HashMap::new(), by_age };
        let parents = parents.into_iter().map(|(name, upstream)| Parent {
            name,
            upstream,
            closed_until: AtomicU64::new(0),
        });
        let shared = Shared {
            config,
            start: Instant::now(),
            parents: parents.collect(),
            origin,
            flights: Group::default(),
            results: Mutex::new(results),
        };
        Self { shared: Arc::new(shared) }
    }
}

impl<U: Upstream> Upstream for Node<U> {
    type Value = U::Value;
    type Error = U::Error;

    async fn get(&self, key: &str) -> Answer<U> {
        let (shared, owned) = (Arc::clone(&self.shared), key.to_owned());
        let flight = || async move { shared.fly(owned).await };
        match self.shared.flights.run(key.to_owned(), flight).await {
            Ok(value) => Ok(value),
            Err(singleflight::Failed::Error(failed)) => Err(failed),
            Err(singleflight::Failed::Panicked(text)) => {
                Err(Failed::Panicked(text))
            }
            Err(singleflight::Failed::Cancelled) => Err(Failed::Unavailable),
        }
    }
}

impl<U: Upstream> Shared<U> {
    async fn fly(&self, key: String) -> Answer<U> {
        let found = lock(&self.results).get(&key, self.config.keep);
        if let Some(answer) = found {
            return answer;
        }
        let answer = timeout(self.config.deadline, async {
            let names = self.parents.iter().map(|p| p.name.as_str());
            for index in rank(&key, names) {
                let answer = self.try_parent(&self.parents[index], &key).await;
                if let Some(answer) = answer {
                    return answer;
                }
            }
            let answer = self.origin.get(&key).await;
            let is_silent = matches!(answer, Err(Failed::Unavailable));
            if is_silent { Err(Failed::NoAnswer) } else { answer }
        });
        let answer = answer.await.unwrap_or(Err(Failed::NoAnswer));
        lock(&self.results).add(key, answer.clone(), self.config.keep);
        answer
    }

    /// Returns the answer of a parent, if it may be asked and answers in time.
    async fn try_parent(
        &self,
        parent: &Parent<U>,
        key: &str,
    ) -> Option<Answer<U>> {
        let closed = parent.closed_until.load(Relaxed);
        if closed > 0 {
            let (now, next) = (self.after(Duration::ZERO), self.retry_at());
            let state = &parent.closed_until;
            let is_probe = closed <= now
                && state
                    .compare_exchange(closed, next, Relaxed, Relaxed)
                    .is_ok();
            if !is_probe {
                return None;
            }
        }
        let limit = self.config.attempt_timeout;
        match timeout(limit, parent.upstream.get(key)).await {
            Ok(Err(Failed::Unavailable)) | Err(_) => {
                parent.closed_until.store(self.retry_at(), Relaxed);
                None
            }
            Ok(answer) => {
                parent.closed_until.store(0, Relaxed);
                Some(answer)
            }
        }
    }

    fn retry_at(&self) -> u64 {
        self.after(self.config.retry_after)
    }

    /// Returns the time after `wait` in nanoseconds since `start`, never 0.
    fn after(&self, wait: Duration) -> u64 {
        let elapsed = self.start.elapsed().saturating_add(wait);
        let nanos = elapsed.as_nanos().try_into().unwrap_or(u64::MAX);
        nanos.saturating_add(1)
    }
}

impl<U: Upstream> Results<U> {
    fn get(&self, key: &str, keep: Duration) -> Option<Answer<U>> {
        let (since, answer) = self.by_key.get(key)?;
        (since.elapsed() < keep).then(|| answer.clone())
    }

    fn add(&mut self, key: String, answer: Answer<U>, keep: Duration) {
        let is_old = |since: &Instant| since.elapsed() >= keep;
        while let Some((_, key)) =
            self.by_age.pop_front_if(|(since, _)| is_old(since))
        {
            // A flight that was cancelled late, and the one after it, may both
            // have added a result.
            if self.by_key.get(&key).is_some_and(|(since, _)| is_old(since)) {
                self.by_key.remove(&key);
            }
        }
        let now = Instant::now();
        self.by_age.push_back((now, key.clone()));
        self.by_key.insert(key, (now, answer));
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
