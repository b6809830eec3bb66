//! The cost of a record, against heavykeeper.

fn main() {}
