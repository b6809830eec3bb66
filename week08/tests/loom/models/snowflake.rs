//! Models of `snowflake`. loom runs those of threads, once for each interleaving
//! of the threads and each value that a load can return. shuttle runs those of
//! tasks, in many random orders of their steps.

use std::sync::Arc as StdArc;
use std::time::Duration;

use loom::thread;
use shuttle_tokio_impl::task::yield_now;

use crate::common::{explore, in_shuttle, shuffle};
use crate::model_checked::loom_atomics::Arc;
use crate::model_checked::shuttle_tasks::spawn;
use crate::snowflake::{
    Config, EPOCH, Generator, Grant, Ids, Millis, Refused, Registry, TOLERANCE,
    Worker,
};

const NOW: u64 = 1_000;

type Outcome = Result<u64, Refused>;

fn id(timestamp: u64, sequence: u64) -> u64 {
    timestamp << 22 | 17 << 12 | sequence
}

/// Calls `try_next` at each of the times.
fn calls(generator: &Generator, times: &[u64]) -> Vec<Outcome> {
    times.iter().map(|now| generator.try_next(EPOCH + now)).collect()
}

/// Returns the outcomes of each thread, for each order of all calls.
fn orders(latest: u64, threads: &[Vec<u64>]) -> Vec<Vec<Vec<Outcome>>> {
    let mut all = Vec::new();
    for (n, times) in threads.iter().enumerate() {
        let Some((now, rest)) = times.split_first() else { continue };
        let (ms, sequence) = (latest >> 22, latest & 4_095);
        let outcome = if *now > ms {
            Ok(id(*now, 0))
        } else if ms - now > TOLERANCE {
            let by = Duration::from_millis(ms - now);
            Err(Refused::ClockBack { by })
        } else if sequence == 4_095 {
            let retry_after = Duration::from_millis(ms + 1 - now);
            Err(Refused::Full { retry_after })
        } else {
            Ok(latest + 1)
        };
        let mut threads = threads.to_vec();
        threads[n] = rest.to_vec();
        for mut order in orders(outcome.unwrap_or(latest), &threads) {
            order[n].insert(0, outcome);
            all.push(order);
        }
    }
    if all.is_empty() { vec![vec![Vec::new(); threads.len()]] } else { all }
}

/// Runs the calls of each thread, and compares their outcomes with those of
/// each order.
fn check(latest: u64, threads: Vec<Vec<u64>>) {
    let expected = orders(latest, &threads);
    explore(Some(3), move || {
        let generator = Arc::new(Generator::after(latest));
        let (first, others) = threads.split_first().expect("threads");
        let others: Vec<_> = others
            .iter()
            .map(|times| {
                let (generator, times) =
                    (Arc::clone(&generator), times.clone());
                thread::spawn(move || calls(&generator, &times))
            })
            .collect();
        let mut seen = vec![calls(&generator, first)];
        seen.extend(others.into_iter().map(|t| t.join().expect("no panic")));
        assert!(
            expected.contains(&seen),
            "{seen:?}: no order of the calls after {latest} explains this"
        );
    });
}

#[test]
fn concurrent_calls_return_the_results_of_some_order() {
    check(id(NOW, 3), vec![vec![NOW; 2], vec![NOW; 2]]);
    check(id(NOW, 4_092), vec![vec![NOW; 2], vec![NOW; 3]]);
    check(id(NOW, 4_094), vec![vec![NOW], vec![NOW], vec![NOW]]);
    // The next millisecond begins, for one thread earlier than for the other.
    check(id(NOW, 7), vec![vec![NOW, NOW + 1], vec![NOW + 1, NOW]]);
    check(id(NOW, 4_094), vec![vec![NOW, NOW + 1], vec![NOW, NOW + 1]]);
    check(id(NOW, 4_094), vec![vec![NOW], vec![NOW + 1], vec![NOW - 1]]);
    check(id(NOW, 4_095), vec![vec![NOW + 1, NOW], vec![NOW - 4, NOW + 2]]);
    // The clock of one thread falls behind because of another one.
    check(id(NOW, 7), vec![vec![NOW; 2], vec![NOW + 5, NOW + 6]]);
    check(id(NOW, 4_094), vec![vec![NOW - 5, NOW], vec![NOW, NOW + 9]]);
}

/// A registry that leases a worker id after some steps of other tasks.
struct Leases;

impl Registry for Leases {
    type Error = ();

    async fn acquire(&self, _: Duration, _: Millis) -> Result<Grant, ()> {
        yield_now().await;
        let worker = Worker::new(17).expect("10 bits");
        Ok(Grant { worker, token: 1, used_to: EPOCH })
    }

    async fn renew(
        &self,
        _: Grant,
        _: Duration,
        _: Millis,
    ) -> Result<bool, ()> {
        unreachable!("time stands still")
    }
}

#[test]
fn a_waiting_call_misses_no_lease_that_arrives_meanwhile() {
    shuffle(async || {
        let config = Config {
            ttl: Duration::from_secs(9),
            margin: Duration::from_secs(1),
            max_wait: Duration::from_secs(1),
        };
        let clock = StdArc::new(|| EPOCH + NOW);
        let ids = StdArc::new(Ids::new(Leases, config, clock));
        let calls = [(); 2].map(|()| {
            let ids = StdArc::clone(&ids);
            spawn(async move { in_shuttle(ids.next()).await })
        });
        let mut seen = Vec::new();
        for call in calls {
            seen.push(call.await.expect("the call was not aborted"));
        }
        seen.sort_unstable_by_key(|id| id.clone().ok());
        assert_eq!(seen, [Ok(id(NOW, 0)), Ok(id(NOW, 1))], "ids of two calls");
    });
}
