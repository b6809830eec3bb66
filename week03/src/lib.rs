//! Week 3: start, stop and change a running process without losing anything.
//!
//! | Exercise | Question |
//! |----------|----------|
//! | [`group`] | One of several tasks fails. How do the others end with it? |
//! | [`drain`] | How does an HTTP server stop without losing a request? |
//! | [`signals`] | What does a process do at each signal, and what does its exit code say? |
//! | [`app`] | In which order do the parts of an application start and stop, whatever ends it? |
//!
//! [`plan`] has the words of [`app`]: what it starts, and what it reports.

#![forbid(unsafe_code)]

pub mod app;
pub mod drain;
pub mod group;
pub mod plan;
pub mod signals;
