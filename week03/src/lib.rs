//! Week 3: start, stop and change a running process without losing anything.
//!
//! | Exercise | Question |
//! |----------|----------|
//! | [`group`] | One of several tasks fails. How do the others end with it? |
//! | [`limit`] | How do ten tasks run at a time, and none waits for ever? |
//! | [`drain`] | How does an HTTP server stop without losing a request? |
//! | [`signals`] | What does a process do at each signal, and what does its exit code say? |
//! | [`app`] | In which order do the parts of an application start and stop, whatever ends it? |
//! | [`litmus`] | What may one thread see of another, and what has to be written for that? |
//! | [`swap`] | When may a value be freed that others may be reading? |
//! | [`epoch`] | When may it be freed, if readers do not say what they read? |
//! | [`config`] | Settings change while each request reads them. Who sees which version? |
//! | [`reload`] | A file changes, in any way that files change. When is it read? |
//!
//! Given, to be read rather than written: [`plan`] has the words of [`app`], what
//! it starts and what it reports, and [`layers`] what [`config`] reads;
//! [`memory_model`] says which outcomes a few atomic operations may have, and
//! [`machine`] counts which ones they have here.

#![deny(unsafe_code)]

pub mod app;
pub mod config;
pub mod drain;
#[allow(unsafe_code, reason = "to reclaim memory is the exercise")]
pub mod epoch;
pub mod group;
pub mod layers;
pub mod limit;
pub mod litmus;
pub mod machine;
pub mod memory_model;
mod model_checked;
pub mod plan;
pub mod reload;
pub mod signals;
#[allow(unsafe_code, reason = "to reclaim memory is the exercise")]
pub mod swap;
