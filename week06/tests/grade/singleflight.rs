use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::hash::{Hash, Hasher};
use std::mem;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{unconstrained, yield_now};
use week06::singleflight::{Failed, Group};

const SIZES: [usize; 5] = [1, 2, 17, 130, 1_500];
/// A function returns a value, returns an error, or panics.
const ENDS: [End; 3] = [Some(Ok), Some(Err), None];

mod merge {
    use super::*;

    #[tokio::test]
    async fn concurrent_calls_of_equal_keys_share_one_result() {
        for (size, keys) in SIZES.iter().flat_map(|n| [(*n, 1), (*n, 1_500)]) {
            let mut world = World::default();
            for id in 0..size {
                world.call(id % keys);
            }
            // The first polls have started the flights.
            world.settle(|_| false).await;
            let begun = world.flights.lock().unwrap().len();
            assert_eq!(begun, size.min(keys), "flights after the first polls");
            world.check().await;
            for leader in (0..size.min(keys)).step_by(97) {
                world.end(leader, ENDS[0]);
                world.check().await;
            }
        }
    }

    #[tokio::test]
    async fn a_call_after_the_result_starts_a_new_flight() {
        let mut world = World::default();
        for i in 0..6 {
            let [leader, slow] = [(); 2].map(|()| world.call(7));
            world.check().await;
            world.end(leader, ENDS[i % 2]);
            // `slow` fetches its result after the next call, or leaves.
            world.settle(|id| id != slow).await;
            let next = world.call(7);
            if i < 2 {
                world.leave(slow);
            }
            world.check().await;
            world.call(7);
            world.check().await;
            world.end(next, ENDS[0]);
            world.check().await;
        }
        world.expect_nothing_kept().await;
        for number in 0..3 {
            let value = world.tracked(number);
            let read = async { Ok(value) };
            let id = world.call_with(7, Box::new(|| Box::pin(read)));
            world.settle(|_| true).await;
            let expected = Some(Ok(world.tracked(number)));
            assert_eq!(world.waiters[id].seen, expected, "call {number}");
        }
    }
}

mod cancel {
    use super::*;

    #[tokio::test]
    async fn a_dropped_waiter_does_not_cancel_the_flight_of_the_others() {
        for left in 0..17 {
            let mut world = World::default();
            world.call_many(17);
            for id in (0..17).filter(|id| *id != left) {
                world.leave(id);
                world.check().await;
            }
            world.call(7);
            world.check().await;
            world.end(0, ENDS[left % 3]);
            world.check().await;
        }
    }

    #[test]
    fn the_last_waiter_that_leaves_cancels_the_flight() {
        for (size, begins) in SIZES.iter().flat_map(|n| [(*n, 0), (*n, 1)]) {
            let (old, new) = (runtime(), runtime());
            let mut world = World::default();
            for _ in 0..3 {
                let ids = old.block_on(async { world.call_many(size) });
                for _ in 0..begins {
                    old.block_on(world.check());
                }
                // No task runs between the last drop and the next call. Waiters
                // may leave outside of a runtime.
                ids.iter().for_each(|id| world.leave(*id));
            }
            let cancelled = mem::take(&mut world.alive);
            let next = new.block_on(async { world.call(7) });
            new.block_on(world.settle(|_| true));
            // Before `old` runs, the cancelled flights cannot end.
            let begun = world.flights.lock().unwrap().contains_key(&next);
            assert!(begun, "the next flight waits for the cancelled one");
            old.block_on(world.settle(|_| true));
            new.block_on(world.check());
            let kept = Arc::strong_count(&cancelled) - 1;
            assert_eq!(kept, 0, "keys and functions kept of cancelled flights");
            world.end(next, ENDS[0]);
            new.block_on(world.check());
            new.block_on(world.expect_nothing_kept());
        }
    }

    #[tokio::test]
    async fn a_waiter_that_is_not_polled_delays_no_other_waiter() {
        for stalled in 0..3 {
            let mut world = World::default();
            world.call_many(3);
            world.settle(|id| id != stalled).await;
            world.end(0, ENDS[0]);
            world.settle(|id| id != stalled).await;
            (0..3).filter(|id| *id != stalled).for_each(|id| world.expect(id));
            world.check().await;
        }
    }

    #[tokio::test]
    async fn a_future_that_is_not_polled_neither_starts_nor_joins() {
        let mut world = World::default();
        let group = world.group.clone();
        let unpolled = group.run(world.tracked(7), world.query(99));
        world.check().await;
        let first = world.call(7);
        world.check().await;
        world.leave(first);
        world.check().await;
        drop(unpolled);
        world.expect_nothing_kept().await;
    }
}

