//! The state of the reader: progress and current exercise.
//!
//! | Module | |
//! |--------|-|
//! | [`progress`] | The results so far, in `attempts/progress.txt`. |
//! | [`current`] | The current exercise and the next one. |

pub(crate) mod current;
pub(crate) mod progress;
