//! The reader's state, which is kept in `attempts/progress.txt`.
//!
//! | Module | |
//! |--------|-|
//! | [`progress`] | Which exercises have passed, and with which text. |
//! | [`current`] | The exercise that the reader is at, and the next one. |

pub(crate) mod current;
pub(crate) mod progress;
