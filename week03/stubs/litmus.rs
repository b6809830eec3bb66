//! Litmus tests: the weakest orderings that forbid an outcome. Your turn.
//!
//! Each function below is a program of a few atomic operations on the variables
//! `X`, `Y` and `Z`, which start at 0. An *outcome* is the combination of all
//! values that one run reads: first the values that thread 0 reads, in program
//! order, then those of thread 1, and so on. The doc comment of each function
//! names an outcome that must be impossible. Replace each `choose(why)` by an
//! ordering. These rules are graded:
//!
//! - The memory model forbids the outcome.
//! - Each ordering is needed: if any one of them is made one step weaker, the
//!   model allows the outcome.
//!   - One step below `SeqCst` is `Acquire` for a load, `Release` for a store,
//!     and `AcqRel` for a swap or a fence.
//!   - One step below `AcqRel` is `Acquire`, and also `Release`.
//!   - One step below `Acquire` and `Release` is `Relaxed`. A fence is removed
//!     instead.
//! - The operations stay as they are. An ordering that is `Relaxed` in the stub
//!   stays `Relaxed`.
//!
//! The memory model decides, not your CPU. To see what your CPU does, run
//! `cargo wb demo litmus`.

use std::sync::atomic::Ordering::{
    self, AcqRel, Acquire, Relaxed, Release, SeqCst,
};

use crate::memory_model::{Program, fence, load, store, swap};

/// Marks a missing ordering.
fn choose(why: &str) -> Ordering {
    todo!("{why}")
}

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

/// Never reads 2, 1. In that outcome, the second load would return an older
/// value than the first.
pub fn coherence() -> Program {
    let why = "do accesses to a single variable need an ordering?";
    Program::new([
        vec![store(X, 1, choose(why)), store(X, 2, choose(why))],
        vec![load(X, choose(why)), load(X, choose(why))],
    ])
}

/// Never reads 1, 0. In that outcome, thread 1 would see the flag (`Y`) but not
/// the data (`X`).
pub fn message_passing() -> Program {
    let why = "which of the two stores publishes the other?";
    Program::new([
        vec![store(X, 1, choose(why)), store(Y, 1, choose(why))],
        vec![load(Y, choose(why)), load(X, choose(why))],
    ])
}

/// Never reads 1, 1. In that outcome, each load would return the other thread's
/// 1, which the other thread stores only after its load.
pub fn load_buffering() -> Program {
    let why = "which load must happen before which store?";
    Program::new([
        vec![load(X, choose(why)), store(Y, 1, choose(why))],
        vec![load(Y, choose(why)), store(X, 1, choose(why))],
    ])
}

/// Never reads 1, 1, 0. In that outcome, thread 2 would see the relayed flag
/// (`Z`) but not the data (`X`).
pub fn relay() -> Program {
    let why = "which thread must pass on what it has acquired?";
    Program::new([
        vec![store(X, 1, choose(why)), store(Y, 1, choose(why))],
        vec![load(Y, choose(why)), store(Z, 1, choose(why))],
        vec![load(Z, choose(why)), load(X, choose(why))],
    ])
}

/// Never reads 1, 2, 0. In that outcome, thread 1 would swap the flag (`Y`)
/// from 1 to 2, and thread 2 would see the 2 but not the data (`X`).
pub fn release_sequence() -> Program {
    let why = "does a swap pass on the release that it has read?";
    Program::new([
        vec![store(X, 1, choose(why)), store(Y, 1, choose(why))],
        vec![swap(Y, 2, choose(why))],
        vec![load(Y, choose(why)), load(X, choose(why))],
    ])
}

/// Never reads 1, 0. In that outcome, thread 1 would see the flag (`Y`) but not
/// the data (`X`). The loads and stores are `Relaxed`: fences order them.
pub fn message_passing_by_fences() -> Program {
    let why = "does this fence publish earlier writes, or receive them?";
    Program::new([
        vec![store(X, 1, Relaxed), fence(choose(why)), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), fence(choose(why)), load(X, Relaxed)],
    ])
}

/// Never reads 0, 0. In that outcome, neither thread would see the other
/// thread's store.
pub fn store_buffering() -> Program {
    let why = "can a release help if no load reads the other thread's store?";
    Program::new([
        vec![store(X, 1, choose(why)), load(Y, choose(why))],
        vec![store(Y, 1, choose(why)), load(X, choose(why))],
    ])
}

/// Never reads 0, 0. In that outcome, neither thread would see the other
/// thread's store. The loads and stores are `Relaxed`: fences order them.
pub fn store_buffering_by_fences() -> Program {
    let why = "which order can two fences have that two releases do not have?";
    Program::new([
        vec![store(X, 1, Relaxed), fence(choose(why)), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), fence(choose(why)), load(X, Relaxed)],
    ])
}

/// Never reads 0 in both loads, whatever the swaps read. In that outcome,
/// neither thread would see the other thread's store. The loads and stores are
/// `Relaxed`. Between its store and its load, each thread swaps a third
/// variable, `Z`.
pub fn store_buffering_by_swaps() -> Program {
    let why = "which of the swaps has to release, and which to acquire?";
    Program::new([
        vec![store(X, 1, Relaxed), swap(Z, 1, choose(why)), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), swap(Z, 1, choose(why)), load(X, Relaxed)],
    ])
}

/// Never reads 1, 0, 1, 0. In that outcome, threads 2 and 3 would see two
/// independent stores in opposite orders.
pub fn independent_reads() -> Program {
    let why = "is it enough if each reader synchronizes with each writer?";
    Program::new([
        vec![store(X, 1, choose(why))],
        vec![store(Y, 1, choose(why))],
        vec![load(X, choose(why)), load(Y, choose(why))],
        vec![load(Y, choose(why)), load(X, choose(why))],
    ])
}
