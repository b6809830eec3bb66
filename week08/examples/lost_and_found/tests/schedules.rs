//! 100,000 random schedules of the right systems.
//!
//! The search over all states stops at two transfers. These runs have five, and
//! as many faults as the example `transfer`, so that it can show a wrong one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use fastrand::Rng;
use lost_and_found::{Machine, Setup, machines};
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
    use machines::{callback, half_message, outbox, tcc};
    run(40_000, "outbox", &outbox::answer::system(SETUP));
    run(25_000, "half", &half_message::answer::system(SETUP));
    run(25_000, "tcc", &tcc::answer::system(SETUP));
    run(10_000, "callback", &callback::answer::system(SETUP));
}

/// Runs a schedule for each seed from 1 to `seeds`, on all cores.
fn run(seeds: u64, pattern: &str, start: &impl Machine) {
    let (next, began) = (AtomicU64::new(1), Instant::now());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                return;
            }
            let mut random = Rng::with_seed(seed);
            let choose = |actions| random.usize(..actions);
            let run = run_at_random(start.clone(), size::MAX_ACTIONS, choose);
            if let Err(found) = run {
                panic!(
                    "{pattern}, seed {seed}: {found}\n`cargo wb demo transfer -- \
                     --pattern {pattern} --chaos {seed}` shows the runs of \
                     outbox, half and tcc"
                );
            }
        }
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    println!("{pattern}: {seeds} schedules in {:.1?}", began.elapsed());
}
