//! Shared code of tests, examples and benches.
//!
//! | Module | Purpose |
//! |--------|---------|
//! | [`servers`] | Starts a real server for one test, and removes it afterwards. |
//! | [`ratio`] | Measures how much slower one function is than another. |
//! | [`alloc`] | Counts the memory that each thread allocates. |
//! | [`cancel`] | Drops a future at each of its awaits. |
//! | `load` | Sends requests at a fixed rate, and measures the answers. |
//! | [`guess`] | Asks the reader of an example for a guess. |

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "`GlobalAlloc` is an unsafe trait")]
pub mod alloc;
pub mod cancel;
pub mod guess;
#[cfg(feature = "load")]
pub mod load;
pub mod ratio;
#[cfg(unix)]
pub mod servers;
