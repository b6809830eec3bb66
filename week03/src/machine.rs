//! Runs a program of the [memory model](crate::memory_model) on this CPU, again
//! and again, and counts what came out.
//!
//! *Question.* Which of the outcomes that the model allows does this machine
//! show?
//!
//! *Idea.* As litmus7 does it (Alglave, Maranget, Sarkar, Sewell: "Litmus: Running
//! Tests Against Hardware", TACAS 2011): thousands of copies of the program's
//! locations, which the threads run through side by side. Before each copy they
//! wait for each other, spinning, so that they do it at the same moment.
//!
//! *Guarantee.* Every operation is executed as the compiler would emit it for
//! that ordering. What is counted has happened.
//!
//! *Cost.* What is not seen proves nothing: it may be rare, need more cores than
//! there are, or another CPU.

use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::thread;

use crate::memory_model::{Op, Outcome, Program};
use crate::model_checked::loom_atomics::{
    AtomicU8, AtomicUsize, Ordering::AcqRel, Ordering::Acquire, fence,
};

/// Copies of the locations, half a megabyte for each of them.
const COPIES: usize = 4096;

/// Turns to wait for another thread, before it is lent the core.
const PATIENCE: usize = 100;

/// A location, alone on its two cache lines.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Location(AtomicU8);

/// Does what one thread does, and hands on what is read.
pub(crate) fn perform(
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

/// Waits until all `threads` are here.
fn meet(arrived: &AtomicUsize, threads: usize) {
    arrived.fetch_add(1, AcqRel);
    let mut turns = 0;
    while arrived.load(Acquire) < threads {
        turns += 1;
        match turns % PATIENCE {
            // There may be fewer cores than threads.
            0 => thread::yield_now(),
            _ => spin_loop(),
        }
    }
}

/// How often each outcome was seen in so many `runs`, rounded up to a multiple of
/// 4,096.
///
/// # Panics
///
/// Where an operation has an ordering that it cannot have.
pub fn count(program: &Program, runs: usize) -> BTreeMap<Outcome, usize> {
    // In this thread: one that panics while others wait for it hangs.
    let once: Vec<_> =
        (0..program.locations()).map(|_| Location::default()).collect();
    for ops in &program.threads {
        perform(ops, &once, drop);
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
                meet(arrived, program.threads.len());
                perform(ops, copy, |value| seen.push(value));
            }
            (reads, seen)
        };
        let seen: Vec<_> = thread::scope(|scope| {
            let start = |ops| scope.spawn(move || run(ops));
            let threads: Vec<_> =
                program.threads.iter().map(|ops| start(&ops[..])).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended.map(|seen| seen.expect("it does not panic")).collect()
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
