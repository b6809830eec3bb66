//! The graders of week 5: each test checks one rule of an exercise.

mod bulkhead;
mod criticality;
mod deadline;
mod gcra;
mod gutter;
mod max_min;
mod mobile;
mod quota;
mod retry;
mod sre_breaker;
mod striped;
mod window;
