//! The other pair forbids load buffering as well.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use crate::memory_model::{Program, fence, load, store, swap};

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

/// Never: the second one of two reads sees an older value than the first one.
pub fn coherence() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), store(X, 2, Relaxed)],
        vec![load(X, Relaxed), load(X, Relaxed)],
    ])
}

/// Never: the flag (`Y`) is seen, and not the data (`X`).
pub fn message_passing() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), load(X, Relaxed)],
    ])
}

/// Never: each thread reads what the other one writes after its own read.
pub fn load_buffering() -> Program {
    Program::new([
        vec![load(X, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), store(X, 1, Relaxed)],
    ])
}

/// Never: the data is seen two threads further on, and the first word is not.
pub fn relay() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), store(Z, 1, Release)],
        vec![load(Z, Acquire), load(X, Relaxed)],
    ])
}

/// Never: the second thread has swapped the flag (`Y`) from 1 to 2, the third
/// one sees the 2, and not the data (`X`).
pub fn release_sequence() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![swap(Y, 2, Relaxed)],
        vec![load(Y, Acquire), load(X, Relaxed)],
    ])
}

/// Never: the flag (`Y`) is seen, and not the data (`X`). Loads and stores are
/// relaxed here: what tells is a fence.
pub fn message_passing_by_fences() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), fence(Release), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), fence(Acquire), load(X, Relaxed)],
    ])
}

/// Never: neither thread sees what the other one has written.
pub fn store_buffering() -> Program {
    Program::new([
        vec![store(X, 1, SeqCst), load(Y, SeqCst)],
        vec![store(Y, 1, SeqCst), load(X, SeqCst)],
    ])
}

/// Never: neither thread sees what the other one has written. Loads and stores
/// are relaxed here.
pub fn store_buffering_by_fences() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), fence(SeqCst), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), fence(SeqCst), load(X, Relaxed)],
    ])
}

/// Never: neither thread sees what the other one has written. Loads and stores
/// are relaxed here: between the two steps both swap a third word, `Z`.
pub fn meeting() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), swap(Z, 1, AcqRel), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), swap(Z, 1, AcqRel), load(X, Relaxed)],
    ])
}

/// Never: two threads see two independent writes in opposite orders.
pub fn independent_reads() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed)],
        vec![store(Y, 1, Relaxed)],
        vec![load(X, SeqCst), load(Y, SeqCst)],
        vec![load(Y, SeqCst), load(X, SeqCst)],
    ])
}
