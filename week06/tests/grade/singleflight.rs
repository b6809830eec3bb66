use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::{pending, poll_fn};
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
            let (begun, keys) = (world.begun(), size.min(keys));
            assert_eq!(
                begun, keys,
                "functions that run (left), expected (right), after the first \
                 polls of {size} calls, of {keys} keys"
            );
            world.check().await;
            for leader in (0..keys).step_by(97) {
                world.end(leader, ENDS[0]);
                world.check().await;
            }
        }
    }

    #[tokio::test]
    async fn a_call_after_the_result_starts_a_new_flight() {
        let mut world = World::default();
        for i in 0..6 {
            let [leader, slow] = [(); 2].map(|()| world.call(0));
            world.check().await;
            world.end(leader, ENDS[i % 2]);
            // `slow` fetches its result after the next call, or leaves.
            world.settle(|id| id != slow).await;
            let next = world.call(0);
            if i < 2 {
                world.leave(slow);
            }
            world.check().await;
            world.call(0);
            world.check().await;
            world.end(next, ENDS[0]);
            world.check().await;
        }
        for number in 0..3 {
            let value = world.tracked(number);
            let read = async { Ok(value) };
            let id = world.call_with(0, Box::new(|| Box::pin(read)));
            world.settle(|_| true).await;
            world.waiters[id].expected = Some(Ok(world.tracked(number)));
            world.expect(id);
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
            world.call(0);
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
            let cancelled = mem::take(&mut world.functions);
            let next = new.block_on(async { world.call(0) });
            new.block_on(world.settle(|_| true));
            // Before `old` runs, the cancelled flights cannot end.
            let begun = world.flights.lock().unwrap().contains_key(&next);
            assert!(
                begun,
                "the function of call {next} was not called: does it wait for \
                 the end of the cancelled flight?{}",
                world.text()
            );
            old.block_on(world.settle(|_| true));
            new.block_on(world.check());
            let kept = Arc::strong_count(&cancelled) - 1;
            assert!(
                kept == 0,
                "{kept} functions or futures of cancelled flights were not \
                 dropped{}",
                world.text()
            );
            world.end(next, ENDS[0]);
            new.block_on(world.check());
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
        let kept = world.kept();
        world.step("99: run a, not polled");
        let unpolled = group.run(world.key(0), world.query(99));
        let held = world.kept() - kept;
        world.check().await;
        let first = world.call(0);
        world.check().await;
        world.leave(first);
        world.check().await;
        let kept = world.kept();
        world.step("drop 99");
        drop(unpolled);
        world.settle(|_| true).await;
        assert!(
            world.kept() + held <= kept,
            "the key or the function of call 99, which was not polled, was not \
             dropped with its future{}",
            world.text()
        );
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
            world.call_with(0, Box::new(panics));
            world.settle(|_| true).await;
            let seen = world.waiters[0].seen.take();
            let Some(Err(Failed::Panicked(seen))) = seen else {
                panic!("expected `Panicked` with {text:?}, seen: {seen:?}");
            };
            let expected = text.unwrap_or(&seen);
            assert!(
                seen == expected,
                "the message of a panic is {seen:?}, expected {expected:?}"
            );
            world.call_many(5);
            world.check().await;
            world.end(1, None);
            world.check().await;
        }
    }

    #[tokio::test]
    async fn after_forget_the_next_call_starts_a_flight() {
        let mut world = World::default();
        for i in 0..8 {
            world.forget(0);
            let [old, waits, _] = [0, 0, 1].map(|key| world.call(key));
            world.check().await;
            world.forget(0);
            let new = world.call(0);
            world.check().await;
            world.leave(old);
            match i % 4 {
                3 => world.leave(waits),
                end => world.end(old, ENDS[end]),
            }
            // The end of the old flight does not remove the new one.
            world.check().await;
            world.call(0);
            world.check().await;
            world.end(new, ENDS[0]);
            world.check().await;
        }
    }

    #[test]
    fn a_group_soon_keeps_nothing_of_a_flight_without_waiters() {
        within_deadline(|| {
            let sizes = [1, 2, 17].into_iter();
            for (size, forgets) in sizes.flat_map(|n| [(n, false), (n, true)]) {
                for end in 0..4 {
                    let mut world = World::default();
                    let end = ENDS.get(end).copied();
                    runtime().block_on(fly(&mut world, size, forgets, end));
                }
            }
            for forgets in [false, true] {
                let (mut world, runtime) = shut_down(forgets);
                runtime.block_on(world.expect_nothing_kept());
            }
        });
    }

    #[test]
    fn a_shutdown_of_the_flights_runtime_lets_no_waiter_hang() {
        within_deadline(|| {
            for forgets in [false, true] {
                drop(shut_down(forgets));
            }
        });
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
                let mut inner = Box::pin(world.future(0, world.query(99)));
                let own = Forgets(world.group.clone(), world.key(1));
                let query = move || {
                    own.forget("the function of a flight");
                    Box::pin(async move {
                        own.forget("the future of a flight");
                        let text = "the future of a flight has called `run` \
                                    with another key";
                        let inner = poll_fn(|context| {
                            doing(text, || inner.as_mut().poll(context))
                        });
                        Ok(inner.await.unwrap())
                    }) as _
                };
                world.call_with(1, Box::new(query));
                world.settle(|_| true).await;
                assert!(
                    world.send(99, Some(Ok)),
                    "the future of a flight has called `run` with another key, \
                     and the function of this call does not run"
                );
                world.settle(|_| true).await;
                world.waiters[0].expected = Some(Ok(world.tracked(99)));
                world.expect(0);
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

/// What a thread does: the latest step of the test, and the callbacks in which
/// it is. A message tells where a deadlock is.
type Doing = Arc<Mutex<Vec<String>>>;

thread_local! {
    static DOING: RefCell<Doing> = RefCell::default();
}

/// Makes `text` a part of the message if `call` does not end.
fn doing<T>(text: &str, call: impl FnOnce() -> T) -> T {
    let change = |change: &dyn Fn(&mut Vec<String>)| {
        // Destructors may run after those of the thread's variables.
        let _is_ended =
            DOING.try_with(|doing| change(&mut doing.borrow().lock().unwrap()));
    };
    change(&|doing| doing.push(text.to_owned()));
    let result = call();
    change(&|doing| _ = doing.pop());
    result
}

/// A key, a value, an error, or a variable of a function. All hashes are equal.
#[derive(Clone)]
struct Tracked {
    number: usize,
    role: &'static str,
    /// Counts the values that have not been dropped.
    _alive: Arc<()>,
}

impl fmt::Debug for Tracked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)
    }
}

