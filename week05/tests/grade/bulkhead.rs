use std::collections::VecDeque;
use std::mem::take;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use proptest::{array::uniform4, collection::vec};
use week05::bulkhead::{Acquire, Bulkhead, Bulkheads, Config};
use week05::bulkhead::{Permit, Rejected, UnknownClass};

const SIZES: [u32; 5] = [1, 2, 17, 130, 1_500];

mod permits {
    use super::*;

    #[test]
    fn permits_are_available_again_after_a_drop_or_a_panic() {
        for limit in SIZES.into_iter().chain([u32::MAX]) {
            for count in [1, limit / 3 + 1, limit / 2 + 1, limit] {
                let mut pair = Pair::new(limit, 9);
                for id in pair.take_all(count) {
                    pair.drop(id);
                    pair.try_acquire(limit);
                    pair.try_acquire(limit.saturating_add(1));
                }
                pair.drop_all();
                pair.take_all(count);
            }
        }
    }

    #[test]
    fn classes_share_no_permits_and_an_unknown_class_has_none() {
        let mut pairs = Pair::classes([(2, 0), (3, 7), (2, 0), (2, 7)]);
        for (full, other) in (0..16).map(|i| (i / 4, i % 4)) {
            pairs[full].take_all(1);
            pairs[other].take_all(1);
            pairs.iter_mut().for_each(|p| p.check("get", [None; 2], vec![]));
            pairs.iter_mut().for_each(Pair::drop_all);
        }
        for unknown in 0..4 {
            let configs = (0..unknown).map(|class| (class, config(1, 0)));
            let bulkheads = Bulkheads::new(configs.collect());
            let seen = bulkheads.get(&unknown).map(|b| b.available());
            let expected = Err(UnknownClass);
            assert_eq!(seen, expected, "an unknown class: seen, expected");
        }
    }
}

mod queue {
    use super::*;

    #[test]
    fn waiters_get_permits_in_the_order_of_their_first_polls() {
        // One drop serves all waiters, or each drop serves one.
        for (n, limit) in SIZES.into_iter().flat_map(|n| [(n, n), (n, 1)]) {
            let mut pair = Pair::new(limit, usize::MAX);
            let holder = pair.arrive(limit);
            let mut ids: Vec<_> = (0..n).map(|_| pair.acquire(1)).collect();
            ids.rotate_left(n as usize / 2);
            ids.iter().for_each(|id| pair.poll(*id, *id));
            ids.reverse();
            pair.poll_all(&ids, 0);
            ids.iter().for_each(|id| pair.poll(*id, *id));
            pair.drop(holder);
            pair.poll_all(&ids, 0);
            pair.drop_all();
        }
    }

    #[test]
    fn a_large_request_is_not_overtaken_by_small_ones() {
        for limit in SIZES {
            let mut pair = Pair::new(limit, usize::MAX);
            let holders = pair.take_all(1);
            let large = pair.arrive(limit);
            for holder in holders {
                pair.arrive(1);
                pair.drop(holder);
                pair.try_acquire(1);
            }
            pair.poll(large, 0);
            pair.drop_all();
        }
    }

    #[test]
    fn a_full_queue_or_a_request_above_the_limit_is_refused_at_once() {
        for max in [0, 1, 2, 17, 130, 1_500] {
            let mut pair = Pair::new(3, max);
            let early = pair.acquire(1);
            pair.arrive_all(&[4, 1, 4, 2, u32::MAX]);
            pair.arrive_all(&vec![3; max]);
            pair.arrive_all(&[4, 3, 1]);
            pair.poll(early, 1);
            // Waiters leave the queue: one is dropped, others are served.
            pair.drop(7);
            pair.arrive_all(&[4, 3, 1]);
            pair.poll_all(&[0, 1, 2, 3, 4], 1);
            (0..5).for_each(|id| pair.drop(id));
            pair.arrive_all(&[4, 3, 1]);
            pair.drop_all();
        }
    }

    #[test]
    fn any_sequence_of_calls_matches_the_model() {
        any_sequence(400, false);
    }
}

mod cancellation {
    use super::*;

