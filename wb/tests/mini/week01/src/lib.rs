//! A week as small as a week can be: [`backoff`] and [`pause`].

pub mod backoff;
pub mod pause;

mod model_checked;
