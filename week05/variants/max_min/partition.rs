//! Variant: no sorting. It finds the level as quickselect finds a median.
//!
//! A pivot splits the open demands. If the pivot is satisfied once all demands
//! at or below its level are, these are granted, and the search goes on above
//! it. If not, then neither is any demand above it, and the search goes on
//! below. On average, this takes linear time. The remainder goes to the same
//! demands, which `select_nth_unstable` finds.

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

/// Returns the grant of each demand.
pub fn share(capacity: u64, demands: &[Demand]) -> Vec<u64> {
    let mut grants = vec![0; demands.len()];
    let mut open: Vec<usize> = (0..demands.len()).collect();
    let mut limited = Vec::new();
    let mut units = u128::from(capacity);
    let mut weight: u128 = demands.iter().map(|d| weight_of(*d)).sum();
    while !open.is_empty() {
        let pivot = demands[open[open.len() / 2]];
        let (low, high): (Vec<usize>, Vec<usize>) = open
            .iter()
            .partition(|&&i| compare(demands[i], pivot) != Ordering::Greater);
        let low_wanted: u128 =
            low.iter().map(|&i| u128::from(demands[i].wanted)).sum();
        let low_weight: u128 = low.iter().map(|&i| weight_of(demands[i])).sum();
        // The pivot is satisfied if what the low demands leave is enough to
        // raise all others to its level.
        let is_satisfied = units.checked_sub(low_wanted).is_some_and(|left| {
            left * weight_of(pivot)
                >= u128::from(pivot.wanted) * (weight - low_weight)
        });
        if is_satisfied {
            low.iter().for_each(|&i| grants[i] = demands[i].wanted);
            units -= low_wanted;
            weight -= low_weight;
            open = high;
        } else {
            limited.extend(high);
            let (below, at) = low
                .into_iter()
                .partition(|&i| compare(demands[i], pivot) == Ordering::Less);
            limited.extend::<Vec<_>>(at);
            open = below;
        }
    }

    let mut left = units;
    for &i in &limited {
        let whole = units * weight_of(demands[i]) / weight;
        grants[i] = whole as u64;
        left -= whole;
    }
    if left > 0 && !limited.is_empty() {
        let left = left as usize;
        limited.select_nth_unstable_by_key(left, |&i| {
            (Reverse(units * weight_of(demands[i]) % weight), i)
        });
        limited[..left].iter().for_each(|&i| grants[i] += 1);
    }
    grants
}

fn weight_of(demand: Demand) -> u128 {
    demand.weight.get().into()
}

fn compare(a: Demand, b: Demand) -> Ordering {
    let left = u128::from(a.wanted) * weight_of(b);
    left.cmp(&(u128::from(b.wanted) * weight_of(a)))
}

/// Returns the grant of each demand of each class.
///
/// `classes` begins with the most important class. A class shares what the
/// classes before it have left.
pub fn share_by_class(capacity: u64, classes: &[Vec<Demand>]) -> Vec<Vec<u64>> {
    let Some((first, others)) = classes.split_first() else {
        return Vec::new();
    };
    let mut grants = vec![share(capacity, first)];
    let used: u64 = grants[0].iter().sum();
    grants.extend(share_by_class(capacity - used, others));
    grants
}
