//! The parts that a model checker replaces.
//!
//! Code that is model-checked takes its atomics, locks and tasks from here and
//! not from `std`, tokio or crossbeam-epoch. In a normal build each module
//! re-exports the real types. `tests/loom/` compiles the same source against a
//! folder of the same name, where `loom_*` modules have loom's types and
//! `shuttle_*` modules have shuttle's.
//!
//! [`group`](crate::group) needs none of these modules: in `tests/loom/`, the
//! names `tokio`, `tokio_util` and `std::sync` themselves mean shuttle's types.

pub(crate) mod loom_atomics;
pub(crate) mod loom_epoch;
pub(crate) mod shuttle_locks;
pub(crate) mod shuttle_tasks;
