//! The subcommands, one module each.

pub(crate) mod check;
pub(crate) mod compare;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod grade;
pub(crate) mod hint;
pub(crate) mod map;
pub(crate) mod notes;
pub(crate) mod path;
pub(crate) mod prepare;
pub(crate) mod reset;
pub(crate) mod start;