mod edges {
    use super::*;

    #[tokio::test]
    async fn a_panic_reaches_every_waiter_and_the_next_call_starts_anew() {
        let panics: [(fn() -> Read, _); 4] = [
            (|| panic!("on purpose"), Some("on purpose")),
            (|| panic!("on purpose: {}", '表'), Some("on purpose: 表")),
            (|| Box::pin(async { panic!("on purpose") }), Some("on purpose")),
            (|| resume_unwind(Box::new(7)), None),
        ];
        for (panics, text) in panics {
            let mut world = World::default();
            world.call_with(7, Box::new(panics));
            world.settle(|_| true).await;
            let seen = world.waiters[0].seen.take();
            let Some(Err(Failed::Panicked(seen))) = seen else {
                panic!("expected `Panicked` with {text:?}, saw {seen:?}");
            };
            assert_eq!(seen, text.unwrap_or(&seen), "the panic's message");
            world.call_many(5);
            world.check().await;
            world.end(1, None);
            world.check().await;
            world.expect_nothing_kept().await;
        }
    }

    #[tokio::test]
    async fn after_forget_the_next_call_starts_a_flight() {
        let mut world = World::default();
        for i in 0..8 {
            world.forget(7);
            let [old, waits, _] = [7, 7, 8].map(|key| world.call(key));
            world.check().await;
            world.forget(7);
            let new = world.call(7);
            world.check().await;
            world.leave(old);
            match i % 4 {
                3 => world.leave(waits),
                end => world.end(old, ENDS[end]),
            }
            // The end of the old flight does not remove the new one.
            world.check().await;
            world.call(7);
            world.check().await;
            world.end(new, ENDS[0]);
            world.check().await;
        }
        world.expect_nothing_kept().await;
    }

    #[test]
    fn a_shutdown_of_the_flights_runtime_lets_no_waiter_hang() {
        within_deadline(|| [false, true].into_iter().for_each(shut_down));
    }

    #[test]
    fn any_sequence_of_calls_matches_the_model() {
        within_deadline(|| runtime().block_on(random_calls(false)));
    }

    #[test]
    fn functions_and_destructors_may_call_the_group() {
        within_deadline(|| {
            runtime().block_on(async {
                let mut world = World::default();
                let inner = world.future(5, world.query(99));
                let own = Forgets(world.group.clone(), world.tracked(6));
                let query = move || {
                    own.0.forget(&own.1);
                    Box::pin(async move {
                        own.0.forget(&own.1);
                        Ok(inner.await.unwrap())
                    }) as _
                };
                world.call_with(6, Box::new(query));
                world.settle(|_| true).await;
                assert!(world.send(99, Some(Ok)), "the inner call is not open");
                world.settle(|_| true).await;
                let expected = Some(Ok(world.tracked(99)));
                assert_eq!(world.waiters[0].seen, expected, "the outer call");
                random_calls(true).await;
            });
        });
    }
}

type End = Option<fn(Tracked) -> Outcome>;
type Outcome = Result<Tracked, Tracked>;
type Query = Box<dyn FnOnce() -> Read + Send>;
type Read = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Seen = Result<Tracked, Failed<Tracked>>;
type Calls = Group<Tracked, Tracked, Tracked>;

thread_local! {
    /// The group that destructors on this thread call.
    static CALLS_IN_DROP: RefCell<Option<Calls>> = const { RefCell::new(None) };
}

/// A key, a value, an error, or a variable of a function. All hashes are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tracked {
    number: usize,
    /// Counts the values that have not been dropped.
    alive: Arc<()>,
}

impl Hash for Tracked {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.number == 404 {
            return;
        }
        let group = CALLS_IN_DROP.try_with(RefCell::take);
        if let Ok(Some(group)) = group {
            let key = Self { number: 404, alive: Arc::default() };
            group.forget(&key);
            let mut call = Box::pin(group.run(key, pending));
            let mut context = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut context).is_pending());
            drop(call);
            CALLS_IN_DROP.set(Some(group));
        }
    }
}

/// Calls `forget` in its destructor.
struct Forgets(Calls, Tracked);

impl Drop for Forgets {
    fn drop(&mut self) {
        self.0.forget(&self.1);
    }
}

