//! Does nothing. Without it, cargo ignores the build dependencies.

fn main() {}
