//! The parts that a model checker replaces.

mod loom_atomics;
