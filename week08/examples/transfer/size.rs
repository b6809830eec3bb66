//! The size of a run. A test of 100,000 random runs has the same, so that the
//! example can show each of them.

use week08::money::cluster::Faults;

/// The transfers of 1, 10, 100, … cents.
pub(crate) const TRANSFERS: u32 = 5;

pub(crate) const FAULTS: Faults =
    Faults { crashes: 5, repeats: 4, losses: 3, failures: 4 };

/// The balance of the payment service at the beginning.
pub(crate) const BALANCE: i64 = 1_000_000;

/// How often a client sends a request that is not answered.
pub(crate) const ATTEMPTS: u32 = 9;

/// How often the broker of half messages asks.
pub(crate) const MAX_CHECKS: u32 = 9;

/// The most actions of a run: a longer one would never end.
pub(crate) const MAX_ACTIONS: usize = 10_000;
