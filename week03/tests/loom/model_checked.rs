//! `crate::model_checked`, with the types of the model checkers.

pub(crate) mod loom_atomics;
pub(crate) mod loom_epoch;
pub(crate) mod shuttle_locks;
pub(crate) mod shuttle_tasks;
