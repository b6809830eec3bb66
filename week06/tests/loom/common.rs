//! Runs models under shuttle.

pub(crate) use lab_models::shuffle;