/// Callers of one group, and the results that are expected.
#[derive(Default)]
struct World {
    group: Calls,
    alive: Arc<()>,
    /// The flights that have begun, by the numbers of their functions.
    flights: Arc<Mutex<BTreeMap<usize, oneshot::Sender<Outcome>>>>,
    waiters: Vec<Waiter>,
    /// The waiters that each flight should have.
    open: BTreeMap<usize, Vec<usize>>,
    /// The latest flight of each key that was not forgotten.
    latest: HashMap<usize, usize>,
}

struct Waiter {
    /// `None` after the waiter has left, or has got its result.
    future: Option<Pin<Box<dyn Future<Output = Seen> + Send>>>,
    woken: Arc<Woken>,
    seen: Option<Seen>,
    expected: Option<Seen>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl World {
    fn tracked(&self, number: usize) -> Tracked {
        Tracked { number, alive: Arc::clone(&self.alive) }
    }

    /// Returns a function whose flight ends when the test decides.
    fn query(&self, number: usize) -> Query {
        let (flights, held) = (Arc::clone(&self.flights), self.tracked(number));
        Box::new(move || {
            drop(held.clone());
            let (end, ended) = oneshot::channel();
            flights.lock().unwrap().insert(number, end);
            Box::pin(async move {
                let _held = held;
                ended.await.unwrap_or_else(|_| panic!("on purpose: {number}"))
            })
        })
    }

    fn future(
        &self,
        key: usize,
        query: Query,
    ) -> impl Future<Output = Seen> + Send + use<> {
        let (group, key) = (self.group.clone(), self.tracked(key));
        async move { group.run(key, query).await }
    }

    /// Polls a future of `run` once, and returns its number.
    fn call_with(&mut self, key: usize, query: Query) -> usize {
        let future = Some(Box::pin(self.future(key, query)) as _);
        let woken = Arc::default();
        self.waiters.push(Waiter { future, woken, seen: None, expected: None });
        self.poll(self.waiters.len() - 1, true, true);
        self.waiters.len() - 1
    }

    fn call(&mut self, key: usize) -> usize {
        let id = self.call_with(key, self.query(self.waiters.len()));
        let latest = self.latest.entry(key).or_insert(id);
        if !self.open.contains_key(latest) {
            *latest = id;
        }
        self.open.entry(*latest).or_default().push(id);
        id
    }

    fn call_many(&mut self, count: usize) -> Vec<usize> {
        (0..count).map(|_| self.call(7)).collect()
    }

    /// Polls with a new waker. At the first poll, the budget of the task may be
    /// used up.
    fn poll(&mut self, id: usize, unasked: bool, is_first: bool) {
        let Waiter { future: slot, woken, seen, .. } = &mut self.waiters[id];
        let Some(future) = slot else { return };
        if woken.0.load(SeqCst) || unasked {
            *woken = Arc::default();
            let waker = Arc::clone(woken).into();
            let mut context = Context::from_waker(&waker);
            let poll = if is_first {
                future.as_mut().poll(&mut context)
            } else {
                pin!(unconstrained(future)).poll(&mut context)
            };
            if let Poll::Ready(result) = poll {
                (*seen, *slot) = (Some(result), None);
            }
        }
    }

    fn leave(&mut self, id: usize) {
        let waiter = &mut self.waiters[id];
        (waiter.future, waiter.expected) = (None, waiter.seen.clone());
        self.open.values_mut().for_each(|ids| ids.retain(|i| *i != id));
        self.open.retain(|_, ids| !ids.is_empty());
    }

    fn forget(&mut self, key: usize) {
        self.group.forget(&self.tracked(key));
        self.latest.remove(&key);
    }

    /// Ends a flight. Returns false if it is not open.
    fn send(&self, number: usize, end: End) -> bool {
        let flight = self.flights.lock().unwrap().remove(&number);
        let is_open = flight.as_ref().is_some_and(|flight| !flight.is_closed());
        if let (Some(flight), Some(result)) = (flight, end) {
            let _is_open = flight.send(result(self.tracked(number)));
        }
        is_open
    }

    fn end(&mut self, leader: usize, end: End) {
        assert!(self.send(leader, end), "flight {leader} is not open");
        for id in self.open.remove(&leader).into_iter().flatten() {
            self.waiters[id].expected = Some(match end {
                Some(end) => end(self.tracked(leader)).map_err(Failed::Error),
                None => Err(Failed::Panicked(format!("on purpose: {leader}"))),
            });
        }
    }

    /// Runs all tasks, and some waiters, until none can continue. Every other
    /// waiter is also polled without a wake-up.
    async fn settle(&mut self, is_polled: impl Fn(usize) -> bool) {
        for pass in 0..60 {
            let ids = (0..self.waiters.len()).filter(|id| is_polled(*id));
            ids.for_each(|id| self.poll(id, pass == 0 && id % 2 == 1, false));
            yield_now().await;
        }
    }

    fn expect(&self, id: usize) {
        let Waiter { seen, expected, .. } = &self.waiters[id];
        assert_eq!(
            seen, expected,
            "the result of call {id}: seen (left), expected (right)"
        );
    }

    /// Compares the results and the open flights with the expected ones.
    async fn check(&mut self) {
        self.settle(|_| true).await;
        (0..self.waiters.len()).for_each(|id| self.expect(id));
        let flights = self.flights.lock().unwrap();
        let open = flights.iter().filter(|(_, end)| !end.is_closed());
        assert_eq!(
            open.map(|(id, _)| id).collect::<Vec<_>>(),
            self.open.keys().collect::<Vec<_>>(),
            "calls whose functions are running: seen (left), expected (right)"
        );
    }

    /// Drops all waiters, and checks that the group is empty.
    async fn expect_nothing_kept(&mut self) {
        self.waiters.clear();
        self.open.clear();
        self.settle(|_| true).await;
        let kept = Arc::strong_count(&self.alive) - 1;
        assert_eq!(kept, 0, "keys, values and functions kept without a waiter");
    }
}

/// Compares random calls of three keys with the model.
async fn random_calls(destructors_call: bool) {
    let mut random = fastrand::Rng::with_seed(2026);
    for _ in 0..200 {
        let mut world = World::default();
        let group = world.group.clone();
        CALLS_IN_DROP.set(destructors_call.then_some(group));
        for _ in 0..random.usize(..80) {
            let n = random.usize(..3);
            let open = world.open.keys().copied();
            let (leader, id) =
                (random.choice(open), random.usize(..=world.waiters.len()));
            match (random.u8(..10), leader) {
                (0..4, _) => _ = world.call(n),
                (4..7, _) if id < world.waiters.len() => world.leave(id),
                (7, Some(leader)) => {
                    world.check().await;
                    world.end(leader, ENDS[n]);
                    world.check().await;
                }
                (8, _) => world.forget(n),
                _ => world.check().await,
            }
        }
        world.expect_nothing_kept().await;
    }
}

/// Shuts down the runtime of a flight. Another runtime polls its followers.
fn shut_down(forgets: bool) {
    let (old, new) = (runtime(), runtime());
    let mut world = World::default();
    old.spawn(world.future(7, world.query(99)));
    old.block_on(yield_now());
    let [follower, slow] = thread::scope(|scope| {
        let call = || old.block_on(async { [(); 2].map(|()| world.call(7)) });
        scope.spawn(call).join().unwrap()
    });
    let begun = world.flights.lock().unwrap().len();
    assert_eq!(begun, 1, "flights of calls on two threads");
    if forgets {
        world.forget(7);
    }
    let handle = old.handle().clone();
    drop(old);
    // From now on, the old runtime drops a new task at once.
    let guard = handle.enter();
    let late = world.call(8);
    drop(guard);
    world.open.clear();
    for (id, leader) in [(follower, 99), (late, late)] {
        new.block_on(world.settle(|id| id != slow));
        let ends = world.send(leader, Some(Ok));
        new.block_on(world.settle(|id| id != slow));
        let result = Ok(world.tracked(leader));
        let expected = if ends { result } else { Err(Failed::Cancelled) };
        world.waiters[id].expected = Some(expected);
        world.expect(id);
    }
    // `slow` fetches its result after the next calls.
    world.waiters[slow].expected = world.waiters[follower].expected.clone();
    let next = new.block_on(async { [7, 8].map(|key| world.call(key)) });
    new.block_on(world.check());
    next.iter().for_each(|id| world.end(*id, ENDS[0]));
    new.block_on(world.check());
    new.block_on(world.expect_nothing_kept());
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

/// Runs a test on a thread, so that a deadlock does not hang it.
fn within_deadline(test: impl FnOnce() + Send + 'static) {
    let (thread, start) = (thread::spawn(test), Instant::now());
    while !thread.is_finished() {
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_secs(5), "a deadlock: {elapsed:?}");
        thread::park_timeout(Duration::from_millis(1));
    }
    thread.join().unwrap_or_else(|panic| resume_unwind(panic));
}