impl PartialEq for Tracked {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Tracked {}

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
            let _alive = Arc::default();
            let key = Self { number: 404, role: "key", _alive };
            let text = format!("the destructor of a {} has", self.role);
            doing(&format!("{text} called `forget`"), || group.forget(&key));
            let mut call = Box::pin(group.run(key, pending));
            let mut context = Context::from_waker(Waker::noop());
            let poll = || call.as_mut().poll(&mut context);
            let poll = doing(&format!("{text} called `run`"), poll);
            // A second panic would hide the first one.
            assert!(
                poll.is_pending() || thread::panicking(),
                "{text} called `run` with a function that never ends, and got \
                 {poll:?}"
            );
            let text = format!("{text} dropped a future of `run`");
            doing(&text, || drop(call));
            CALLS_IN_DROP.set(Some(group));
        }
    }
}

/// Calls `forget` in its destructor.
struct Forgets(Calls, Tracked);

impl Forgets {
    fn forget(&self, who: &str) {
        let text = format!("{who} has called `forget`");
        doing(&text, || self.0.forget(&self.1));
    }
}

impl Drop for Forgets {
    fn drop(&mut self) {
        self.forget("the destructor of a future");
    }
}

/// Callers of one group, and the results that are expected.
#[derive(Default)]
struct World {
    group: Calls,
    alive: Arc<()>,
    /// Counts the variables of functions that have not been dropped.
    functions: Arc<()>,
    /// The flights that have begun, by the numbers of their functions.
    flights: Arc<Mutex<BTreeMap<usize, oneshot::Sender<Outcome>>>>,
    waiters: Vec<Waiter>,
    /// The waiters that each flight should have.
    open: BTreeMap<usize, Vec<usize>>,
    /// The latest flight of each key that was not forgotten.
    latest: HashMap<usize, usize>,
    /// What the test has done, for messages.
    steps: Vec<String>,
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
        let _alive = Arc::clone(&self.alive);
        Tracked { number, role: "value or an error", _alive }
    }

    fn key(&self, number: usize) -> Tracked {
        let _alive = Arc::clone(&self.alive);
        Tracked { number, role: "key", _alive }
    }

    fn step(&mut self, text: &str) {
        if self.steps.last().is_some_and(|last| last == text) {
            return;
        }
        self.steps.push(text.to_owned());
        DOING.with_borrow(|doing| {
            let mut doing = doing.lock().unwrap();
            let text = format!("the latest step was `{text}`");
            match doing.first_mut() {
                Some(step) => *step = text,
                None => doing.push(text),
            }
        });
    }

    /// Returns the steps so far, for messages.
    fn text(&self) -> String {
        const SHOWN: usize = 60;
        let earlier = self.steps.len().saturating_sub(SHOWN);
        let steps = self.steps[earlier..].join("; ");
        let more = match earlier {
            0 => String::new(),
            _ => format!("({earlier} earlier steps); "),
        };
        format!(
            "\nsteps, with the numbers of calls (`wait` runs all tasks): \
             {more}{steps}"
        )
    }

    /// Returns how many keys, values, errors and functions are not dropped.
    fn kept(&self) -> usize {
        let alive = [&self.alive, &self.functions];
        alive.map(|alive| Arc::strong_count(alive) - 1).iter().sum()
    }

    /// Returns the number of functions that have been called.
    fn begun(&self) -> usize {
        self.flights.lock().unwrap().len()
    }

    /// Returns a function whose flight ends when the test decides.
    fn query(&self, number: usize) -> Query {
        let (flights, _alive) =
            (Arc::clone(&self.flights), Arc::clone(&self.functions));
        let held = Tracked { number, role: "variable of a function", _alive };
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
        let (group, key) = (self.group.clone(), self.key(key));
        async move { group.run(key, query).await }
    }

    /// Polls a future of `run` once, and returns its number.
    fn call_with(&mut self, key: usize, query: Query) -> usize {
        self.step(&format!("{}: run {}", self.waiters.len(), letter(key)));
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
        (0..count).map(|_| self.call(0)).collect()
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
        if self.waiters[id].future.is_some() {
            self.step(&format!("drop {id}"));
        }
        let waiter = &mut self.waiters[id];
        (waiter.future, waiter.expected) = (None, waiter.seen.clone());
        self.open.values_mut().for_each(|ids| ids.retain(|i| *i != id));
        self.open.retain(|_, ids| !ids.is_empty());
    }

    fn forget(&mut self, key: usize) {
        self.step(&format!("forget {}", letter(key)));
        self.group.forget(&self.key(key));
        self.latest.remove(&key);
    }

    /// Ends a flight. Returns false if it is not open.
    fn send(&mut self, number: usize, end: End) -> bool {
        let result = end.map(|result| result(self.tracked(number)));
        self.step(&match result {
            Some(Ok(_)) => format!("{number} returns a value"),
            Some(Err(_)) => format!("{number} returns an error"),
            None => format!("{number} panics"),
        });
        let flight = self.flights.lock().unwrap().remove(&number);
        let is_open = flight.as_ref().is_some_and(|flight| !flight.is_closed());
        if let (Some(flight), Some(result)) = (flight, result) {
            let _is_open = flight.send(result);
        }
        is_open
    }

    fn end(&mut self, leader: usize, end: End) {
        let is_open = self.send(leader, end);
        assert!(
            is_open,
            "the function of call {leader} does not run{}",
            self.text()
        );
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
        self.step("wait");
        for pass in 0..60 {
            let ids = (0..self.waiters.len()).filter(|id| is_polled(*id));
            ids.for_each(|id| self.poll(id, pass == 0 && id % 2 == 1, false));
            yield_now().await;
        }
    }

    fn expect(&self, id: usize) {
        let Waiter { woken, seen, expected, .. } = &self.waiters[id];
        let is_woken = woken.0.load(SeqCst);
        let wrong = match (seen, expected) {
            _ if seen == expected => return,
            (None, Some(_)) if is_woken => "still waits, although it was woken",
            (None, _) => "still waits: it was not woken",
            (Some(_), None) => "has a result before the end of its flight",
            (Some(_), Some(_)) => "has a wrong result",
        };
        panic!(
            "call {id} {wrong}\nresult: {seen:?}, expected: {expected:?}{}",
            self.text()
        );
    }

    /// Compares the results and the open flights with the expected ones.
    async fn check(&mut self) {
        self.settle(|_| true).await;
        (0..self.waiters.len()).for_each(|id| self.expect(id));
        let flights = self.flights.lock().unwrap();
        let open = flights.iter().filter(|(_, end)| !end.is_closed());
        let seen: Vec<_> = open.map(|(id, _)| id).collect();
        let expected: Vec<_> = self.open.keys().collect();
        assert!(
            seen == expected,
            "calls whose functions are running: {seen:?}, expected: \
             {expected:?}{}",
            self.text()
        );
    }

    /// Drops all waiters, and checks that the group is empty.
    async fn expect_nothing_kept(&mut self) {
        self.step("drop all");
        self.waiters.clear();
        self.open.clear();
        self.settle(|_| true).await;
        let kept = self.kept();
        let functions = Arc::strong_count(&self.functions) - 1;
        assert!(
            kept == 0,
            "{} keys, values or errors and {functions} functions or futures \
             are kept without a waiter{}",
            kept - functions,
            self.text()
        );
    }
}

