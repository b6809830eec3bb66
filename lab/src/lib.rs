//! What tests, examples and benches share.
