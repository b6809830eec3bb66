//! The state of the reader: progress, current exercise, language.
//!
//! | Module | |
//! |--------|-|
//! | [`progress`] | The results so far, in `attempts/progress.txt`. |
//! | [`current`] | The current exercise and the next one. |
//! | [`language`] | The language of the questions. |

pub(crate) mod current;
pub(crate) mod language;
pub(crate) mod progress;
