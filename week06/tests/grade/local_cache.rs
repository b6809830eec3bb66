use std::collections::{BTreeMap, HashMap};
use std::future::{Ready, pending};
use std::hash::{Hash, Hasher};
use std::mem;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use lab::alloc::{Counting, bytes_in_use};
use tokio::sync::oneshot;
use tokio::task::{unconstrained, yield_now};
use week05::window;
use week06::hot::{self, HotKeys};
use week06::local_cache::{Config, LocalCache};
use week06::singleflight::Failed;

const SECOND: Duration = Duration::from_secs(1);
const MICRO: Duration = Duration::from_micros(1);
const NANO: Duration = Duration::from_nanos(1);
const CENTURY: Duration = Duration::from_secs(3_155_760_000);
const SIZES: [usize; 5] = [1, 2, 17, 130, 1_500];
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

mod store {
    use super::*;

    #[tokio::test]
    async fn a_value_is_stored_if_its_key_is_hot_when_its_load_ends() {
        for (size, more) in SIZES.iter().flat_map(|n| [(*n, 0), (*n, 1)]) {
            for end in [Found, Missing] {
                // The last call makes the key hot, or the next one.
                let mut world = World::new(config(), [size + more, 1, 9]);
                (0..size).for_each(|_| _ = world.get(7, *START, 0.5));
                world.end_all(end).await;
                for _ in 0..3 {
                    world.get(6, *START, 0.5);
                    world.get(7, *START, 0.5);
                    world.end_all(Found).await;
                }
            }
        }
    }

    #[tokio::test]
    async fn an_error_and_a_panic_reach_every_caller_and_are_not_stored() {
        for (size, end) in SIZES.iter().flat_map(|n| [(n, Fails), (n, Panics)])
        {
            let mut world = World::new(config(), [1, 1, 9]);
            for end in [end, end, Found] {
                (0..*size).for_each(|_| _ = world.get(7, *START, 0.5));
                world.end_all(end).await;
            }
            world.get(7, *START, 0.5);
            world.check().await;
        }
        let mut world = World::new(config(), [99, 1, 9]);
        for end in ENDS {
            world.panic_at_once(7).await;
            world.load_at(7, end, *START).await;
        }
    }

    #[tokio::test]
    async fn entries_are_bounded_by_the_capacity_and_not_evicted_too_soon() {
        let kinds = [[Found; 2], [Missing; 2], [Found, Missing]];
        for (n, ends) in [1, 2, 9, 130, 1_500]
            .map(|n| kinds.map(|ends| (n, ends)))
            .as_flattened()
        {
            let capacity = NonZero::new(*n).unwrap();
            let mut world =
                World::new(Config { capacity, ..config() }, [1, 1, 8]);
            for _ in 0..2 {
                for key in 0..n.div_ceil(4) {
                    world.load_at(key, ends[key % 2], *START).await;
                }
            }
            for key in 10_000..10_000 + 2 * n + 40 {
                world.load_at(key, ends[key % 2], *START).await;
                world.entries.clear();
            }
            let of_sketch = world.hot.hot(*START).len();
            let (kept, most) = (world.keys() - of_sketch, n + n / 16);
            assert!(kept <= most, "{kept} keys, expected: {most} at most");
        }
    }
}

mod expiry {
    use super::*;

