//! The terminal: text for a person.
//!
//! | Module | |
//! |--------|-|
//! | [`report`] | A grade as text, rung by rung. |
//! | [`screen`] | The whole terminal, in raw mode, for `watch`. |
//! | [`status`] | A line that shows how far a build is. |
//! | [`style`] | Colours, line breaks, links. |

pub(crate) mod report;
pub(crate) mod screen;
pub(crate) mod status;
pub(crate) mod style;