/// Starts flights, which end in the same way, or are cancelled without an `end`.
async fn fly(world: &mut World, size: usize, forgets: bool, end: Option<End>) {
    for round in 0..3 {
        let ids = world.call_many(size);
        let leader = world.latest[&0];
        if round > 0 {
            world.settle(|_| true).await;
        }
        if forgets {
            world.forget(0);
            world.call(0);
            world.settle(|_| true).await;
        }
        if let Some(end) = end {
            world.send(leader, end);
            // The last waiter leaves later, or gets its result late.
            world.settle(|id| id != ids[size - 1]).await;
        }
        if round == 2 {
            world.settle(|_| true).await;
        }
        // No task runs between the last drop and the next call.
        ids.iter().for_each(|id| world.leave(*id));
    }
    world.call_with(1, Box::new(|| panic!("on purpose")));
    world.settle(|_| true).await;
    // Nothing is kept of earlier flights while another one runs, either.
    world.waiters.iter_mut().for_each(|waiter| {
        (waiter.future, waiter.seen, waiter.expected) = (None, None, None);
    });
    let alive = [&mut world.alive, &mut world.functions].map(mem::take);
    world.step("drop all");
    world.call(0);
    world.settle(|_| true).await;
    let kept: usize = alive.iter().map(|it| Arc::strong_count(it) - 1).sum();
    assert!(
        kept == 0,
        "{kept} keys, values, errors or functions of earlier flights are kept \
         while a new one runs{}",
        world.text()
    );
    world.expect_nothing_kept().await;
}

