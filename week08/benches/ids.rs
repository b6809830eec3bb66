//! The cost of an id, against ferroid and snowflaked.

fn main() {}
