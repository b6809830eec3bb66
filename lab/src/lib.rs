//! Shared code of tests, examples and benches.
//!
//! | Module | Purpose |
//! |--------|---------|
//! | [`servers`] | Starts a real server for one test, and removes it afterwards. |
//! | [`ratio`] | Measures how much slower one function is than another. |
//! | [`cancel`] | Drops a future at each of its awaits. |
//! | `load` | Sends requests at a fixed rate, and measures the answers. |
//! | [`guess`] | Asks the reader of an example for a guess. |

#![forbid(unsafe_code)]

pub mod cancel;
pub mod guess;
#[cfg(feature = "load")]
pub mod load;
pub mod ratio;
#[cfg(unix)]
pub mod servers;
