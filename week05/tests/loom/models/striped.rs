//! Models of `striped`: checked for every interleaving of two threads.

use std::num::NonZero;
use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::thread;

use crate::common::explore;
use crate::striped::{Config, Counter};

const SECOND: Duration = Duration::from_secs(1);

/// Returns a counter with two slots in each stripe: buckets 0, 2 and 4 share
/// one. To bucket 0, 100 was added in stripe 0.
fn counter(start: Instant, stripes: usize) -> Arc<Counter> {
    let (bucket, buckets) = (SECOND, NonZero::<usize>::MIN);
    let stripes = NonZero::new(stripes).unwrap();
    let counter = Counter::new(Config { bucket, buckets, stripes }, start);
    counter.add(0, start, 100);
    Arc::new(counter)
}

/// Adds `count` in stripe 0 at `now`, in another thread.
fn add(counter: &Arc<Counter>, now: Instant, count: u32) -> Adding {
    let counter = Arc::clone(counter);
    thread::spawn(move || counter.add(0, now, count))
}

type Adding = thread::JoinHandle<()>;

#[test]
fn two_threads_that_replace_a_bucket_lose_no_count() {
    explore(None, || {
        let start = Instant::now();
        let counter = counter(start, 1);
        let other = add(&counter, start + 2 * SECOND, 1);
        counter.add(0, start + 2 * SECOND, 10);
        let seen = counter.sum(start + 2 * SECOND);
        assert!(
            [10, 11].contains(&seen),
            "the sum after 10 was added in bucket 2, which replaces bucket 0, \
             while another thread adds 1: seen {seen}, expected 10 or 11"
        );
        other.join().unwrap();
        let seen = counter.sum(start + 2 * SECOND);
        assert_eq!(
            seen, 11,
            "two threads add 1 and 10 in bucket 2, which replaces bucket 0: the \
             sum seen (left), expected (right)"
        );
    });
}

#[test]
fn two_threads_that_reach_the_maximum_together_stay_there() {
    explore(None, || {
        let start = Instant::now();
        let counter = counter(start, 1);
        counter.add(0, start, u32::MAX - 115);
        let other = add(&counter, start, 10);
        counter.add(0, start, 10);
        other.join().unwrap();
        let seen = [0, 1, 2].map(|i| counter.sum(start + i * SECOND));
        let most = u64::from(u32::MAX);
        assert_eq!(
            seen,
            [most, most, 0],
            "two threads add 10 each to 15 less than the maximum; the sums in \
             buckets 0, 1 and 2: seen (left), expected (right)"
        );
    });
}

#[test]
fn a_late_add_never_counts_in_the_bucket_that_replaces_its_own() {
    explore(None, || {
        let start = Instant::now();
        let counter = counter(start, 1);
        let other = add(&counter, start, 10);
        counter.add(0, start + 2 * SECOND, 1);
        let seen = counter.sum(start + 2 * SECOND);
        assert_eq!(seen, 1, "the sum in bucket 2: seen, expected");
        other.join().unwrap();
        counter.add(0, start + 2 * SECOND, 1_000);
        let seen = [0, 2, 3, 4].map(|i| counter.sum(start + i * SECOND));
        assert_eq!(
            seen[1..],
            [1_001, 1_001, 0],
            "one thread adds 10 in bucket 0, and another 1 in bucket 2, and \
             then 1,000; the sums in buckets 2, 3 and 4: seen, expected"
        );
        assert!(
            [0, 100, 110].contains(&seen[0]),
            "the sum in bucket 0, of 100 and 10: {}",
            seen[0]
        );
    });
}

/// The buckets of sums, and what they may return.
const SUMS: [(u32, &[u64]); 3] =
    [(1, &[0, 20, 100, 120]), (2, &[0, 1, 20, 21]), (3, &[0, 1])];

#[test]
fn a_sum_during_an_add_counts_no_expired_bucket_and_loses_nothing() {
    for (bucket, allowed) in SUMS {
        explore(None, move || {
            let start = Instant::now();
            let counter = counter(start, 2);
            // The sum is in the other thread: after two loads, loom does not
            // run the write of the second thread before the first load.
            let other = thread::spawn({
                let counter = Arc::clone(&counter);
                move || counter.sum(start + bucket * SECOND)
            });
            counter.add(0, start + 2 * SECOND, 1);
            counter.add(1, start + SECOND, 20);
            let seen = other.join().unwrap();
            assert!(
                allowed.contains(&seen),
                "the sum in bucket {bucket}, while 1 is added in bucket 2, which \
                 replaces 100 in bucket 0, and 20 in bucket 1: seen {seen}, \
                 expected one of {allowed:?}"
            );
            let seen = counter.sum(start + 2 * SECOND);
            assert_eq!(
                seen, 21,
                "after 1 in bucket 2 and 20 in bucket 1, the sum in bucket 2: \
                 seen (left), expected (right)"
            );
        });
    }
}
