//! The graders of week 2: each test checks one rule of an exercise.

mod common;

mod classify;
mod context;
mod no_rows;
mod report;

/// The texts of the subjects, for graders that read them.
mod sources {
    pub(crate) const CONTEXT: &str = include_str!("../../src/context.rs");
}
