//! The graders of week 5: each test checks one rule of an exercise.

mod gcra;
mod sre_breaker;
mod window;
