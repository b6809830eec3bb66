//! The weakest orderings that forbid an outcome.
//!
//! *Question.* Two threads share two words. What may one of them see of the
//! other, what may it never see, and what has to be written for that?
//!
//! *Idea.* A litmus test: a program of a few operations, and one outcome that
//! must not come out. An ordering is not a strength of the operation itself, as
//! if `SeqCst` stored more firmly. It says what *else* is seen by whoever reads
//! from it. So ask for each outcome which *other* memory it tells of, and which
//! read has to tell it.
//!
//! *Guarantee.* Each program below forbids its outcome, by the [memory model],
//! on every machine. With any one of its orderings one step weaker it does not.
//!
//! *Cost.* On x86-64 each load is an acquire and each store a release, for
//! nothing: there only a `SeqCst` store, a `SeqCst` fence, and a swap of any
//! ordering take longer. On ARM and RISC-V nearly everything here has a price.
//! What is the weakest today is one edit away from being too weak.
//!
//! [memory model]: crate::memory_model
//!
//! ```
//! use week03::litmus::store_buffering;
//! use week03::memory_model::outcomes;
//!
//! let neither_sees_the_other = vec![0, 0];
//! assert!(!outcomes(&store_buffering()).contains(&neither_sees_the_other));
//! ```

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use crate::memory_model::{Program, fence, load, store, swap};

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

/// Never 2, 1: the second one of two reads sees an older value than the first.
pub fn coherence() -> Program {
    // Each location has an order of its own, whatever is asked for.
    Program::new([
        vec![store(X, 1, Relaxed), store(X, 2, Relaxed)],
        vec![load(X, Relaxed), load(X, Relaxed)],
    ])
}

/// Never 1, 0: the flag (`Y`) is seen, and not the data (`X`).
pub fn message_passing() -> Program {
    // The data itself needs nothing: the flag tells of it.
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), load(X, Relaxed)],
    ])
}

/// Never 1, 1: each thread reads what the other one writes after its own read.
pub fn load_buffering() -> Program {
    // One pair is enough: what tells of a read that came before it makes the
    // other one impossible. Which pair, is a matter of taste.
    Program::new([
        vec![load(X, Acquire), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), store(X, 1, Release)],
    ])
}

/// Never 1, 1, 0: the third thread sees the flag that was handed on (`Z`), and
/// not the data (`X`).
pub fn relay() -> Program {
    // Each hand that it goes through has to pass it on.
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![load(Y, Acquire), store(Z, 1, Release)],
        vec![load(Z, Acquire), load(X, Relaxed)],
    ])
}

/// Never 1, 2, 0: the second thread has swapped the flag (`Y`) from 1 to 2, the
/// third one sees the 2, and not the data (`X`).
pub fn release_sequence() -> Program {
    // A read-modify-write hands on what it has read: it belongs to the release
    // sequence. A store would end it.
    Program::new([
        vec![store(X, 1, Relaxed), store(Y, 1, Release)],
        vec![swap(Y, 2, Relaxed)],
        vec![load(Y, Acquire), load(X, Relaxed)],
    ])
}

/// Never 1, 0: the flag (`Y`) is seen, and not the data (`X`). Loads and stores
/// are relaxed here: what tells is a fence.
pub fn message_passing_by_fences() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), fence(Release), store(Y, 1, Relaxed)],
        vec![load(Y, Relaxed), fence(Acquire), load(X, Relaxed)],
    ])
}

/// Never 0, 0: neither thread sees what the other one has written.
pub fn store_buffering() -> Program {
    // Nobody reads from anybody in that outcome, so that no release can tell
    // anything. There has to be one order of all four.
    Program::new([
        vec![store(X, 1, SeqCst), load(Y, SeqCst)],
        vec![store(Y, 1, SeqCst), load(X, SeqCst)],
    ])
}

/// Never 0, 0: neither thread sees what the other one has written. Loads and
/// stores are relaxed here.
pub fn store_buffering_by_fences() -> Program {
    Program::new([
        vec![store(X, 1, Relaxed), fence(SeqCst), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), fence(SeqCst), load(X, Relaxed)],
    ])
}

/// Never 0 by both loads: neither thread sees what the other one has written.
/// Loads and stores are relaxed here: between the two steps both swap a third
/// word, `Z`.
pub fn meeting() -> Program {
    // Of two swaps one comes second, and reads what the first one wrote.
    Program::new([
        vec![store(X, 1, Relaxed), swap(Z, 1, AcqRel), load(Y, Relaxed)],
        vec![store(Y, 1, Relaxed), swap(Z, 1, AcqRel), load(X, Relaxed)],
    ])
}

/// Never 1, 0, 1, 0: two threads see two independent writes in opposite orders.
pub fn independent_reads() -> Program {
    // If each writer told each reader, they could still disagree: a release
    // speaks to one, and only `SeqCst` to all. It is the readers who must agree:
    // a load that misses a write comes before one that sees it.
    Program::new([
        vec![store(X, 1, Relaxed)],
        vec![store(Y, 1, Relaxed)],
        vec![load(X, SeqCst), load(Y, SeqCst)],
        vec![load(Y, SeqCst), load(X, SeqCst)],
    ])
}