    #[tokio::test]
    async fn a_time_to_live_has_jitter_and_begins_with_its_loads_first_call() {
        let mut random = fastrand::Rng::with_seed(2026);
        for i in 0..616 {
            // Each combination of extremes, then a millisecond to a year, or to
            // 300 billion years.
            let digits = [10.5, 22.0][i / 2 % 2];
            let mut time = |n| match [Duration::ZERO, Duration::MAX, SECOND] {
                extremes if i < 216 => extremes[i / n % 3],
                _ => SECOND.mul_f64(10_f64.powf(random.f64() * digits - 3.0)),
            };
            let [ttl, negative_ttl, stale_for] = [1, 3, 9].map(&mut time);
            let [jitter, rand] = match [0.0, 1.0 - f64::EPSILON] {
                rand if i < 216 => [(i / 27 % 2) as f64, rand[i / 54 % 2]],
                _ => [random.f64(), [random.f64(), 0.0][i % 2]],
            };
            let times = [ttl, negative_ttl, stale_for];
            let mut world = World::new(of_times(times, jitter), [1, 1, 9]);
            world.get(7, *START, rand);
            world.check().await;
            // A follower's time and random number do not count.
            world.get(7, *START + SECOND, 0.1);
            world.end_all([Found, Missing][i / 108 % 2]).await;
            let ttl = world.entries[&7].2;
            let ends = [Some(ttl), ttl.checked_add(stale_for)];
            for end in ends.into_iter().flatten().filter(|d| *d < CENTURY / 2) {
                let error = if jitter * rand == 0.0 { NANO } else { MICRO };
                for now in [end.saturating_sub(error), end + error] {
                    world.get(7, *START + now, 0.5);
                    world.end_all(Fails).await;
                    // A clock may be late.
                    world.get(7, *START - SECOND, 0.5);
                    world.end_all(Fails).await;
                }
            }
            world.get(7, *START + CENTURY, 0.5);
            world.check().await;
        }
    }

    #[tokio::test]
    async fn a_stale_value_is_returned_at_once_while_one_load_renews_it() {
        for size in SIZES {
            let mut world = World::new(config(), [1, 1, 9]);
            world.load_at(7, Found, *START).await;
            for round in 1..4 {
                let now = *START + round * 15 * SECOND;
                for i in 0..size {
                    let call = world.get(7, now + MICRO * i as u32, 0.5);
                    // No task runs between the call and its drop.
                    world.leave(call);
                    if i == size / 2 {
                        world.check().await;
                    }
                }
                // The stale value ends while the load runs.
                (0..3).for_each(|_| _ = world.get(7, now + 9 * SECOND, 0.0));
                world.end_all(Found).await;
                for end in [9 * SECOND - MICRO, 9 * SECOND + MICRO] {
                    world.get(7, now + end, 0.5);
                    world.check().await;
                }
                world.end_all(Fails).await;
            }
        }
    }

