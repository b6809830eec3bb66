//! Models of `local_cache`. shuttle runs each one with its tasks' steps in many
//! orders, and it must hold in all of them. `quick_cache` is not replaced: its
//! locks are never held at a point where shuttle changes the task. But the hash
//! of the key is such a point, and comes before each of its operations.

use std::future::ready;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use shuttle::rand::Rng;
use shuttle_tokio_impl::task::yield_now;
use week05::window;

use crate::common::shuffle;
use crate::hot::{self, HotKeys};
use crate::local_cache::{Config, LocalCache};
use crate::model_checked::shuttle_tasks::spawn;
use crate::singleflight::Failed;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key;

impl Hash for Key {
    fn hash<H: Hasher>(&self, _: &mut H) {
        // Not always: some races are rare if there are many points.
        if shuttle::rand::thread_rng().gen_bool(0.2) {
            shuttle::thread::yield_now();
        }
    }
}

/// A row of a database, and a cache in front of it.
#[derive(Clone)]
struct World {
    cache: LocalCache<Key, usize, ()>,
    /// Each write stores a higher value. If it is odd, the row is missing.
    row: Arc<AtomicUsize>,
    /// The highest value that was written and invalidated.
    floor: Arc<AtomicUsize>,
    loads: Arc<AtomicUsize>,
    start: Instant,
}

impl World {
    fn new() -> Self {
        let start = Instant::now();
        let window =
            window::Config { bucket: SECOND, buckets: 1.try_into().unwrap() };
        let hot = hot::Config {
            capacity: 9.try_into().unwrap(),
            window,
            hot_at: 1.try_into().unwrap(),
            cool_below: 1.try_into().unwrap(),
        };
        let config = Config {
            capacity: 9.try_into().unwrap(),
            ttl: SECOND,
            jitter: 0.0,
            negative_ttl: SECOND,
            stale_for: SECOND,
        };
        Self {
            cache: LocalCache::new(config, HotKeys::new(hot, start)),
            row: Arc::default(),
            floor: Arc::default(),
            loads: Arc::default(),
            start,
        }
    }

    async fn get(&self, now: Instant) -> Result<Option<usize>, Failed<()>> {
        let (row, loads) = (Arc::clone(&self.row), Arc::clone(&self.loads));
        let load = || async move {
            loads.fetch_add(1, SeqCst);
            yield_now().await;
            let value = row.load(SeqCst);
            yield_now().await;
            Ok(found(value))
        };
        self.cache.get(&Key, now, 0.0, load).await
    }

    fn write(&self, value: usize) {
        self.row.store(value, SeqCst);
        self.cache.invalidate(&Key);
        self.floor.fetch_max(value, SeqCst);
    }

    /// Lets the tasks in the background end. shuttle cannot drop a task that
    /// holds a lock for which the destructor of another task waits.
    async fn settle(&self) {
        for _ in 0..300 {
            yield_now().await;
        }
    }

    /// Gets the value, which must not be older than the latest invalidation.
    async fn expect_current(&self, now: Instant) {
        let floor = self.floor.load(SeqCst);
        if let Ok(seen) = self.get(now).await {
            assert!(
                seen >= Some(floor),
                "a call after the invalidation of all values below {floor} \
                 returned {seen:?}"
            );
        }
    }
}

/// Returns what a load finds in a row of `value`.
fn found(value: usize) -> Option<usize> {
    value.is_multiple_of(2).then_some(value)
}

#[test]
fn no_call_after_an_invalidation_gets_a_value_that_was_read_before_it() {
    shuffle(async || {
        let world = World::new();
        let readers = [0, 1].map(|seconds| {
            let world = world.clone();
            spawn(async move {
                for i in 0..2 {
                    let now = world.start + i * seconds * SECOND;
                    world.expect_current(now).await;
                }
            })
        });
        let writer = world.clone();
        let writer = spawn(async move {
            for value in [2, 4] {
                writer.write(value);
                writer.expect_current(writer.start).await;
            }
        });
        for task in readers {
            task.await.expect("the reader was not aborted");
        }
        writer.await.expect("the writer was not aborted");
        for seconds in 0..3 {
            world.expect_current(world.start + seconds * SECOND).await;
        }
        world.settle().await;
    });
}

#[test]
fn no_call_joins_a_load_that_found_the_entry_before_its_invalidation() {
    shuffle(async || {
        let world = World::new();
        let readers = [(); 6].map(|()| {
            let world = world.clone();
            spawn(async move {
                // Without a pause, so that the race is met more often, and
                // before there is a future.
                let row = Arc::clone(&world.row);
                let loads = Arc::clone(&world.loads);
                let load = move || {
                    let value = row.load(SeqCst);
                    loads.fetch_add(1, SeqCst);
                    ready(Ok(Some(value)))
                };
                drop(world.cache.get(&Key, world.start, 0.0, load).await);
            })
        });
        // The first reader stores a value that the others have not found.
        while world.loads.load(SeqCst) == 0 {
            yield_now().await;
        }
        world.write(2);
        for _ in 0..3 {
            world.expect_current(world.start).await;
        }
        for reader in readers {
            reader.await.expect("the reader was not aborted");
        }
    });
}

#[test]
fn no_load_begins_while_a_fresh_value_is_stored() {
    shuffle(async || {
        let world = World::new();
        let mut stored = None;
        for (round, value) in [2, 4, 5, 7].into_iter().enumerate() {
            // In the first round, no value is stored. Then it is stale.
            let now = world.start + round as u32 * SECOND;
            world.row.store(value, SeqCst);
            let callers = [(); 3].map(|()| {
                let world = world.clone();
                spawn(async move { world.get(now).await })
            });
            for caller in callers {
                let seen = caller.await.expect("the caller was not aborted");
                let is_stale = stored.is_some() && seen == Ok(stored);
                assert!(
                    seen == Ok(found(value)) || is_stale,
                    "a call in round {round} returned {seen:?}"
                );
            }
            // The refresh in the background ends.
            while world.get(now).await != Ok(found(value)) {
                yield_now().await;
            }
            stored = found(value);
            let loads = world.loads.load(SeqCst);
            assert_eq!(loads, round + 1, "loads, expected: one a round");
        }
        world.settle().await;
    });
}

#[test]
fn a_load_whose_callers_leave_does_not_disturb_the_next_one() {
    shuffle(async || {
        let world = World::new();
        let callers = [(); 2].map(|()| {
            let world = world.clone();
            spawn(async move { world.get(world.start).await })
        });
        yield_now().await;
        callers.iter().for_each(|caller| caller.abort());
        world.write(2);
        world.expect_current(world.start).await;
        for caller in callers {
            drop(caller.await);
        }
        // A load that was cancelled can still begin and take the lease of a
        // later one. There are two.
        for _ in 0..2 {
            world.expect_current(world.start).await;
        }
        world.settle().await;
        let load = async || Err(());
        let seen = world.cache.get(&Key, world.start, 0.0, load).await;
        assert_eq!(seen, Ok(Some(2)), "the value that is stored");
    });
}
