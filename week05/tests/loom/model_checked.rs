//! `crate::model_checked`, with the types of loom.

pub(crate) mod loom_atomics;