    #[tokio::test]
    async fn a_failed_refresh_leaves_the_stale_value_to_its_end() {
        for (end, calls) in [(Fails, 1), (Panics, 1), (Fails, 3)] {
            for stored in [Found, Missing] {
                let mut world = World::new(config(), [1, 1, 9]);
                world.load_at(7, stored, *START).await;
                for seconds in [3, 4, 9, 10, 11, 12, 16, 17, 18] {
                    for _ in 0..calls {
                        world.get(7, *START + seconds * SECOND, 0.5);
                        world.check().await;
                    }
                    world.end_all(end).await;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_value_of_a_key_that_has_cooled_is_not_renewed() {
        for end in ENDS {
            let mut world = World::new(config(), [2, 2, 9]);
            (0..2).for_each(|_| _ = world.get(7, *START, 0.0));
            world.end_all(Found).await;
            let now = *START + 16 * SECOND;
            world.get(7, now, 0.0);
            world.end_all(end).await;
            world.get(7, now, 0.0);
            world.end_all(end).await;
            // A refresh joins the load of a call, which then leaves.
            let mut world = World::new(config(), [2, 2, 9]);
            (0..2).for_each(|_| _ = world.get(7, *START, 0.0));
            world.end_all(Found).await;
            let waits = world.get(7, now, 0.0);
            world.check().await;
            world.get(7, now, 0.0);
            world.check().await;
            world.leave(waits);
            world.end_all(end).await;
            world.get(7, now, 0.0);
            world.check().await;
        }
    }
}

mod invalidate {
    use super::*;

    #[tokio::test]
    async fn a_load_that_was_invalidated_is_neither_stored_nor_joined() {
        for (i, new) in (0..6).flat_map(|i| ENDS.map(|end| (i, end))) {
            for old in ENDS {
                let mut world = World::new(config(), [1, 1, 9]);
                world.load_at(7, Found, *START).await;
                // The load is a refresh, or its caller waits.
                let now = *START + [11, 20][i % 2] * SECOND;
                let first = world.get(7, now, 0.5);
                world.check().await;
                world.invalidate(7);
                if i < 2 {
                    world.end(first, old);
                    world.check().await;
                }
                let next = world.get(7, now, 0.5);
                world.check().await;
                let ends = [(next, new), (first, old), (next, new)];
                for (load, end) in
                    &ends[[2, 1, 0][i / 2]..][..1 + (i / 2).min(1)]
                {
                    world.end(*load, *end);
                    world.check().await;
                    world.get(7, now, 0.5);
                    world.check().await;
                }
            }
        }
        // The key has cooled when the load ends.
        for (old, new) in ENDS.iter().flat_map(|o| ENDS.map(|n| (*o, n))) {
            let times = [Duration::MAX; 3];
            let mut world = World::new(of_times(times, 0.0), [2, 2, 9]);
            let first = world.get(7, *START, 0.5);
            world.check().await;
            world.invalidate(7);
            let next = world.get(7, *START, 0.5);
            world.check().await;
            world.end(next, new);
            world.check().await;
            world.get(8, *START + 16 * SECOND, 0.5);
            world.check().await;
            world.end(first, old);
            world.check().await;
            world.get(7, *START, 0.5);
            world.check().await;
        }
    }

    #[tokio::test]
    async fn invalidations_of_other_keys_leave_a_load_and_its_value_alone() {
        let capacity = NonZero::new(10_000).unwrap();
        for size in SIZES {
            let config = Config { capacity, ..config() };
            let mut world = World::new(config, [1, 1, 10_000]);
            for end in [Found, Missing] {
                // Many loads run at once.
                let keys = world.next..world.next + size;
                keys.clone().for_each(|key| _ = world.get(key, *START, 0.5));
                for key in 1_000_000..1_000_000 + size {
                    world.invalidate(key);
                    if key % 131 == 0 {
                        world.check().await;
                    }
                }
                world.invalidate(keys.end);
                world.end_all(end).await;
                (0..keys.start).for_each(|key| world.invalidate(key));
                keys.for_each(|key| _ = world.get(key, *START, 0.5));
                world.check().await;
            }
        }
    }

    #[tokio::test]
    async fn the_last_caller_that_leaves_cancels_the_load_and_stores_nothing() {
        for (size, begins) in SIZES.iter().flat_map(|n| [(n, 0), (n, 1)]) {
            let mut world = World::new(config(), [1, 1, 9]);
            for _ in 0..3 {
                let calls = (0..*size).map(|_| world.get(7, *START, 0.5));
                let calls: Vec<_> = calls.collect();
                for _ in 0..begins {
                    world.check().await;
                }
                calls.iter().for_each(|call| world.leave(*call));
            }
            let unpolled = world.future(7, *START, 0.5, 99_999);
            world.check().await;
            drop(unpolled);
            world.load_at(7, Found, *START).await;
            world.load_at(7, Found, *START).await;
        }
    }

    #[tokio::test]
    async fn a_load_and_an_invalidation_leave_nothing_in_memory() {
        let mut world = World::new(config(), [1_000_000, 1, 1]);
        for key in 0..1_500 {
            let call = world.get(key, *START, 0.5);
            world.check().await;
            if key % 3 == 0 {
                world.invalidate(key);
                world.get(key, *START, 0.5);
            }
            match ENDS.get(key % 5) {
                Some(end) => world.end_all(*end).await,
                None => world.leave(call),
            }
            if key % 100 == 0 {
                world.panic_at_once(2_000 + key).await;
            }
            world.invalidate(key + 1);
        }
        world.check().await;
        let kept = world.keys();
        assert!(kept <= 2, "{kept} keys, expected: at most 2, of the sketch");
        let kept = Arc::strong_count(&world.alive) - 1;
        assert_eq!(kept, 0, "values, errors and functions kept");

        // With the first loads of a hot key, tables grow.
        let mut world = World::new(config(), [1, 1, 9]);
        let mut bytes = Vec::with_capacity(2);
        for loads in [0..300, 300..1_500] {
            for i in loads {
                // Refreshes that succeed or fail, and the load of a caller.
                let now = *START + i * 12 * SECOND;
                world.load_at(7, [Found, Fails][i as usize % 2], now).await;
                if i % 5 == 0 {
                    world.invalidate(7);
                    world.load_at(7, Missing, now).await;
                }
            }
            world.invalidate(7);
            bytes.push(bytes_in_use());
        }
        let more = bytes[1] - bytes[0];
        assert!(more < 1_000, "{more} bytes more after 1,200 loads of a key");
    }

    #[tokio::test]
    async fn any_sequence_of_calls_matches_the_model() {
        let mut random = fastrand::Rng::with_seed(2026);
        for i in 0..800 {
            let times = [9 * SECOND, 4 * SECOND, 7 * SECOND];
            let times = times.map(|time| {
                [time, Duration::ZERO, time, Duration::MAX][random.usize(..4)]
            });
            let config = of_times(times, [0.0, 0.4, 1.0][random.usize(..3)]);
            let hot = [[1, 1, 9], [2, 1, 9], [3, 2, 9]][i % 3];
            let (mut world, mut now) = (World::new(config, hot), *START);
            for _ in 0..random.usize(..50) {
                let key = random.usize(..1 + i / 3 % 3);
                let end = ENDS[random.usize(..4)];
                let load = random.choice(world.flights.keys().copied());
                let call = random.choice(world.calls.keys().copied());
                match (random.u8(..12), load, call) {
                    (0..6, ..) => {
                        // Some callers have an earlier time.
                        let late = random.u32(..8).saturating_sub(4) * SECOND;
                        let rand = [0.0, random.f64()][random.usize(..2)];
                        world.get(key, now - late, rand);
                    }
                    (6..8, Some(load), _) => world.end(load, end),
                    (8, ..) => world.invalidate(key),
                    (9, _, Some(call)) => world.leave(call),
                    _ => now += random.u32(..8) * SECOND,
                }
                world.check().await;
            }
        }
    }
}

/// How a load ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Found,
    Missing,
    Fails,
    Panics,
}

use End::{Fails, Found, Missing, Panics};

const ENDS: [End; 4] = [Found, Missing, Fails, Panics];

type Outcome = Result<Option<Tracked>, Tracked>;
type Seen = Result<Option<Tracked>, Failed<Tracked>>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A key, a value, an error, or a variable of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tracked {
    number: usize,
    /// Counts what has not been dropped.
    alive: Arc<()>,
}

/// Two keys each have equal hashes.
impl Hash for Tracked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.number / 2).hash(state);
    }
}

