//! The same programs, built from slices of `Op` values. One helper builds the
//! three store-buffering programs. Load buffering takes the pair on `Y`.

use std::sync::atomic::Ordering::{
    self, AcqRel, Acquire, Relaxed, Release, SeqCst,
};

use crate::memory_model::{Op, Program};

const X: usize = 0;
const Y: usize = 1;
const Z: usize = 2;

fn program(threads: &[&[Op]]) -> Program {
    Program { threads: threads.iter().map(|ops| ops.to_vec()).collect() }
}

fn w(at: usize, value: u8, ordering: Ordering) -> Op {
    Op::Store { at, value, ordering }
}

fn r(at: usize, ordering: Ordering) -> Op {
    Op::Load { at, ordering }
}

fn s(at: usize, value: u8, ordering: Ordering) -> Op {
    Op::Swap { at, value, ordering }
}

fn f(ordering: Ordering) -> Op {
    Op::Fence { ordering }
}

pub fn coherence() -> Program {
    let read = r(X, Relaxed);
    program(&[&[w(X, 1, Relaxed), w(X, 2, Relaxed)], &[read, read]])
}

pub fn message_passing() -> Program {
    program(&[
        &[w(X, 1, Relaxed), w(Y, 1, Release)],
        &[r(Y, Acquire), r(X, Relaxed)],
    ])
}

pub fn load_buffering() -> Program {
    program(&[
        &[r(X, Relaxed), w(Y, 1, Release)],
        &[r(Y, Acquire), w(X, 1, Relaxed)],
    ])
}

pub fn relay() -> Program {
    program(&[
        &[w(X, 1, Relaxed), w(Y, 1, Release)],
        &[r(Y, Acquire), w(Z, 1, Release)],
        &[r(Z, Acquire), r(X, Relaxed)],
    ])
}

pub fn release_sequence() -> Program {
    program(&[
        &[w(X, 1, Relaxed), w(Y, 1, Release)],
        &[s(Y, 2, Relaxed)],
        &[r(Y, Acquire), r(X, Relaxed)],
    ])
}

pub fn message_passing_by_fences() -> Program {
    program(&[
        &[w(X, 1, Relaxed), f(Release), w(Y, 1, Relaxed)],
        &[r(Y, Relaxed), f(Acquire), r(X, Relaxed)],
    ])
}

/// Two threads: each stores to one variable and loads the other, with the
/// operations `between` in the middle.
fn symmetric(ordering: Ordering, between: &[Op]) -> Program {
    let thread = |own, other| {
        let (write, read) = (w(own, 1, ordering), r(other, ordering));
        [&[write], between, &[read]].concat()
    };
    Program::new([thread(X, Y), thread(Y, X)])
}

pub fn store_buffering() -> Program {
    symmetric(SeqCst, &[])
}

pub fn store_buffering_by_fences() -> Program {
    symmetric(Relaxed, &[f(SeqCst)])
}

pub fn store_buffering_by_swaps() -> Program {
    symmetric(Relaxed, &[s(Z, 1, AcqRel)])
}

pub fn independent_reads() -> Program {
    let read = |at| r(at, SeqCst);
    program(&[
        &[w(X, 1, Relaxed)],
        &[w(Y, 1, Relaxed)],
        &[read(X), read(Y)],
        &[read(Y), read(X)],
    ])
}
