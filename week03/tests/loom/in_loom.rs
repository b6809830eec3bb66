//! Runs a program of the memory model in loom.

// In `tests/loom`, the name `std` means another crate.
extern crate std as real_std;

use self::real_std::sync::{Arc, Mutex, mpsc};
use std::collections::BTreeSet;

use loom::model::Builder;
use week03::memory_model::{Op, Outcome, Program};

use crate::machine::{Location, execute};

/// Returns every outcome that loom finds.
pub(crate) fn loom_outcomes(program: &Program) -> BTreeSet<Outcome> {
    let found = Arc::new(Mutex::new(BTreeSet::new()));
    let mut builder = Builder::new();
    builder.max_branches = 10_000;
    builder.check({
        let (program, found) = (program.clone(), Arc::clone(&found));
        move || {
            let locations = loom::sync::Arc::new(Vec::from_iter(
                (0..program.locations()).map(|_| Location::default()),
            ));
            let [first, others @ ..] = &program.threads[..] else { return };
            let run = |ops: &[Op], locations: &[Location]| {
                let mut seen = Vec::new();
                execute(ops, locations, |value| seen.push(value));
                seen
            };
            let others: Vec<_> = others
                .iter()
                .map(|ops| {
                    let (ops, shared) = (ops.clone(), locations.clone());
                    let (done, seen) = mpsc::channel();
                    let thread = loom::thread::spawn(move || {
                        done.send(run(&ops, &shared)).unwrap();
                    });
                    (thread, seen)
                })
                .collect();
            let mut outcome = run(first, &locations);
            for (thread, seen) in others {
                thread.join().unwrap();
                outcome.extend(seen.recv().unwrap());
            }
            found.lock().unwrap().insert(outcome);
        }
    });
    let found = found.lock().unwrap();
    found.clone()
}
