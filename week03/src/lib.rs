//! Week 3: start, stop and change a running process without losing anything.
//!
//! | Exercise | Question |
//! |----------|----------|
//! | [`group`] | One of several tasks fails. How do the others end with it? |
//! | [`drain`] | How does an HTTP server stop without losing a request? |
//! | [`signals`] | What does a process do at each signal, and what does its exit code say? |
//! | [`config`] | Settings change while each request reads them. Who sees which version? |
//! | [`reload`] | A file changes, in any way that files change. When is it read? |

#![forbid(unsafe_code)]

pub mod config;
pub mod drain;
pub mod group;
pub mod layers;
pub mod reload;
pub mod signals;
