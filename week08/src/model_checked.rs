//! The parts that a model checker replaces.
//!
//! Code that is model-checked takes its atomics, locks and tasks from here and
//! not from `std` or tokio. In a normal build each module re-exports the real
//! types. `tests/loom/` compiles the same source against a folder of the same
//! name, where `loom_*` modules have loom's types and `shuttle_*` modules have
//! shuttle's.

pub(crate) mod loom_atomics;
pub(crate) mod shuttle_tasks;