/// A cache, and what it should do.
struct World {
    cache: LocalCache<Tracked, Tracked, Tracked>,
    config: Config,
    hot: HotKeys<usize>,
    /// Counts the keys that have not been dropped.
    keys: Arc<()>,
    alive: Arc<()>,
    /// The loads that have begun, by the numbers of their calls.
    loads: Arc<Mutex<BTreeMap<usize, oneshot::Sender<End>>>>,
    /// The calls since the latest check, and those that wait.
    calls: BTreeMap<usize, Call>,
    next: usize,
    /// Calls and ends of loads since the latest check.
    events: usize,
    /// The value of each key, the time of its load, and its time to live.
    entries: HashMap<usize, (Option<usize>, Instant, Duration)>,
    /// The loads that should run.
    flights: BTreeMap<usize, Flight>,
}

struct Call {
    future: Boxed<Seen>,
    seen: Option<Seen>,
    expected: Option<Seen>,
}

impl Call {
    fn poll(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        if self.seen.is_none()
            && let Poll::Ready(seen) = self.future.as_mut().poll(&mut context)
        {
            self.seen = Some(seen);
        }
    }
}

struct Flight {
    key: usize,
    now: Instant,
    rand: f64,
    waiters: Vec<usize>,
    is_refresh: bool,
    is_valid: bool,
}