/// Returns the name of a key in the steps.
fn letter(key: usize) -> String {
    let letter = u8::try_from(key).ok().filter(|key| *key < 26);
    letter.map_or(key.to_string(), |key| char::from(b'a' + key).to_string())
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
fn shut_down(forgets: bool) -> (World, Runtime) {
    let (old, new) = (runtime(), runtime());
    let mut world = World::default();
    world.step("99: run a, in a task");
    old.spawn(world.future(0, world.query(99)));
    old.block_on(yield_now());
    let [follower, slow] = thread::scope(|scope| {
        let call = || old.block_on(async { [(); 2].map(|()| world.call(0)) });
        scope.spawn(call).join().unwrap()
    });
    let begun = world.begun();
    assert_eq!(
        begun, 1,
        "functions that run (left), expected (right), after calls of one key \
         on two threads"
    );
    if forgets {
        world.forget(0);
    }
    let handle = old.handle().clone();
    world.step("the runtime of 99 shuts down");
    let text = "a runtime that shuts down has dropped the task of a flight";
    doing(text, || drop(old));
    // From now on, the old runtime drops a new task at once.
    let guard = handle.enter();
    let late = doing(
        "a runtime that had shut down dropped the task inside of `spawn`",
        || world.call(1),
    );
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
    let next = new.block_on(async { [0, 1].map(|key| world.call(key)) });
    new.block_on(world.check());
    next.iter().for_each(|id| world.end(*id, ENDS[0]));
    new.block_on(world.check());
    (world, new)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

/// Runs a test on a thread, so that a deadlock does not hang it.
fn within_deadline(test: impl FnOnce() + Send + 'static) {
    let doing = Doing::default();
    let of_thread = Arc::clone(&doing);
    let thread = thread::spawn(|| {
        DOING.set(of_thread);
        test();
    });
    let start = Instant::now();
    while !thread.is_finished() {
        if start.elapsed() > Duration::from_secs(5) {
            let doing = doing.lock().unwrap().pop().unwrap_or_default();
            panic!("no end after 5 s: {doing}. Is a lock held there?");
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    thread.join().unwrap_or_else(|panic| resume_unwind(panic));
}
