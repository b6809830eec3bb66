//! Runs models under loom.

pub(crate) use lab_models::explore;
