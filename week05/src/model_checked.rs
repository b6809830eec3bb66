//! The parts that a model checker replaces.
//!
//! Code that is model-checked takes its atomics and locks from here and not from
//! `std`. In a normal build each module re-exports the real types. `tests/loom/`
//! compiles the same source against a folder of the same name, where `loom_*`
//! modules have loom's types.

pub(crate) mod loom_atomics;
