//! Runs a program of the [memory model](crate::memory_model) on this CPU many
//! times, and counts its outcomes.
//!
//! *Question.* Which of the outcomes that the model allows does this machine
//! show?
//!
//! *Idea.* The method of litmus7 (Alglave, Maranget, Sarkar, Sewell: "Litmus:
//! Running Tests Against Hardware", TACAS 2011). The program's locations exist
//! in thousands of copies, and each thread runs its operations on one copy
//! after the other. Before each copy the threads meet at a spinning barrier, so
//! that they start at the same moment.
//!
//! *Guarantee.* Every operation is executed as the compiler emits it for its
//! ordering. Every outcome that is counted has happened.
//!
//! *Cost.* An outcome that is not seen may still be possible: it may be rare,
//! or need more cores, or another CPU.

use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::thread;

use crate::memory_model::{Op, Outcome, Program};
use crate::model_checked::loom_atomics::{
    AtomicU8, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, fence,
};

/// The number of copies. They take half a megabyte for each location.
const COPIES: usize = 4096;

/// The number of spins at the barrier before the thread yields its core.
const SPINS: usize = 100;

/// A location that shares its two cache lines with no other.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Location(AtomicU8);

/// Executes the operations of one thread, and passes each value it reads to
/// `read`.
pub(crate) fn execute(
    ops: &[Op],
    locations: &[Location],
    mut read: impl FnMut(u8),
) {
    for op in ops {
        match *op {
            Op::Load { at, ordering } => read(locations[at].0.load(ordering)),
            Op::Store { at, value, ordering } => {
                locations[at].0.store(value, ordering);
            }
            Op::Swap { at, value, ordering } => {
                read(locations[at].0.swap(value, ordering));
            }
            Op::Fence { ordering } => fence(ordering),
        }
    }
}

/// A spinning barrier: waits until all `threads` have arrived.
fn wait_at_barrier(arrived: &AtomicUsize, threads: usize) {
    arrived.fetch_add(1, AcqRel);
    let mut spins: usize = 0;
    while arrived.load(Acquire) < threads {
        spins += 1;
        match spins % SPINS {
            // There may be fewer cores than threads.
            0 => thread::yield_now(),
            _ => spin_loop(),
        }
    }
}

/// Returns how often each outcome was seen. The number of `runs` is rounded up
/// to a multiple of 4,096.
///
/// # Panics
///
/// Panics if an operation has an ordering that it cannot have, such as a load
/// with `Release`.
pub fn count(program: &Program, runs: usize) -> BTreeMap<Outcome, usize> {
    // An invalid ordering panics here. In a thread of a run it would hang: the
    // other threads would wait for it at the barrier.
    let trial: Vec<_> =
        (0..program.locations()).map(|_| Location::default()).collect();
    for ops in &program.threads {
        execute(ops, &trial, drop);
    }
    let width = program.locations();
    let mut counts = BTreeMap::new();
    for _ in 0..runs.div_ceil(COPIES) {
        let locations: Vec<Location> =
            (0..COPIES * width).map(|_| Location::default()).collect();
        let copies: Vec<_> = locations.chunks_exact(width).collect();
        let arrived: Vec<_> =
            (0..COPIES).map(|_| AtomicUsize::new(0)).collect();
        let run = |ops: &[Op]| {
            let reads = ops.iter().filter(|op| op.reads()).count();
            let mut seen = Vec::with_capacity(COPIES * reads);
            for (arrived, copy) in arrived.iter().zip(&copies) {
                wait_at_barrier(arrived, program.threads.len());
                execute(ops, copy, |value| seen.push(value));
            }
            (reads, seen)
        };
        let seen: Vec<_> = thread::scope(|scope| {
            let start = |ops| scope.spawn(move || run(ops));
            let threads: Vec<_> =
                program.threads.iter().map(|ops| start(&ops[..])).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended
                .map(|seen| seen.expect("the operations do not panic"))
                .collect()
        });
        for copy in 0..COPIES {
            let of = |(reads, seen): &(usize, Vec<u8>)| {
                seen[copy * reads..][..*reads].to_vec()
            };
            let outcome = seen.iter().flat_map(of).collect();
            *counts.entry(outcome).or_default() += 1;
        }
    }
    counts
}
