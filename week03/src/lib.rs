//! Week 3: start, stop and change a running process without losing anything.
//!
//! | Exercise | Topic | Question |
//! |----------|-------|----------|
//! | [`group`] | Error group: tasks that fail as one | One of several tasks fails. How are the others cancelled and awaited? |
//! | [`limit`] | Concurrency limit for a task group | How does a group run at most ten tasks at a time, without a deadlock? |
//! | [`drain`] | Graceful shutdown of an HTTP server | How does an HTTP server stop without losing a request? |
//! | [`signals`] | Signal handling and exit codes | What does a process do at each signal, and what does its exit code mean? |
//! | [`app`] | Application lifecycle and shutdown | In which order do the parts of an application start and stop, even if one of them fails? |
//! | [`litmus`] | Memory model: litmus tests | Which writes of one thread may another thread see, and which memory orderings does that need? |
//! | [`swap`] | Hazard pointers: lock-free reads | When may a value be freed that other threads may still be reading? |
//! | [`epoch`] | Epoch-based reclamation | When may a value be freed if readers do not announce which value they read? |
//! | [`config`] | Copy-on-write configuration | Settings change while requests read them. How does each request see exactly one version? |
//! | [`reload`] | Hot reload: watch a config file | A file can change in many ways. When does a process read it again? |
//!
//! The other modules are given:
//!
//! | Module | Content |
//! |--------|---------|
//! | [`plan`] | The types of [`app`]: the plan of an application, and the report of its shutdown. |
//! | [`payload`] | The payload of a caught panic, which can be dropped safely. |
//! | [`layers`] | The layers that [`config`] reads. |
//! | [`memory_model`] | Computes the outcomes that the memory model allows for a few atomic operations. |
//! | [`machine`] | Counts the outcomes of the same operations on this machine. |

#![deny(unsafe_code)]

pub mod app;
pub mod config;
pub mod drain;
#[allow(unsafe_code, reason = "the exercise reclaims memory")]
pub mod epoch;
pub mod group;
pub mod layers;
pub mod limit;
pub mod litmus;
pub mod machine;
pub mod memory_model;
mod model_checked;
pub mod payload;
pub mod plan;
pub mod reload;
pub mod signals;
#[allow(unsafe_code, reason = "the exercise reclaims memory")]
pub mod swap;
