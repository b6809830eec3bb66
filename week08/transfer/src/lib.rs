//! The real parts of transfers between services.
//!
//! The exercises of week 8 are pure: functions in a local transaction, and
//! state machines. This package performs their effects on real databases.
//!
//! | Module | What it does |
//! |--------|--------------|
//! | [`sql`] | A service's database: SQLite or Postgres |
//! | [`tail`] | Publishes the outbox from the log of Postgres |
//!
//! The program `transfer` runs the services as processes, and kills them.

#![forbid(unsafe_code)]

pub mod sql;
pub mod tail;