    #[test]
    fn a_dropped_waiter_lets_others_have_its_place_or_its_permits() {
        for (n, i) in SIZES.into_iter().flat_map(|n| [(n, 0), (n, 1), (n, n)]) {
            let mut pair = Pair::new(n + 1, usize::MAX);
            let holder = pair.arrive(n / 2 + 1);
            // All others fit when the first one has gone.
            let ids =
                pair.arrive_all(&[vec![n + 1], vec![1; n as usize]].concat());
            pair.drop(ids[i as usize]);
            pair.arrive(n);
            pair.drop(holder);
            // Then those that were served, but not polled.
            pair.drop_all();
            pair.try_acquire(n + 1);
        }
    }
}

mod wakers {
    use super::*;

    #[test]
    fn only_the_waker_of_the_latest_poll_is_woken() {
        for tasks in [&[0, 0][..], &[0, 0, 1], &[0, 1, 0], &[2, 1, 0, 3]] {
            let mut pair = Pair::new(2, 9);
            let holders = pair.take_all(1);
            let ids = [2, 1, 1, 2].map(|count| pair.acquire(count));
            for task in tasks {
                ids.iter().for_each(|id| pair.poll(*id, 10 * id + task));
            }
            pair.drop(holders[0]);
            pair.drop(ids[0]);
            pair.drop_all();
        }
    }

    #[test]
    fn a_waker_may_call_the_bulkhead_while_it_is_woken_or_dropped() {
        let (sender, ended) = channel::<()>();
        let thread = thread::spawn(|| {
            let _sender = sender;
            any_sequence(100, true);
            [1, 2, 17, 130].into_iter().for_each(wakers_poll_and_drop);
        });
        let ended = ended.recv_timeout(Duration::from_secs(5));
        let hangs = ended == Err(RecvTimeoutError::Timeout);
        assert!(!hangs, "the calls hang; expected them to return");
        thread.join().unwrap_or_else(|panic| resume_unwind(panic));
    }

    #[test]
    fn threads_that_come_and_go_get_permits_and_leave_every_one_available() {
        // One permit more than four threads can have.
        let bulkhead = Arc::new(Bulkhead::new(config(17, 9)));
        let begin = Barrier::new(4);
        let come_and_go = || {
            begin.wait();
            for count in (1..=4).cycle().take(100_000).map(nonzero) {
                let permit = bulkhead.try_acquire(count);
                let [got, left] = [permit.is_ok(), bulkhead.available() > 0];
                assert!(
                    got && left,
                    "{permit:?} and 0 available; expected more"
                );
            }
        };
        thread::scope(|scope| {
            (0..4).for_each(|_| _ = scope.spawn(come_and_go));
        });
        assert_eq!(numbers(&bulkhead), (17, 0), "available, waiting");
    }
}

/// Calls bulkheads of three classes at random, and compares with the model.
fn any_sequence(cases: usize, wakers_call: bool) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(<_>::default(), rng);
    let calls = vec(uniform4(0.0..1.0_f64), 0..300);
    for i in 0..cases {
        let [a, b, c] = [[1, 2, 5], [3, 10, u32::MAX]][i % 2];
        let [d, e, f] = [[0, 1, 3], [2, 9, usize::MAX / 2 + 1]][i / 2 % 2];
        let mut pairs = Pair::classes([(a, d), (b, e), (c, f)]);
        let calls = calls.new_tree(&mut runner).unwrap().current();
        for [class, kind, x, y] in calls {
            let pair = &mut pairs[(class * 3.0) as usize];
            pair.wakers_call = wakers_call;
            let limit = f64::from(pair.config.permits.get());
            let count = ((limit * 1.05 * x * x) as u32).saturating_add(1);
            let index = ((1.0 - y * y) * pair.calls.len() as f64) as usize;
            match kind {
                ..0.1 => _ = pair.try_acquire(count),
                ..0.2 => _ = pair.acquire(count),
                ..0.4 => _ = pair.arrive(count),
                ..0.7 => pair.poll(index, (x * 6.0) as usize),
                _ => pair.drop(index),
            }
            pairs.iter_mut().for_each(|p| p.check("get", [None; 2], vec![]));
        }
        pairs.iter_mut().for_each(Pair::drop_all);
    }
}