fn config() -> Config {
    of_times([10, 4, 7].map(|seconds| seconds * SECOND), 0.2)
}

fn of_times(
    [ttl, negative_ttl, stale_for]: [Duration; 3],
    jitter: f64,
) -> Config {
    let capacity = NonZero::new(1_000).unwrap();
    Config { capacity, ttl, jitter, negative_ttl, stale_for }
}

impl World {
    fn new(config: Config, hot: [usize; 3]) -> Self {
        let [hot_at, cool_below, capacity] =
            hot.map(|n| NonZero::new(n).unwrap());
        let buckets = NonZero::new(2).unwrap();
        let hot = hot::Config {
            capacity,
            // A record counts for 8 to 12 seconds.
            window: window::Config { bucket: 4 * SECOND, buckets },
            hot_at: hot_at.try_into().unwrap(),
            cool_below: cool_below.try_into().unwrap(),
        };
        Self {
            cache: LocalCache::new(config, HotKeys::new(hot, *START)),
            config,
            hot: HotKeys::new(hot, *START),
            keys: Arc::default(),
            alive: Arc::default(),
            loads: Arc::default(),
            calls: BTreeMap::new(),
            next: 0,
            events: 0,
            entries: HashMap::new(),
            flights: BTreeMap::new(),
        }
    }

    fn key(&self, number: usize) -> Tracked {
        Tracked { number, alive: Arc::clone(&self.keys) }
    }

    /// Returns the number of keys that have not been dropped.
    fn keys(&self) -> usize {
        Arc::strong_count(&self.keys) - 1
    }

    fn tracked(&self, number: usize) -> Tracked {
        Tracked { number, alive: Arc::clone(&self.alive) }
    }

    /// Returns a future of `get`. Its load ends when the test decides.
    fn future(
        &self,
        key: usize,
        now: Instant,
        rand: f64,
        id: usize,
    ) -> Boxed<Seen> {
        let (cache, key) = (self.cache.clone(), self.key(key));
        let (loads, held) = (Arc::clone(&self.loads), self.tracked(id));
        let load = move || {
            let (end, ended) = oneshot::channel();
            loads.lock().unwrap().insert(id, end);
            async move {
                match ended.await {
                    Ok(Found) => Ok(Some(held)),
                    Ok(Missing) => Ok(None),
                    Ok(Fails) => Err(held),
                    Ok(Panics) => panic!("on purpose: {id}"),
                    Err(_) => pending::<Outcome>().await,
                }
            }
        };
        let get = async move { cache.get(&key, now, rand, load).await };
        Box::pin(unconstrained(get))
    }

    /// Polls a future of `get` once, and returns the number of the call.
    fn get(&mut self, key: usize, now: Instant, rand: f64) -> usize {
        let id = self.next;
        self.next += 1;
        self.events += 1;
        let is_hot = self.hot.record(&key, now);
        let (mut stored, mut is_fresh) = (None, false);
        if let Some((value, loaded, ttl)) = self.entries.get(&key) {
            let age = now.saturating_duration_since(*loaded);
            let is_stale = age < ttl.saturating_add(self.config.stale_for);
            is_fresh = age < *ttl;
            let is_returned = is_fresh || is_hot && value.is_some() && is_stale;
            let value = value.map(|number| self.tracked(number));
            stored = is_returned.then_some(Ok(value));
        }
        if !is_fresh {
            let mut flights = self.flights.iter();
            let running = flights.find(|(_, f)| f.key == key && f.is_valid);
            let load = running.map_or(id, |(load, _)| *load);
            let flight = self.flights.entry(load).or_insert_with(|| {
                let (is_refresh, is_valid, waiters) = (false, true, Vec::new());
                Flight { key, now, rand, waiters, is_refresh, is_valid }
            });
            flight.is_refresh |= stored.is_some();
            flight.waiters.extend(stored.is_none().then_some(id));
        }
        let future = self.future(key, now, rand, id);
        let mut call = Call { future, seen: None, expected: stored };
        call.poll();
        self.calls.insert(id, call);
        // A stored value is returned at once.
        self.expect(id);
        id
    }

