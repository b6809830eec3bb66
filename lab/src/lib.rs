//! What tests, examples and benches share.
//!
//! | Module | For |
//! |--------|-----|
//! | [`servers`] | a real server of one's own, for as long as a test runs |
//! | [`ratio`] | how much slower one thing is than another |
//! | [`guess`] | what the reader of an example expects |

#![forbid(unsafe_code)]

pub mod guess;
pub mod ratio;
#[cfg(unix)]
pub mod servers;
