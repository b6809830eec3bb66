//! Grading: from the file of an attempt to a verdict on each property.
//!
//! | Module | |
//! |--------|-|
//! | [`grade`] | One subject, from its text to its rungs. |
//! | [`compile`] | Builds the grader against the subject. |
//! | [`properties`] | Runs every test of the grader, several at a time. |
//! | [`run`] | Runs one test in a process of its own, and reads its outcome. |
//! | [`process`] | Child processes in groups, which end at a deadline. |
//! | [`lock`] | One command at a time. |

pub(crate) mod compile;
pub(crate) mod grade;
pub(crate) mod lock;
pub(crate) mod process;
pub(crate) mod properties;
pub(crate) mod run;