/// Of `2 * n` waiters, a drop serves the first half.
fn wakers_poll_and_drop(n: u32) {
    let bulkhead = Arc::new(Bulkhead::new(config(n, usize::MAX)));
    let holder = bulkhead.try_acquire(nonzero(n));
    let (waiters, seen) = <_>::default();
    let helper = Arc::new(Helper { bulkhead, waiters, seen });
    let waker = Waker::from(helper.clone());
    for _ in 0..2 * n {
        let mut waiter = helper.bulkhead.acquire(nonzero(1));
        _ = Pin::new(&mut waiter).poll(&mut Context::from_waker(&waker));
        helper.waiters.lock().unwrap().push(Some(waiter));
    }
    drop(holder);
    let n = n as usize;
    let expected = (0..=n).rev().map(|waiting| (waiting, true));
    assert_eq!(
        *helper.seen.lock().unwrap(),
        expected.chain(vec![(0, false); n - 1]).collect::<Vec<_>>(),
        "for each wake, the callers in the queue, and whether the last one \
         that left it got its permit from a poll: seen (left), expected (right)"
    );
}

/// Its waker polls the last waiter that has permits, and drops them.
struct Helper {
    bulkhead: Arc<Bulkhead>,
    waiters: Mutex<Vec<Option<Acquire>>>,
    seen: Mutex<Vec<(usize, bool)>>,
}

impl Wake for Helper {
    fn wake(self: Arc<Self>) {
        let waiting = self.bulkhead.waiting();
        let mut waiters = self.waiters.lock().unwrap();
        let served = waiters.len() - waiting;
        let mut last = waiters[..served].last_mut().and_then(Option::take);
        drop(waiters);
        let mut context = Context::from_waker(Waker::noop());
        let polled = last.as_mut().map(|w| Pin::new(w).poll(&mut context));
        let is_ready = polled.as_ref().is_some_and(Poll::is_ready);
        self.seen.lock().unwrap().push((waiting, is_ready));
    }
}

fn nonzero(n: u32) -> NonZero<u32> {
    NonZero::new(n).unwrap()
}

fn config(permits: u32, max_waiting: usize) -> Config {
    Config { permits: nonzero(permits), max_waiting }
}

fn numbers(bulkhead: &Arc<Bulkhead>) -> (u32, usize) {
    (bulkhead.available(), bulkhead.waiting())
}

/// A bulkhead, and the state that is expected of it.
struct Pair {
    bulkhead: Arc<Bulkhead>,
    config: Config,
    available: u32,
    queue: VecDeque<usize>,
    calls: Vec<Call>,
    wakers_call: bool,
    log: Log,
}

/// The tasks that were woken, and the numbers that their wakers have read.
type Log = Arc<Mutex<Vec<(usize, Option<(u32, usize)>)>>>;
type Called = Pin<Box<dyn Future<Output = Result<Permit, Rejected>> + Send>>;
type Outcome = Option<Result<(), Rejected>>;

#[derive(Default)]
struct Call {
    count: u32,
    may_wait: bool,
    future: Option<Called>,
    permit: Option<Permit>,
    /// The task of the latest poll.
    task: Option<usize>,
}

struct Task(usize, Log, Option<Arc<Bulkhead>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let read = self.2.as_ref().map(numbers);
        self.1.lock().unwrap().push((self.0, read));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bulkhead) = &self.2 {
            _ = bulkhead.try_acquire(nonzero(1));
            let mut waiter = bulkhead.acquire(nonzero(1));
            let mut context = Context::from_waker(Waker::noop());
            _ = Pin::new(&mut waiter).poll(&mut context);
        }
    }
}

impl Pair {
    fn new(permits: u32, max_waiting: usize) -> Self {
        Self::classes([(permits, max_waiting)]).remove(0)
    }

    fn classes<const N: usize>(configs: [(u32, usize); N]) -> Vec<Self> {
        let configs = configs.map(|(p, w)| config(p, w));
        let by_class = configs.into_iter().enumerate().collect();
        let bulkheads = Bulkheads::new(by_class);
        let pair = |(class, config): (usize, Config)| Self {
            bulkhead: bulkheads.get(&class).expect("a known class").clone(),
            config,
            available: config.permits.get(),
            queue: VecDeque::new(),
            calls: Vec::new(),
            wakers_call: false,
            log: Log::default(),
        };
        configs.into_iter().enumerate().map(pair).collect()
    }

