//! Models of `snowflake`. loom runs each one once for each interleaving of its
//! threads and each value that a load can return.

use std::time::Duration;

use loom::thread;

use crate::common::explore;
use crate::model_checked::loom_atomics::Arc;
use crate::snowflake::{EPOCH, Generator, Refused, TOLERANCE};

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
