//! Output for a person, in a terminal or a pipe.
//!
//! | Module | |
//! |--------|-|
//! | [`report`] | A grade as text, rung by rung. |
//! | [`fullscreen`] | Full-screen mode, for `watch`. |
//! | [`status`] | The current step of a build or a check. |
//! | [`style`] | Colours, line breaks, links. |

pub(crate) mod fullscreen;
pub(crate) mod report;
pub(crate) mod status;
pub(crate) mod style;
