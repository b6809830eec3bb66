//! `crate::model_checked`, with the types of loom and shuttle.

pub(crate) mod loom_atomics;
pub(crate) mod shuttle_tasks;
