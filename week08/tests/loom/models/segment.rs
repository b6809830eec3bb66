//! Models of `segment`. loom runs each one once for each interleaving of its
//! threads and each value that a load can return.

use std::ops::Range;

use loom::thread;

use crate::common::explore;
use crate::model_checked::loom_atomics::{Arc, AtomicUsize, Ordering::SeqCst};
use crate::segment::DoubleBuffer;

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
