//! Grading: from the file of an attempt to a verdict on each property.
//!
//! | Module | |
//! |--------|-|
//! | [`grade`] | Grades one subject: its rungs and its outcome. |
//! | [`compile`] | Builds the grader with the subject. |
//! | [`properties`] | Runs all tests of the grader, several at a time. |
//! | [`run`] | Runs one test in a process of its own, and returns its verdict. |
//! | [`process`] | Child processes in groups, with deadlines. |
//! | [`lock`] | File locks, so that one command grades at a time. |

pub(crate) mod compile;
pub(crate) mod grade;
pub(crate) mod lock;
pub(crate) mod process;
pub(crate) mod properties;
pub(crate) mod run;
