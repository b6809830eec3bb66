//! Week 8: caches by the byte, ids, and money that is never lost.
//!
//! | Exercise | Topic | Question |
//! |----------|-------|----------|

#![forbid(unsafe_code)]

mod model_checked;
