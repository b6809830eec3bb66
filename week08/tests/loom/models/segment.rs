//! Models of `segment`. loom runs those of threads, once for each interleaving
//! of the threads and each value that a load can return. shuttle runs those of
//! tasks, in many random orders of their steps.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc as StdArc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use loom::thread;
use shuttle_tokio_impl::task::yield_now;

use crate::common::{explore, in_shuttle, shuffle};
use crate::model_checked::loom_atomics::{Arc, AtomicUsize, Ordering::SeqCst};
use crate::model_checked::shuttle_tasks::spawn;
use crate::segment::{Config, DoubleBuffer, Segments, Store};

fn put(buffer: &DoubleBuffer, range: Range<u64>) {
    assert!(buffer.claim_refill(), "no refill is due before {range:?}");
    assert_eq!(buffer.put(range), Ok(()));
}

/// Takes ids until there are none, and returns them.
fn take(buffer: &DoubleBuffer) -> Vec<u64> {
    let ids: Vec<_> = std::iter::from_fn(|| buffer.try_next()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "ids of a thread: {ids:?}");
    ids
}

#[test]
fn threads_get_each_id_once_when_the_ranges_switch() {
    for second in [1..3, 10..12] {
        explore(Some(3), move || {
            let buffer = Arc::new(DoubleBuffer::new());
            put(&buffer, 0..1);
            let expected: Vec<_> =
                [0].into_iter().chain(second.clone()).collect();
            // The switch to the first range frees the place of the spare.
            let mut ids = vec![buffer.try_next().expect("an id")];
            put(&buffer, second.clone());
            let thread = thread::spawn({
                let buffer = Arc::clone(&buffer);
                move || take(&buffer)
            });
            ids.extend(take(&buffer));
            ids.extend(thread.join().expect("no panic"));
            ids.sort_unstable();
            assert_eq!(ids, expected, "ids that were returned");
        });
    }
    // A thread that comes second to the switch gets an id, too.
    explore(None, || {
        let buffer = Arc::new(DoubleBuffer::new());
        put(&buffer, 0..1);
        assert_eq!(buffer.try_next(), Some(0));
        put(&buffer, 10..12);
        let thread = thread::spawn({
            let buffer = Arc::clone(&buffer);
            move || buffer.try_next()
        });
        let mut ids = [buffer.try_next(), thread.join().expect("no panic")];
        ids.sort_unstable();
        assert_eq!(ids, [Some(10), Some(11)], "ids of two threads");
    });
}

#[test]
fn a_refill_has_one_owner_at_a_time_and_its_range_is_not_lost() {
    explore(Some(3), || {
        let buffer = Arc::new(DoubleBuffer::new());
        let owners = Arc::new(AtomicUsize::new(0));
        put(&buffer, 0..1);
        let refill = |buffer: &DoubleBuffer, owners: &AtomicUsize, start| {
            let mut ids = Vec::from_iter(buffer.try_next());
            if buffer.claim_refill() {
                let before = owners.fetch_add(1, SeqCst);
                assert_eq!(before, 0, "other owners of the refill");
                owners.fetch_sub(1, SeqCst);
                if buffer.put(start..start + 1).is_err() {
                    buffer.give_up();
                }
            }
            ids.extend(buffer.try_next());
            assert!(ids.is_sorted_by(|a, b| a < b), "ids of a thread: {ids:?}");
            ids
        };
        let thread = thread::spawn({
            let (buffer, owners) = (Arc::clone(&buffer), Arc::clone(&owners));
            move || refill(&buffer, &owners, 20)
        });
        let mut ids = refill(&buffer, &owners, 10);
        ids.extend(thread.join().expect("no panic"));
        ids.extend(take(&buffer));
        ids.sort_unstable();
        // The range of the second owner is refused if it is the lower one.
        let expected: &[&[u64]] = &[&[0, 10], &[0, 20], &[0, 10, 20]];
        assert!(expected.contains(&&*ids), "{ids:?}, not one of {expected:?}");
    });
    // Whoever has taken a tenth finds a refill due, although the range is new.
    explore(None, || {
        let buffer = Arc::new(DoubleBuffer::new());
        put(&buffer, 0..1);
        assert_eq!(buffer.try_next(), Some(0));
        put(&buffer, 10..12);
        let thread = thread::spawn({
            let buffer = Arc::clone(&buffer);
            move || {
                let id = buffer.try_next();
                assert!(buffer.claim_refill(), "no refill is due after {id:?}");
            }
        });
        buffer.try_next();
        thread.join().expect("no panic");
    });
}

/// The row of a database, which answers after some steps of other tasks.
struct Row(AtomicU64);

impl Store for Row {
    type Error = Infallible;

    async fn lease(&self, step: u64) -> Result<Range<u64>, Infallible> {
        yield_now().await;
        let start = self.0.fetch_add(step, SeqCst);
        Ok(start..start + step)
    }
}

#[test]
fn a_waiting_call_misses_no_range_that_arrives_meanwhile() {
    for step in [1, 2] {
        shuffle(move || async move {
            let step = step.try_into().expect("not 0");
            let time = Duration::from_secs(1);
            let config = Config {
                min_step: step,
                max_step: step,
                lease_timeout: time,
                backoff: time,
                max_wait: time,
            };
            let row = Row(AtomicU64::new(0));
            let ids = StdArc::new(Segments::new(row, config));
            let calls = [(); 3].map(|()| {
                let ids = StdArc::clone(&ids);
                spawn(async move { in_shuttle(ids.next()).await })
            });
            let mut seen = Vec::new();
            for call in calls {
                seen.push(call.await.expect("the call was not aborted"));
            }
            seen.sort_unstable_by_key(|id| id.clone().ok());
            assert_eq!(seen, [Ok(0), Ok(1), Ok(2)], "ids of three calls");
        });
    }
}
