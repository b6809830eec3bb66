//! Max-min fairness: shares a quota so that small demands are satisfied first.
//!
//! *Question.* A quota of a thousand requests a second has many askers, and
//! together they want more. How is it shared so that an asker with a small
//! demand gets all of it, an asker that exaggerates gains nothing, and no unit
//! is granted twice or left over?
//!
//! *Idea.* **Water-filling.** Visit the demands in the order of `wanted /
//! weight`. As long as the next one fits under the **level**, which is the rest
//! of the capacity divided by the rest of the weights, grant all of it. Its
//! unused part raises the level for the others. From the first demand that does
//! not fit, the level stays, and each of the others gets `level × weight`.
//! Units cannot be divided: round all down, and then up by one where the
//! fraction is largest (the **largest remainder**).
//!
//! *Guarantee.* No grant exceeds its demand, and the grants add up to the
//! capacity, or to all that is wanted if that is less. Each grant is less than
//! one unit from the exact max-min share. A demand above its share gets the
//! same, however much more it asks for. All numbers are exact: a product of
//! 64-bit units and of the sum of 32-bit weights fits into 128 bits.
//!
//! *Cost.* `O(n log n)`. Rounding has a price: with different weights, one unit
//! of capacity more can lower a grant by one unit. The fairness is that of one
//! moment: an asker that wanted nothing for an hour has saved up nothing.
//!
//! ```
//! use std::num::NonZero;
//! use week05::max_min::{Demand, share, share_by_class};
//!
//! let demand = |wanted| Demand { wanted, weight: NonZero::<u32>::MIN };
//! let demands = [5, 22, 24, 33, 1_000].map(demand);
//! assert_eq!(share(100, &demands), [5, 22, 24, 25, 24]); // the level is 24.5
//!
//! // The demands of the first class come before all of the second.
//! let classes = [vec![demand(70), demand(10)], vec![demand(50); 2]];
//! assert_eq!(share_by_class(100, &classes), [[70, 10], [10, 10]]);
//! ```

use std::cmp::{Ordering, Reverse};
use std::num::NonZero;

/// The wish of one asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The largest grant that the asker can use, in units.
    pub wanted: u64,
    /// The asker's part of the capacity, relative to the other weights.
    pub weight: NonZero<u32>,
}

/// The units that are left for some demands, and the sum of their weights.
#[derive(Debug)]
struct Level {
    units: u128,
    weight: u128,
}

/// Returns the grant of each demand.
pub fn share(capacity: u64, demands: &[Demand]) -> Vec<u64> {
    let mut level = Level {
        units: capacity.into(),
        weight: demands.iter().map(Demand::weight).sum(),
    };
    let mut grants = vec![0; demands.len()];
    let mut order: Vec<usize> = (0..demands.len()).collect();
    order.sort_unstable_by(|&a, &b| demands[a].cmp_level(&demands[b]));

    let mut order = order.into_iter().peekable();
    while let Some(i) = order.next_if(|&i| level.satisfies(&demands[i])) {
        grants[i] = demands[i].wanted;
        level.units -= u128::from(demands[i].wanted);
        level.weight -= demands[i].weight();
    }

    // From here on the level is fixed: no demand is satisfied any more, and
    // each wants more than its share, so it can use a share that is rounded up.
    let mut units_left = level.units;
    let mut fractions = Vec::new();
    for i in order {
        let (units, fraction) = level.share_of(&demands[i]);
        grants[i] = units as u64; // At most the capacity.
        units_left -= units;
        fractions.push((Reverse(fraction), i));
    }
    // Each fraction is less than a unit, so there are more fractions than
    // units.
    fractions.sort_unstable();
    for (&(_, i), _) in fractions.iter().zip(0..units_left) {
        grants[i] += 1;
    }
    grants
}

/// Returns the grant of each demand of each class.
///
/// `classes` begins with the most important class. A class shares what the
/// classes before it have left.
pub fn share_by_class(
    mut capacity: u64,
    classes: &[Vec<Demand>],
) -> Vec<Vec<u64>> {
    let mut share_of_class = |demands: &Vec<Demand>| {
        let grants = share(capacity, demands);
        capacity -= grants.iter().sum::<u64>();
        grants
    };
    classes.iter().map(&mut share_of_class).collect()
}

impl Demand {
    fn weight(&self) -> u128 {
        self.weight.get().into()
    }

    /// Compares the levels at which the demands are satisfied, `wanted /
    /// weight`, without the rounding of a division.
    fn cmp_level(&self, other: &Self) -> Ordering {
        let left = u128::from(self.wanted) * other.weight();
        left.cmp(&(u128::from(other.wanted) * self.weight()))
    }
}

impl Level {
    fn satisfies(&self, demand: &Demand) -> bool {
        let wanted = u128::from(demand.wanted);
        wanted * self.weight <= self.units * demand.weight()
    }

    /// Returns the whole units of a share, and the rest of the division.
    fn share_of(&self, demand: &Demand) -> (u128, u128) {
        let share = self.units * demand.weight();
        (share / self.weight, share % self.weight)
    }
}
