//! Models of `bulkhead`: whatever two threads see, they could also see if they
//! took turns.

use std::collections::BTreeSet;
use std::mem;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use Call::{Available, Leave, Poll1, Poll2, Release, Try, Waiting};

use crate::bulkhead::{Acquire, Bulkhead, Config, Permit, Rejected};
use crate::common::explore;

const ONE: NonZero<u32> = NonZero::<u32>::MIN;
const TWO: NonZero<u32> = ONE.saturating_add(1);

/// `Poll1` and `Poll2` poll the caller's future. If it has none, they call
/// `acquire` first, for one or two permits. `Leave` drops the future, and
/// `Release` the `Permit` that the caller got last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Try,
    Poll1,
    Poll2,
    Leave,
    Release,
    Available,
    Waiting,
}

/// The calls of a caller before the race, and in the race.
type Script = (&'static [Call], &'static [Call]);

const SCRIPTS: [Script; 8] = [
    (&[Try], &[Release, Waiting]),
    (&[Try], &[Poll2, Release]),
    (&[], &[Try, Release]),
    (&[], &[Poll1, Leave]),
    (&[Poll1], &[Poll1]),
    (&[Poll1], &[Leave, Available]),
    (&[Poll2], &[Poll2, Leave]),
    (&[], &[Available, Waiting]),
];

/// Calls of a third caller before the race: it takes no permit or one of the two,
/// and may join the queue.
const THIRDS: [Script; 4] =
    [(&[], &[]), (&[Try], &[]), (&[Try], &[Poll1]), (&[Try], &[Poll2])];

#[test]
fn a_try_acquire_during_another_call_gets_free_permits_and_no_more() {
    race_with_each(Try);
}

#[test]
fn a_poll_during_another_call_is_served_or_waits_once() {
    race_with_each(Poll1);
}

#[test]
fn a_waiter_dropped_during_another_call_loses_no_permit() {
    race_with_each(Leave);
}

#[test]
fn a_permit_dropped_during_another_call_serves_the_first_waiter() {
    race_with_each(Release);
}

/// Lets the scripts with `call` race with each script.
fn race_with_each(call: Call) {
    for one in SCRIPTS.into_iter().filter(|s| s.1.contains(&call)) {
        for other in SCRIPTS {
            THIRDS.into_iter().for_each(|third| race([one, other, third]));
        }
    }
}

/// Lets the first two callers race, and compares with each order of the calls.
fn race(scripts: [Script; 3]) {
    let [(_, one), (_, other), (_, third)] = scripts;
    let start = move || {
        let config = Config { permits: TWO, max_waiting: 2 };
        let bulkhead = Arc::new(Bulkhead::new(config));
        let mut callers = [(); 3].map(|()| Caller::new(&bulkhead));
        for i in [2, 0, 1] {
            callers[i].run(scripts[i].0);
        }
        callers[2].run(third);
        callers
    };
    let in_turn = Arc::new(Mutex::new(BTreeSet::new()));
    let outcomes = Arc::clone(&in_turn);
    loom::model(move || {
        let n = one.len() + other.len();
        // A bit for each turn: whose is it?
        for turns in 0..1_usize << n {
            let mut callers = start();
            let mut calls = [one.chunks(1), other.chunks(1)];
            for i in (0..n).map(|turn| turns >> turn & 1) {
                callers[i].run(calls[i].next().unwrap_or(&[]));
            }
            if calls.into_iter().all(|mut left| left.next().is_none()) {
                outcomes.lock().unwrap().insert(finish(callers));
            }
        }
    });
    explore(Some(3), move || {
        let [mut first, mut second, third] = start();
        let thread = loom::thread::spawn(move || {
            second.run(other);
            second
        });
        first.run(one);
        let seen = finish([first, thread.join().unwrap(), third]);
        let expected = in_turn.lock().unwrap();
        assert!(
            expected.contains(&seen),
            "results of all calls of three callers, and in the end the wakes \
             for each poll: seen {seen:#?}, expected one of {expected:#?}"
        );
    });
}

/// Returns what the callers have seen, after a last poll of each waiter.
fn finish(mut callers: [Caller; 3]) -> [String; 3] {
    let bulkhead = Arc::clone(&callers[0].bulkhead);
    callers[0].run(&[Available, Waiting]);
    let waiting = bulkhead.waiting();
    assert!(waiting <= 2, "{waiting} callers in the queue; expected at most 2");
    let seen = callers.each_mut().map(|caller| {
        let wakes = caller.wakes.iter().map(|w| w.0.load(Ordering::SeqCst));
        caller.seen += &format!("wakes {:?} ", wakes.collect::<Vec<_>>());
        if caller.waiter.is_some() {
            caller.run(&[Poll1]);
        }
        mem::take(&mut caller.seen)
    });
    drop(callers);
    let idle = (bulkhead.available(), bulkhead.waiting());
    assert_eq!(idle, (2, 0), "available, waiting, in the end: seen, expected");
    seen
}

#[derive(Default)]
struct Wakes(AtomicU32);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Caller {
    bulkhead: Arc<Bulkhead>,
    permits: Vec<Permit>,
    waiter: Option<Acquire>,
    /// One for each poll.
    wakes: Vec<Arc<Wakes>>,
    seen: String,
}

impl Caller {
    fn new(bulkhead: &Arc<Bulkhead>) -> Self {
        let (permits, waiter, wakes, seen) = <_>::default();
        Self { bulkhead: Arc::clone(bulkhead), permits, waiter, wakes, seen }
    }

    fn run(&mut self, calls: &[Call]) {
        for call in calls {
            let result = match call {
                Try => self.keep(Poll::Ready(self.bulkhead.try_acquire(ONE))),
                Poll1 => self.poll(ONE),
                Poll2 => self.poll(TWO),
                Leave => format!("{:?}", drop(self.waiter.take())),
                Release => format!("{:?}", drop(self.permits.pop())),
                Available => self.bulkhead.available().to_string(),
                Waiting => self.bulkhead.waiting().to_string(),
            };
            self.seen += &format!("{call:?}: {result}, ");
        }
    }

    fn poll(&mut self, count: NonZero<u32>) -> String {
        let acquire = || self.bulkhead.acquire(count);
        let mut waiter = self.waiter.take().unwrap_or_else(acquire);
        let wakes = Arc::<Wakes>::default();
        let waker = Waker::from(Arc::clone(&wakes));
        self.wakes.push(wakes);
        let polled =
            Pin::new(&mut waiter).poll(&mut Context::from_waker(&waker));
        self.waiter = polled.is_pending().then_some(waiter);
        self.keep(polled)
    }

    fn keep(&mut self, polled: Poll<Result<Permit, Rejected>>) -> String {
        format!("{:?}", polled.map_ok(|permit| self.permits.push(permit)))
    }
}
