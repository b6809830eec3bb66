//! Load buffering is forbidden by the pair on `Y` instead of the pair on `X`.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use crate::memory_model::{Program, fence, load, store, swap};

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

/// Never reads 2, 1. In that outcome, the second load would return an older
/// value than the first.
pub fn coherence() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), store(X, 2, Relaxed)],
        vec![load(X, Relaxed), load(X, Relaxed)],
    ])
}

/// Never reads 1, 0. In that outcome, thread 1 would see the flag (`Y`) but not
/// the data (`X`).
pub fn message_passing() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), load(X, Relaxed)],
    ])
}

/// Never reads 1, 1. In that outcome, each load would return the value that the
/// other thread stores after its own load.
pub fn load_buffering() -> Program {
    Program::new([
        vec![load(X, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), store(X, 1, Relaxed)],
    ])
}

/// Never reads 1, 1, 0. In that outcome, thread 2 would see the relayed flag
/// (`Z`) but not the data (`X`).
pub fn relay() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), store(Z, 1, Release)],
        vec![load(Z, Acquire), load(X, Relaxed)],
    ])
}

/// Never reads 1, 2, 0. In that outcome, thread 1 would swap the flag (`Y`)
/// from 1 to 2, and thread 2 would see the 2 but not the data (`X`).
pub fn release_sequence() -> Program {
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
    Program::new([
        vec![store(X, 1, Relaxed), swap(Z, 1, AcqRel), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), swap(Z, 1, AcqRel), load(X, Relaxed)],
    ])
}

/// Never reads 1, 0, 1, 0. In that outcome, threads 2 and 3 would see two
/// independent stores in opposite orders.
pub fn independent_reads() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed)],
        vec![store(Y, 1, Relaxed)],
        vec![load(X, SeqCst), load(Y, SeqCst)],
        vec![load(Y, SeqCst), load(X, SeqCst)],
    ])
}
