//! Models of `singleflight`. shuttle runs each one with its tasks' steps in many
//! orders, and it must hold in all of them.

use std::future::{pending, poll_fn};
use std::hash::{Hash, Hasher};
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use shuttle_tokio_impl::task::yield_now;

use crate::common::shuffle;
use crate::model_checked::shuttle_tasks::{JoinHandle, oneshot, spawn};
use crate::singleflight::Failed;

type Group = crate::singleflight::Group<Slow, usize, usize>;
type Log = Arc<Mutex<Vec<usize>>>;
type Locked = crate::singleflight::Group<Key, (), ()>;
type Seen = Result<usize, Failed<usize>>;

/// A key. Other tasks run while it is hashed, even under a lock, or dropped.
#[derive(Clone, PartialEq, Eq)]
struct Slow;

impl Hash for Slow {
    fn hash<H: Hasher>(&self, _: &mut H) {
        shuttle::thread::yield_now();
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        shuttle::thread::yield_now();
    }
}

/// Counts the flights, and those that are running.
#[derive(Clone, Default)]
struct Count {
    started: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Count {
    /// Calls `run` with a function that returns the number of its flight, in a
    /// panic, an error or a value.
    async fn run(self, group: Group) -> Seen {
        let read = async move {
            let number = self.started.fetch_add(1, SeqCst) + 1;
            let running = self.running.fetch_add(1, SeqCst) + 1;
            self.most.fetch_max(running, SeqCst);
            yield_now().await;
            self.running.fetch_sub(1, SeqCst);
            match number % 3 {
                1 => resume_unwind(Box::new(number.to_string())),
                2 => Err(number),
                _ => Ok(number),
            }
        };
        group.run(Slow, || read).await
    }
}

/// Returns the number of the flight that a call has joined.
fn number(seen: &Seen) -> usize {
    let (end, number) = match seen {
        Err(Failed::Panicked(text)) => (1, text.parse().unwrap_or(0)),
        Err(Failed::Error(number)) => (2, *number),
        Ok(number) => (0, *number),
        Err(Failed::Cancelled) => panic!(
            "a call got `Failed::Cancelled`, although it has not left its \
             flight, and the runtime has not shut down"
        ),
    };
    assert!(
        number % 3 == end,
        "a call got {seen:?}, which is not the result of any function"
    );
    number
}

async fn join(call: JoinHandle<Seen>) -> usize {
    number(&call.await.expect("the call was not aborted"))
}

/// A key that records the number of its caller when it is hashed.
#[derive(Clone)]
struct Key(usize, Log);

impl Hash for Key {
    fn hash<H: Hasher>(&self, _: &mut H) {
        self.1.lock().expect("no panic while locked").push(self.0);
    }
}

impl PartialEq for Key {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Key {}

/// Polls `call` once, and returns whether it is pending.
async fn poll_once(mut call: Pin<&mut impl Future>) -> bool {
    poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_pending()))
        .await
}

#[test]
fn the_lock_of_the_group_is_one_that_shuttle_sees() {
    let is_seen = Arc::new(AtomicBool::new(false));
    let result = Arc::clone(&is_seen);
    shuffle(move || {
        let (group, log) = (Locked::default(), Log::default());
        let calls = [1, 2].map(|caller| {
            let (group, log) = (group.clone(), Arc::clone(&log));
            let result = Arc::clone(&result);
            spawn(async move {
                let call = group.run(Key(caller, Arc::clone(&log)), pending);
                let begin = log.lock().expect("no panic while locked").len();
                poll_once(pin!(call)).await;
                // Has the other caller used the map between the begin of this
                // call and its last use of the map?
                let log = log.lock().expect("no panic while locked");
                let last = log.iter().rposition(|c| *c == caller);
                let between = &log[begin..last.unwrap_or(begin)];
                result.fetch_or(between.iter().any(|c| *c != caller), SeqCst);
            })
        });
        async move {
            for call in calls {
                call.await.expect("the call was not aborted");
            }
        }
    });
    assert!(
        is_seen.load(SeqCst),
        "in no schedule, a call waits for the lock of another: take the locks \
         from `crate::model_checked::shuttle_tasks`"
    );
}

