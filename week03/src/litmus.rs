//! Litmus tests: the weakest orderings that forbid an outcome.
//!
//! *Question.* Two threads share two atomic variables. Which writes of the
//! other thread may a thread see? Which outcomes can be made impossible, and
//! which orderings does that take?
//!
//! *Idea.* A litmus test is a program of a few atomic operations, and one
//! outcome that must be impossible. An ordering does not make its own operation
//! stronger: a `SeqCst` store does not store more firmly than a `Relaxed` one.
//! An ordering says which *other* accesses are visible to a thread that reads
//! the stored value. So ask of each outcome: which other writes must be
//! visible, and which load must make them visible?
//!
//! *Guarantee.* Each program below forbids its outcome under the [memory
//! model], on every machine. If any one of its orderings is one step weaker,
//! the outcome is allowed.
//!
//! *Cost.* On x86-64 each load is an acquire and each store a release, at no
//! cost. Only a `SeqCst` store, a `SeqCst` fence and a swap of any ordering
//! take longer there. On ARM and RISC-V nearly every ordering below has a
//! price. The weakest orderings leave no margin: one edit of the code can make
//! them too weak.
//!
//! [memory model]: crate::memory_model
//!
//! ```
//! use week03::litmus::store_buffering;
//! use week03::memory_model::outcomes;
//!
//! let both_loads_return_zero = vec![0, 0];
//! assert!(!outcomes(&store_buffering()).contains(&both_loads_return_zero));
//! ```

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use crate::memory_model::{Program, fence, load, store, swap};

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

/// Never reads 2, 1. In that outcome, the second load would return an older
/// value than the first.
pub fn coherence() -> Program {
    // Each variable has one modification order, whatever the orderings are.
    Program::new([
        vec![store(X, 1, Relaxed), store(X, 2, Relaxed)],
        vec![load(X, Relaxed), load(X, Relaxed)],
    ])
}

/// Never reads 1, 0. In that outcome, thread 1 would see the flag (`Y`) but not
/// the data (`X`).
pub fn message_passing() -> Program {
    // The data can be relaxed: the release of the flag publishes it.
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), load(X, Relaxed)],
    ])
}

/// Never reads 1, 1. In that outcome, each load would return the value that the
/// other thread stores after its own load.
pub fn load_buffering() -> Program {
    // One pair is enough. If thread 0 acquires the store to `X`, then the load
    // of `Y` happens before the store to `Y`, and cannot read it. A pair on `Y`
    // does the same.
    Program::new([
        vec![load(X, Acquire), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), store(X, 1, Release)],
    ])
}

/// Never reads 1, 1, 0. In that outcome, thread 2 would see the relayed flag
/// (`Z`) but not the data (`X`).
pub fn relay() -> Program {
    // The thread in the middle has to acquire, and to release again.
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), store(Z, 1, Release)],
        vec![load(Z, Acquire), load(X, Relaxed)],
    ])
}

/// Never reads 1, 2, 0. In that outcome, thread 1 would swap the flag (`Y`)
/// from 1 to 2, and thread 2 would see the 2 but not the data (`X`).
pub fn release_sequence() -> Program {
    // A read-modify-write continues the release sequence with any ordering. A
    // store would end it.
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![swap(Y, 2, Relaxed)],
        vec![load(Y, Acquire), load(X, Relaxed)],
    ])
}

/// Never reads 1, 0. In that outcome, thread 1 would see the flag (`Y`) but not
/// the data (`X`). The loads and stores are `Relaxed`: fences order them.
pub fn message_passing_by_fences() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), fence(Release), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), fence(Acquire), load(X, Relaxed)],
    ])
}

/// Never reads 0, 0. In that outcome, neither thread would see the other
/// thread's store.
pub fn store_buffering() -> Program {
    // In this outcome no load reads a store of the program, so no release can
    // synchronize with an acquire. All four operations need one total order.
    Program::new([
        vec![store(X, 1, SeqCst), load(Y, SeqCst)],
        vec![store(Y, 1, SeqCst), load(X, SeqCst)],
    ])
}

/// Never reads 0, 0. In that outcome, neither thread would see the other
/// thread's store. The loads and stores are `Relaxed`: fences order them.
pub fn store_buffering_by_fences() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), fence(SeqCst), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), fence(SeqCst), load(X, Relaxed)],
    ])
}

/// Never reads 0 in both loads, whatever the swaps read. In that outcome,
/// neither thread would see the other thread's store. The loads and stores are
/// `Relaxed`. Between its store and its load, each thread swaps a third
/// variable, `Z`.
pub fn store_buffering_by_swaps() -> Program {
    // The second of two swaps reads what the first one wrote.
    Program::new([
        vec![store(X, 1, Relaxed), swap(Z, 1, AcqRel), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), swap(Z, 1, AcqRel), load(X, Relaxed)],
    ])
}

/// Never reads 1, 0, 1, 0. In that outcome, threads 2 and 3 would see two
/// independent stores in opposite orders.
pub fn independent_reads() -> Program {
    // Two readers that synchronize with both writers can still disagree: a
    // release orders two threads, and only `SeqCst` orders all of them. The
    // loads need the total order: in it, a load that misses a store comes
    // before a load that sees it.
    Program::new([
        vec![store(X, 1, Relaxed)],
        vec![store(Y, 1, Relaxed)],
        vec![load(X, SeqCst), load(Y, SeqCst)],
        vec![load(Y, SeqCst), load(X, SeqCst)],
    ])
}
