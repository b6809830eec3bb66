//! What a reader types, one module a word.

pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod hint;
pub(crate) mod map;
pub(crate) mod path;
pub(crate) mod reset;
pub(crate) mod start;
