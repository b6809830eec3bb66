//! Enables features of dependencies. See `Cargo.toml`.
