//! Max-min fairness: shares a quota so that small demands are satisfied first.
//! Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - `share` returns one grant for each demand, in the order of the demands. No
//!   grant is more than `wanted`.
//! - The grants add up to the capacity. If all demands together want less than
//!   the capacity, each gets what it wants.
//! - The *exact share* of a demand is a fraction: `wanted`, or `level ×
//!   weight` if that is less. The level is one number for all demands, and such
//!   that the exact shares add up to the capacity. So capacity that a small
//!   demand does not use raises the level for the others, as often as
//!   necessary. If all weights are 1 and the capacity is 100, the demands 5,
//!   22, 24, 33 and 1,000 have the level 24.5.
//! - A grant is the exact share, rounded down or up. All shares are rounded
//!   down first. The units that this leaves over go to the demands with the
//!   largest fractions, one to each. Of equal fractions, the earlier demand is
//!   served first. In the example, the grants are 5, 22, 24, 25, 24.
//! - So a demand above its exact share gains nothing if it asks for more: no grant
//!   changes.
//! - `capacity` and `wanted` are any `u64`, and all grants are exact. The sum
//!   of all that is wanted may be larger than `u64::MAX`. There may be no
//!   demands, and there are fewer than 2³².
//! - `share_by_class` does the same for classes of demands, the most important
//!   class first. Each class shares the capacity that the classes before it
//!   have not used. There is one list of grants for each class, also for a
//!   class without demands.
//! - The time of both is `O(n log n)`, whatever the demands are: 100,000 demands
//!   take less than three seconds in a debug build, in one class or in 10,000.

use std::num::NonZero;

/// The wish of one asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The largest grant that the asker can use, in units.
    pub wanted: u64,
    /// The asker's part of the capacity, relative to the other weights.
    pub weight: NonZero<u32>,
}

/// Returns the grant of each demand.
pub fn share(_capacity: u64, _demands: &[Demand]) -> Vec<u64> {
    todo!("which demand can be decided first, and what does it leave?")
}

/// Returns the grant of each demand of each class.
///
/// `classes` begins with the most important class. A class shares what the
/// classes before it have left.
pub fn share_by_class(
    _capacity: u64,
    _classes: &[Vec<Demand>],
) -> Vec<Vec<u64>> {
    todo!("how much is left for the next class?")
}
