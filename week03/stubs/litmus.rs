//! The weakest orderings that forbid an outcome. Your turn.
//!
//! Each function below is a program of a few atomic operations on the words `X`,
//! `Y` and `Z`, which hold 0 at first, and says what must never be read in it, by
//! the first thread in its order, and then by the next ones.
//! Put an ordering in the place of each `which(why)`. What is graded:
//!
//! - The memory model forbids the outcome.
//! - Each ordering is needed: with any one of them one step weaker, the outcome
//!   is allowed. From `SeqCst` one step leads to `AcqRel`, or for a load to
//!   `Acquire`, and for a store to `Release`; from `AcqRel` to `Acquire` and to
//!   `Release`; from there to `Relaxed`. One step below `Acquire` and `Release` a
//!   fence is gone.
//! - The operations stay as they are, and so does what is `Relaxed` here.
//!
//! It is not your CPU that decides, but the model of all of them. `cargo wb demo
//! litmus` shows what your CPU has to say.

use std::sync::atomic::Ordering::{
    self, AcqRel, Acquire, Relaxed, Release, SeqCst,
};

use crate::memory_model::{Program, fence, load, store, swap};

/// Stands where an ordering is missing.
fn which(why: &str) -> Ordering {
    todo!("{why}")
}

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

/// Never 2, 1: the second one of two reads sees an older value than the first.
pub fn coherence() -> Program {
    let why = "does a location need help to have one order?";
    Program::new([
        vec![store(X, 1, which(why)), store(X, 2, which(why))],
        vec![load(X, which(why)), load(X, which(why))],
    ])
}

/// Never 1, 0: the flag (`Y`) is seen, and not the data (`X`).
pub fn message_passing() -> Program {
    let why = "which of the two tells of the other?";
    Program::new([
        vec![store(X, 1, which(why)), store(Y, 1, which(why))],
        vec![load(Y, which(why)), load(X, which(why))],
    ])
}

/// Never 1, 1: each thread reads what the other one writes after its own read.
pub fn load_buffering() -> Program {
    let why = "which read has to be known of, and to whom?";
    Program::new([
        vec![load(X, which(why)), store(Y, 1, which(why))],
        vec![load(Y, which(why)), store(X, 1, which(why))],
    ])
}

/// Never 1, 1, 0: the third thread sees the flag that was handed on (`Z`), and
/// not the data (`X`).
pub fn relay() -> Program {
    let why = "who passes on what was told?";
    Program::new([
        vec![store(X, 1, which(why)), store(Y, 1, which(why))],
        vec![load(Y, which(why)), store(Z, 1, which(why))],
        vec![load(Z, which(why)), load(X, which(why))],
    ])
}

/// Never 1, 2, 0: the second thread has swapped the flag (`Y`) from 1 to 2, the
/// third one sees the 2, and not the data (`X`).
pub fn release_sequence() -> Program {
    let why = "does a swap pass on what it has read?";
    Program::new([
        vec![store(X, 1, which(why)), store(Y, 1, which(why))],
        vec![swap(Y, 2, which(why))],
        vec![load(Y, which(why)), load(X, which(why))],
    ])
}

/// Never 1, 0: the flag (`Y`) is seen, and not the data (`X`). Loads and stores
/// are relaxed here: what tells is a fence.
pub fn message_passing_by_fences() -> Program {
    let why = "which way does each of them look?";
    Program::new([
        vec![store(X, 1, Relaxed), fence(which(why)), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), fence(which(why)), load(X, Relaxed)],
    ])
}

/// Never 0, 0: neither thread sees what the other one has written.
pub fn store_buffering() -> Program {
    let why =
        "who could tell anybody anything, if nobody reads what was written?";
    Program::new([
        vec![store(X, 1, which(why)), load(Y, which(why))],
        vec![store(Y, 1, which(why)), load(X, which(why))],
    ])
}

/// Never 0, 0: neither thread sees what the other one has written. Loads and
/// stores are relaxed here.
pub fn store_buffering_by_fences() -> Program {
    let why = "what do two of them have that two releases have not?";
    Program::new([
        vec![store(X, 1, Relaxed), fence(which(why)), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), fence(which(why)), load(X, Relaxed)],
    ])
}

/// Never 0 by both loads: neither thread sees what the other one has written.
/// Loads and stores are relaxed here: between the two steps both swap a third
/// word, `Z`.
pub fn meeting() -> Program {
    let why = "what does the second one learn, and from what?";
    Program::new([
        vec![store(X, 1, Relaxed), swap(Z, 1, which(why)), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), swap(Z, 1, which(why)), load(X, Relaxed)],
    ])
}

/// Never 1, 0, 1, 0: two threads see two independent writes in opposite orders.
pub fn independent_reads() -> Program {
    let why = "does it help that each reader is told by each writer?";
    Program::new([
        vec![store(X, 1, which(why))],
        vec![store(Y, 1, which(why))],
        vec![load(X, which(why)), load(Y, which(why))],
        vec![load(Y, which(why)), load(X, which(why))],
    ])
}
