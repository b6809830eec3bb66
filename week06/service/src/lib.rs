//! The comment service that survives a celebrity.

#![forbid(unsafe_code)]
