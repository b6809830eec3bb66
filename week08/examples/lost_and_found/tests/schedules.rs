//! 100,000 random schedules of the right systems.
//!
//! The search over all states stops at two transfers. These runs have five, and
//! as many faults as the example `transfer`, so that it can show a wrong one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use fastrand::Rng;
use lost_and_found::{Machine, Setup, machines};
use machines::{callback, half_message, outbox, tcc};
use week08::money::explore::run_at_random;

#[path = "../../transfer/size.rs"]
mod size;

const SETUP: Setup = Setup {
    transfers: size::TRANSFERS,
    balance: size::BALANCE,
    attempts: size::ATTEMPTS,
    max_checks: size::MAX_CHECKS,
    retries: 0,
    patience: None,
    faults: size::FAULTS,
};

#[test]
fn no_money_is_lost_or_created_in_100_000_random_schedules() {
    let runs = [
        ("outbox", run(40_000, &outbox::answer::system(SETUP))),
        ("half", run(25_000, &half_message::answer::system(SETUP))),
        ("tcc", run(25_000, &tcc::answer::system(SETUP))),
        ("callback", run(10_000, &callback::answer::system(SETUP))),
    ];
    for (pattern, run) in runs {
        if let Err(found) = run {
            panic!(
                "{pattern}, {found}\n`cargo wb demo transfer -- --pattern PATTERN \
                 --chaos SEED` shows the runs of outbox, half and tcc."
            );
        }
    }
}

#[test]
fn random_schedules_find_a_message_that_is_lost() {
    let found = run(100, &outbox::commits_then_publishes::system(SETUP));
    let found = found.expect_err("no schedule loses the message");
    assert!(found.contains("was debited, and is lost"), "{found}");
}

/// Runs a schedule for each seed from 1 to `seeds`, on all cores. Returns a
/// wrong run and its seed.
fn run(seeds: u64, start: &impl Machine) -> Result<(), String> {
    let (next, began) = (AtomicU64::new(1), Instant::now());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                return Ok(());
            }
            let mut random = Rng::with_seed(seed);
            let choose = |actions| random.usize(..actions);
            let run = run_at_random(start.clone(), size::MAX_ACTIONS, choose);
            if let Err(found) = run {
                next.store(seeds + 1, Ordering::Relaxed);
                return Err(format!("seed {seed}: {found}"));
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let result = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut results = workers.into_iter().map(|worker| worker.join());
        results.try_for_each(|result| result.expect("a run panics"))
    });
    println!("{seeds} schedules in {:.1?}", began.elapsed());
    result
}