#[test]
fn concurrent_calls_never_run_two_functions_at_a_time() {
    shuffle(async || {
        let (group, count) = (Group::default(), Count::default());
        let calls = [(); 3].map(|()| spawn(count.clone().run(group.clone())));
        for call in calls {
            join(call).await;
        }
        let most = count.most.load(SeqCst);
        assert!(
            most == 1,
            "{most} functions of one key ran at the same time, expected: 1"
        );
    });
}

#[test]
fn a_call_after_a_result_never_gets_the_same_flight() {
    shuffle(async || {
        let (group, count) = (Group::default(), Count::default());
        let latest = Arc::new(AtomicUsize::new(0));
        let callers = [(); 2].map(|()| {
            let (group, count) = (group.clone(), count.clone());
            let latest = Arc::clone(&latest);
            spawn(async move {
                for _ in 0..2 {
                    let seen = latest.load(SeqCst);
                    let number =
                        number(&count.clone().run(group.clone()).await);
                    latest.fetch_max(number, SeqCst);
                    if number <= seen {
                        return Err((number, seen));
                    }
                }
                Ok(())
            })
        });
        for caller in callers {
            let seen = caller.await.expect("the caller was not aborted");
            if let Err((number, earlier)) = seen {
                panic!(
                    "a call got the result of flight {number}, although a call \
                     that had ended before had got that of flight {earlier}"
                );
            }
        }
    });
}

#[test]
fn flights_are_cancelled_and_calls_get_results_while_waiters_leave() {
    shuffle(async || {
        let (group, count) = (Group::default(), Count::default());
        let held = Arc::new(());
        let leavers = [(); 2].map(|()| {
            let (group, held) = (group.clone(), Arc::clone(&held));
            let read = async move {
                let _held = held;
                pending().await
            };
            spawn(async move {
                poll_once(pin!(group.run(Slow, || read))).await;
            })
        });
        for leaver in leavers {
            leaver.await.expect("the waiter was not aborted");
        }
        for _ in 0..50 {
            yield_now().await;
        }
        let running = Arc::strong_count(&held) - 1;
        assert!(
            running == 0,
            "all waiters have left, and {running} of the 2 functions have not \
             been dropped"
        );
        let leader = spawn(count.clone().run(group.clone()));
        let calls = [(); 2].map(|()| spawn(count.clone().run(group.clone())));
        yield_now().await;
        leader.abort();
        for call in calls {
            join(call).await;
        }
        drop(leader.await);
        join(spawn(count.run(group))).await;
    });
}

#[test]
fn a_flight_that_was_forgotten_and_ends_does_not_remove_the_new_one() {
    shuffle(async || {
        let (group, count) = (Group::default(), Count::default());
        let old = spawn(count.clone().run(group.clone()));
        while count.started.load(SeqCst) == 0 {
            yield_now().await;
        }
        group.forget(&Slow);
        let (end, ended) = oneshot::channel();
        let read = async { ended.await.map_err(|_| 0) };
        let mut new = pin!(group.run(Slow, || read));
        let mut follower = pin!(count.clone().run(group.clone()));
        let is_pending = poll_once(new.as_mut()).await;
        assert!(
            is_pending,
            "the call after `forget` has a result before the end of its \
             function: it has joined the old flight"
        );
        yield_now().await;
        let is_pending = poll_once(follower.as_mut()).await;
        assert!(
            is_pending,
            "a second call after `forget` has a result before the end of the \
             new flight: it has not joined it"
        );
        end.send(9).expect("the new flight is running");
        let text = "the result (left), expected (right), of";
        assert_eq!(new.await, Ok(9), "{text} the first call after `forget`");
        assert_eq!(follower.await, Ok(9), "{text} the second call after it");
        assert_eq!(join(old).await, 1, "{text} the call before `forget`");
    });
}
