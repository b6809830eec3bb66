//! Week 3: start, stop and change a running process without losing anything.
//!
//! | Exercise | Question |
//! |----------|----------|
//! | [`group`] | One of several tasks fails. How do the others end with it? |

#![forbid(unsafe_code)]

pub mod group;