    /// Drops the future of a call.
    fn leave(&mut self, id: usize) {
        drop(self.calls.remove(&id));
        self.flights.values_mut().for_each(|f| f.waiters.retain(|i| *i != id));
        self.flights.retain(|_, f| f.is_refresh || !f.waiters.is_empty());
    }

    fn invalidate(&mut self, key: usize) {
        self.cache.invalidate(&self.key(key));
        self.entries.remove(&key);
        let flights = self.flights.values_mut().filter(|f| f.key == key);
        flights.for_each(|flight| flight.is_valid = false);
    }

    fn end(&mut self, load: usize, end: End) {
        let Flight { key, now, rand, waiters, is_valid, .. } =
            self.flights.remove(&load).unwrap();
        let running = self.loads.lock().unwrap().remove(&load).unwrap();
        running.send(end).expect("the load runs");
        self.events += 1;
        let ttl = match end {
            Found => Some(self.config.ttl),
            Missing => Some(self.config.negative_ttl),
            Fails | Panics => None,
        };
        if let Some(ttl) = ttl.filter(|_| is_valid) {
            self.entries.remove(&key);
            if self.hot.is_hot(&key, now) {
                let value = matches!(end, Found).then_some(load);
                let ttl = ttl - ttl.mul_f64(self.config.jitter * rand);
                self.entries.insert(key, (value, now, ttl));
            }
        }
        for id in waiters {
            let expected = match end {
                Found => Ok(Some(self.tracked(load))),
                Missing => Ok(None),
                Fails => Err(Failed::Error(self.tracked(load))),
                Panics => Err(Failed::Panicked(format!("on purpose: {load}"))),
            };
            self.calls.get_mut(&id).unwrap().expected = Some(expected);
        }
    }

    /// Ends all loads.
    async fn end_all(&mut self, end: End) {
        self.check().await;
        let loads: Vec<_> = self.flights.keys().copied().collect();
        loads.iter().for_each(|load| self.end(*load, end));
        self.check().await;
    }

    async fn load_at(&mut self, key: usize, end: End, now: Instant) {
        self.get(key, now, 0.0);
        self.end_all(end).await;
    }

    /// Calls `get` with a function that panics before there is a future. No
    /// value of the key may be stored or loading.
    async fn panic_at_once(&mut self, key: usize) {
        self.hot.record(&key, *START);
        let load = || -> Ready<Outcome> { panic!("on purpose") };
        let seen = self.cache.get(&self.key(key), *START, 0.5, load).await;
        assert_eq!(seen, Err(Failed::Panicked("on purpose".to_owned())));
    }

    fn expect(&self, id: usize) {
        let Call { seen, expected, .. } = &self.calls[&id];
        let text = "the result of call";
        assert_eq!(
            seen, expected,
            "{text} {id}: seen (left), expected (right)"
        );
    }

    /// Runs all tasks until none can continue. Compares the results and the
    /// running loads with the expected ones.
    async fn check(&mut self) {
        // In one pass, tokio runs 61 tasks at most.
        for _ in 0..12 + mem::take(&mut self.events) / 20 {
            yield_now().await;
        }
        self.calls.values_mut().for_each(Call::poll);
        self.calls.keys().for_each(|id| self.expect(*id));
        self.calls.retain(|_, call| call.seen.is_none());
        let loads = self.loads.lock().unwrap();
        let running = loads.iter().filter(|(_, load)| !load.is_closed());
        assert_eq!(
            running.map(|(load, _)| load).collect::<Vec<_>>(),
            self.flights.keys().collect::<Vec<_>>(),
            "calls whose loads run: seen (left), expected (right)"
        );
    }
}