    fn check(&self, call: &str, results: [Outcome; 2], woken: Vec<usize>) {
        let [seen, expected] = results;
        let after = (self.available, self.queue.len());
        let read = self.wakers_call.then_some(after);
        let mut woken: Vec<_> =
            woken.into_iter().map(|id| (id, read)).collect();
        let mut log = take(&mut *self.log.lock().unwrap());
        woken.sort_unstable();
        log.sort_unstable();
        assert_eq!(
            (seen, numbers(&self.bulkhead), log),
            (expected, after, woken),
            "{call}: seen (left), expected (right): result or `None`; permits \
             available, callers waiting; tasks woken, numbers that their \
             wakers read; with {:?}",
            self.config
        );
    }

    fn add(&mut self, count: u32, may_wait: bool, future: Called) -> usize {
        let future = Some(future);
        self.calls.push(Call { count, may_wait, future, ..Call::default() });
        self.check("acquire", [None; 2], vec![]);
        self.calls.len() - 1
    }

    fn acquire(&mut self, count: u32) -> usize {
        let future = self.bulkhead.acquire(nonzero(count));
        self.add(count, true, Box::pin(future))
    }

    fn try_acquire(&mut self, count: u32) -> usize {
        let bulkhead = self.bulkhead.clone();
        let result = async move { bulkhead.try_acquire(nonzero(count)) };
        let id = self.add(count, false, Box::pin(result));
        self.poll(id, id);
        id
    }

    fn take_all(&mut self, n: u32) -> Vec<usize> {
        let fits = (self.config.permits.get() / n).min(1_500);
        let ids = (0..fits).map(|_| self.try_acquire(n)).collect();
        self.try_acquire(n);
        ids
    }

    /// Calls `acquire`, and polls once.
    fn arrive(&mut self, n: u32) -> usize {
        let id = self.acquire(n);
        self.poll(id, id);
        id
    }

    fn poll(&mut self, id: usize, task: usize) {
        let Some(call) = self.calls.get_mut(id) else { return };
        let Some(mut future) = call.future.take() else { return };
        let expected = match call.task.replace(task) {
            None => self.enter(id),
            Some(_) => (!self.queue.contains(&id)).then_some(Ok(())),
        };
        let calls = self.wakers_call.then(|| self.bulkhead.clone());
        let waker = Arc::new(Task(task, self.log.clone(), calls)).into();
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        // The bulkhead has the only clone, which it may drop.
        drop(waker);
        let call = &mut self.calls[id];
        call.future = polled.is_pending().then_some(future);
        let seen = match polled {
            Poll::Ready(result) => Some(result.map(|p| call.permit = Some(p))),
            Poll::Pending => None,
        };
        self.check("poll", [seen, expected], vec![]);
    }

    /// Returns the result that the rules demand, and changes the state.
    fn enter(&mut self, id: usize) -> Outcome {
        let Config { permits: limit, max_waiting } = self.config;
        let &Call { count, may_wait, .. } = &self.calls[id];
        let waiting = self.queue.len();
        if count > limit.get() {
            return Some(Err(Rejected::TooLarge { limit }));
        } else if waiting == 0 && count <= self.available {
            self.available -= count;
            return Some(Ok(()));
        } else if !may_wait || waiting >= max_waiting {
            return Some(Err(Rejected::Full));
        }
        self.queue.push_back(id);
        None
    }

    fn arrive_all(&mut self, counts: &[u32]) -> Vec<usize> {
        counts.iter().map(|count| self.arrive(*count)).collect()
    }

    fn poll_all(&mut self, ids: &[usize], task: usize) {
        ids.iter().for_each(|id| self.poll(*id, task));
    }

    /// Drops a future or permits, sometimes in a panic.
    fn drop(&mut self, id: usize) {
        let Some(call) = self.calls.get_mut(id).map(take) else { return };
        let is_served = call.future.is_some() && call.task.is_some();
        if let Some(place) = self.queue.iter().position(|w| *w == id) {
            self.queue.remove(place);
        } else if is_served || call.permit.is_some() {
            self.available += call.count;
        }
        let mut woken = Vec::new();
        while let Some(first) = self.queue.front()
            && let first = &self.calls[*first]
            && first.count <= self.available
        {
            self.available -= first.count;
            woken.extend(first.task);
            self.queue.pop_front();
        }
        _ = catch_unwind(AssertUnwindSafe(|| {
            let _call = call;
            if id.is_multiple_of(3) {
                resume_unwind(Box::new("on purpose"));
            }
        }));
        self.check("drop", [None; 2], woken);
    }

    fn drop_all(&mut self) {
        (0..self.calls.len()).for_each(|id| self.drop(id));
    }
}
