//! Models of `bulkhead`: checked for every interleaving of two threads.

use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use loom::thread;

use crate::bulkhead::{Acquire, Bulkhead, Config, Permit, Rejected};
use crate::common::explore;

const ONE: NonZero<u32> = NonZero::<u32>::MIN;

/// Returns a bulkhead with one permit and one place in its queue.
fn bulkhead() -> Arc<Bulkhead> {
    Arc::new(Bulkhead::new(Config { permits: ONE, max_waiting: 1 }))
}

#[derive(Default)]
struct Wakes(AtomicU32);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(waiter: &mut Acquire, waker: &Waker) -> Poll<Result<Permit, Rejected>> {
    Pin::new(waiter).poll(&mut Context::from_waker(waker))
}

fn assert_idle(bulkhead: &Arc<Bulkhead>) {
    let seen = (bulkhead.available(), bulkhead.waiting());
    assert_eq!(
        seen,
        (1, 0),
        "permits available and callers waiting in the end: seen (left), \
         expected (right)"
    );
}

#[test]
fn two_threads_never_have_the_only_permit_at_the_same_time() {
    explore(None, || {
        let (bulkhead, held) = (bulkhead(), Arc::new(AtomicU32::new(0)));
        let hold = |permit: Option<Permit>, held: &AtomicU32| {
            let Some(_permit) = permit else { return };
            let before = held.fetch_add(1, Ordering::SeqCst);
            assert_eq!(before, 0, "the permit has two holders; expected one");
            thread::yield_now();
            held.fetch_sub(1, Ordering::SeqCst);
        };
        let other = thread::spawn({
            let (bulkhead, held) = (Arc::clone(&bulkhead), Arc::clone(&held));
            move || hold(bulkhead.try_acquire(ONE).ok(), &held)
        });
        let mut waiter = bulkhead.acquire(ONE);
        if let Poll::Ready(result) = poll(&mut waiter, Waker::noop()) {
            hold(result.ok(), &held);
        }
        drop(waiter);
        other.join().unwrap();
        hold(bulkhead.try_acquire(ONE).ok(), &held);
        assert_idle(&bulkhead);
    });
}

#[test]
fn two_threads_that_arrive_get_the_only_place_in_the_queue_once() {
    explore(None, || {
        let bulkhead = bulkhead();
        let holder = bulkhead.try_acquire(ONE);
        let arrive = |bulkhead: &Arc<Bulkhead>| {
            let mut waiter = bulkhead.acquire(ONE);
            let waits = poll(&mut waiter, Waker::noop()).is_pending();
            (waiter, u32::from(waits))
        };
        let other = thread::spawn({
            let bulkhead = Arc::clone(&bulkhead);
            move || arrive(&bulkhead)
        });
        let (_first, one) = arrive(&bulkhead);
        let (_second, two) = other.join().unwrap();
        assert_eq!(one + two, 1, "callers in a queue of 1: seen, expected");
        drop((_first, _second, holder));
        assert_idle(&bulkhead);
    });
}

#[test]
fn a_waiter_dropped_during_a_release_loses_no_permit() {
    explore(None, || {
        let bulkhead = bulkhead();
        let holder = bulkhead.try_acquire(ONE);
        let mut waiter = bulkhead.acquire(ONE);
        assert!(poll(&mut waiter, Waker::noop()).is_pending());
        let other = thread::spawn(move || drop(waiter));
        drop(holder);
        other.join().unwrap();
        assert_idle(&bulkhead);
    });
}

#[test]
fn a_waiter_polled_during_a_release_is_served_or_woken() {
    // The poll during the release is the first one, or a later one.
    for polls_before in [0, 1] {
        explore(None, move || {
            let bulkhead = bulkhead();
            let holder = bulkhead.try_acquire(ONE);
            let mut waiter = bulkhead.acquire(ONE);
            for _ in 0..polls_before {
                assert!(poll(&mut waiter, Waker::noop()).is_pending());
            }
            let wakes = Arc::new(Wakes::default());
            let waker = Waker::from(Arc::clone(&wakes));
            let other = thread::spawn({
                let bulkhead = Arc::clone(&bulkhead);
                move || {
                    let polled = poll(&mut waiter, &waker);
                    assert!(bulkhead.waiting() <= 1, "one caller waits twice");
                    (waiter, polled, waker)
                }
            });
            drop(holder);
            let (mut waiter, polled, waker) = other.join().unwrap();
            if polled.is_pending() {
                let seen = wakes.0.load(Ordering::SeqCst);
                assert_eq!(
                    seen, 1,
                    "wakes of the latest waker: seen, expected"
                );
                let served =
                    matches!(poll(&mut waiter, &waker), Poll::Ready(Ok(_)));
                assert!(served, "no permit after the wake; expected one");
            }
            drop((waiter, polled));
            assert_idle(&bulkhead);
        });
    }
}
