use std::cmp::Reverse;
use std::num::NonZero;
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{
    Config as Cases, RngAlgorithm, TestRng, TestRunner,
};
use week05::max_min::{Demand, share, share_by_class};

const SIZES: [usize; 8] = [0, 1, 2, 3, 5, 17, 130, 1_500];
/// Generated capacities and demands of many sizes.
static INPUTS: LazyLock<Vec<(u64, Vec<Demand>)>> = LazyLock::new(generate);

mod bounds {
    use super::*;

    #[test]
    fn no_grant_exceeds_its_demand() {
        for (capacity, demands) in INPUTS.clone() {
            let grants = share(capacity, &demands);
            for (Demand { wanted, .. }, grant) in demands.iter().zip(&grants) {
                assert!(
                    grant <= wanted,
                    "expected: at most {wanted}; seen: {grant}, of {capacity}"
                );
            }
        }
    }

    #[test]
    fn the_grants_add_up_to_the_capacity_or_to_all_demands() {
        for (capacity, demands) in INPUTS.clone() {
            let granted = sum(&share(capacity, &demands));
            let expected = wanted(&demands).min(capacity.into());
            assert_eq!(
                granted, expected,
                "granted: seen (left), expected (right), of {capacity}"
            );
        }
    }

    #[test]
    fn a_sufficient_capacity_satisfies_every_demand() {
        for (_, demands) in INPUTS.clone() {
            let Ok(capacity) = u64::try_from(wanted(&demands)) else {
                continue;
            };
            let wanted: Vec<_> = demands.iter().map(|d| d.wanted).collect();
            for capacity in [capacity, capacity.saturating_add(1), u64::MAX] {
                check(capacity, &demands, &wanted);
            }
        }
    }
}

mod equal_weights {
    use super::*;

    #[test]
    fn capacity_that_small_demands_leave_raises_the_level_for_the_others() {
        let demands = [5, 22, 24, 33, 1_000].map(|wanted| demand(wanted, 1));
        check(100, &demands, &[5, 22, 24, 25, 24]);
        [3, 5, 17, 20].iter().for_each(|n| check_one_by_one(&vec![1; *n]));
    }

    #[test]
    fn small_demands_get_the_same_as_with_a_distribution_unit_by_unit() {
        let choices: Vec<_> = (0..=6).map(|wanted| demand(wanted, 1)).collect();
        for demands in lists(4, &choices) {
            for capacity in 0..26 {
                let expected = unit_by_unit(capacity, &demands);
                check(capacity, &demands, &expected);
            }
        }
    }

    #[test]
    fn equal_demands_differ_by_one_unit_at_most_in_favour_of_earlier_ones() {
        for n in SIZES.into_iter().filter(|n| *n > 0) {
            for weight in [1, 2, 7, u32::MAX] {
                let demands = vec![demand(u64::MAX, weight); n];
                let n = n as u64;
                for capacity in [0, 1, n - 1, n, n + 1, 7 * n / 2, u64::MAX] {
                    let extra = |i| u64::from(i < capacity % n);
                    let expected: Vec<_> =
                        (0..n).map(|i| capacity / n + extra(i)).collect();
                    check(capacity, &demands, &expected);
                }
            }
        }
    }
}

mod weights {
    use super::*;

    #[test]
    fn small_weighted_demands_get_their_exact_share() {
        let choices = [0, 1, 2, 3, 5].map(|n| [1, 2, 3].map(|w| demand(n, w)));
        for demands in lists(3, choices.as_flattened()) {
            for capacity in 0..16 {
                check_model(capacity, &demands);
            }
        }
    }

    #[test]
    fn grants_are_exact_for_any_capacity_demands_and_weights() {
        for (capacity, demands) in INPUTS.clone() {
            check_model(capacity, &demands);
        }
        for (capacity, mut demands) in INPUTS.clone() {
            demands.iter_mut().for_each(|d| d.weight = NonZero::<u32>::MIN);
            check_model(capacity, &demands);
        }
        let weights = (0..48).rev().map(|i| 1.6_f64.powi(i) as u128);
        check_one_by_one(&weights.collect::<Vec<_>>());
    }

    #[test]
    fn units_left_over_go_to_the_largest_fractions_and_then_by_order() {
        check(7, &[1, 2, 4].map(|w| demand(9, w)), &[1, 2, 4]);
        check(8, &[1, 2, 4].map(|w| demand(9, w)), &[1, 2, 5]);
        check(3, &[3, 3, 1].map(|w| demand(9, w)), &[1, 1, 1]);
        check(4, &[3, 3, 1].map(|w| demand(9, w)), &[2, 2, 0]);
        check(5, &[1, 3, 1, 3].map(|w| demand(9, w)), &[1, 2, 0, 2]);
        for (capacity, mut demands) in INPUTS.clone() {
            for d in &mut demands {
                *d = demand(u64::MAX, 1 + d.weight.get() % 4);
            }
            check_model(capacity, &demands);
        }
    }

    #[test]
    fn a_limited_demand_that_asks_for_more_changes_no_grant() {
        for (capacity, mut demands) in INPUTS.clone() {
            let before = share(capacity, &demands);
            for more in [1, 1_000, u64::MAX] {
                for (demand, grant) in demands.iter_mut().zip(&before) {
                    let more = if demand.wanted > *grant { more } else { 0 };
                    demand.wanted = demand.wanted.saturating_add(more);
                }
                check(capacity, &demands, &before);
            }
        }
    }
}

mod classes {
    use super::*;

    #[test]
    fn a_class_shares_what_more_important_classes_leave() {
        for group in INPUTS.chunks(5) {
            let classes: Vec<_> = group.iter().map(|i| i.1.clone()).collect();
            let all: u128 = classes.iter().map(|d| wanted(d)).sum();
            let half = u64::try_from(all / 2).unwrap_or(u64::MAX);
            for capacity in [group[0].0, half] {
                check_classes(capacity, &classes);
            }
        }
    }

    #[test]
    fn every_class_has_a_list_of_grants_even_if_it_has_no_demands() {
        for n in SIZES {
            check_classes(100, &vec![vec![]; n]);
            let mut classes = vec![vec![demand(30, 1); 2]; n];
            classes.insert(0, vec![]);
            classes.insert(n / 2, vec![demand(0, 1)]);
            classes.push(vec![]);
            check_classes(70, &classes);
            check_classes(0, &classes);
        }
    }

    #[test]
    fn a_hundred_thousand_demands_get_exact_shares_in_three_seconds() {
        let kinds: [fn(u64) -> Demand; 3] = [
            |i| demand(i * 7_907 % 100_003, 1 + i as u32 * 42_000),
            |i| demand(i, u32::MAX - i as u32),
            |_| demand(7, 1),
        ];
        for kind in kinds {
            let demands: Vec<_> = (0..100_000).map(kind).collect();
            let capacity = wanted(&demands) as u64 / 5 * 2;
            let expected = model(capacity, &demands);
            in_time(move || check(capacity, &demands, &expected));
        }
        let classes = vec![vec![demand(7, 1); 10]; 10_000];
        in_time(move || check_classes(350_000, &classes));
    }
}

fn demand(wanted: u64, weight: u32) -> Demand {
    Demand { wanted, weight: NonZero::new(weight).unwrap() }
}

fn sum(numbers: &[u64]) -> u128 {
    numbers.iter().copied().map(u128::from).sum()
}

fn wanted(demands: &[Demand]) -> u128 {
    demands.iter().map(|d| u128::from(d.wanted)).sum()
}

fn generate() -> Vec<(u64, Vec<Demand>)> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Cases::default(), rng);
    let mut random = |(from, to): (u64, u64)| {
        (from..=to).new_tree(&mut runner).unwrap().current()
    };
    let (max, top) = (u64::MAX, u32::MAX.into());
    let inexact = (1 << 53, (1 << 53) + 8); // In an `f64`.
    let low = [(0, 1), (0, 3), (0, 20), (0, 999)];
    let wanted_of = [low, [inexact, inexact, (max - 10, max), (0, max)]];
    let weight_of = [(1, 1), (1, 4), (1, top), (top - 8, top)];
    let input = |i: u64| {
        // The numbers of a list are from one range, or from two.
        let ranges = [(); 2].map(|()| {
            let wanted = wanted_of.as_flattened()[random((0, 7)) as usize];
            (wanted, weight_of[random((0, 3)) as usize])
        });
        let one = |_| {
            let (wanted, weight) = ranges[random((0, i / 8 % 2)) as usize];
            demand(random(wanted), random(weight) as u32)
        };
        let demands: Vec<_> = (0..SIZES[i as usize % 8]).map(one).collect();
        let all = wanted(&demands);
        let below = u128::from(random((0, 4 * demands.len() as u64)));
        let capacity = match i / 16 % 6 {
            0 => random((0, 20)).into(),
            1 => random((0, max)).into(),
            2 => max.into(),
            3 => (all + 1).saturating_sub(below % 4),
            4 => all.saturating_sub(below),
            _ => all * u128::from(random((0, 1_000))) / 1_000,
        };
        (u64::try_from(capacity).unwrap_or(max), demands)
    };
    (0..400).map(input).collect()
}

/// Returns all lists of up to `max` of the choices.
fn lists(max: u32, choices: &[Demand]) -> Vec<Vec<Demand>> {
    let n = choices.len();
    let choice = |i: usize, place| choices[i / n.pow(place) % n];
    let list = |len, i| (0..len).map(|place| choice(i, place)).collect();
    let lists = |len| (0..n.pow(len)).map(move |i| list(len, i));
    (0..=max).flat_map(lists).collect()
}

/// Each demand is above the level that all before the previous one leave.
fn check_one_by_one(weights: &[u128]) {
    let (mut before, mut level) =
        ((0, 1), (u64::MAX.into(), weights.iter().sum()));
    let one = |weight: &u128| {
        let wanted: u128 = before.0 * weight / before.1 + 1;
        before = level;
        level = (level.0.saturating_sub(wanted), level.1 - weight);
        demand(u64::try_from(wanted).unwrap_or(u64::MAX), *weight as u32)
    };
    let mut demands: Vec<_> = weights.iter().map(one).collect();
    check_model(u64::MAX, &demands);
    demands.reverse();
    check_model(u64::MAX, &demands);
}

fn in_time<T: Send + 'static>(check: impl FnOnce() -> T + Send + 'static) {
    let (done, result) = mpsc::channel();
    let deep = thread::Builder::new().stack_size(1 << 26); // For recursion.
    deep.spawn(move || done.send(check())).unwrap();
    let result = result.recv_timeout(Duration::from_secs(3));
    result.expect("expected: exact shares within three seconds");
}

/// Gives each unit to the smallest grant that is less than its demand.
fn unit_by_unit(capacity: u64, demands: &[Demand]) -> Vec<u64> {
    let mut grants = vec![0; demands.len()];
    for _ in 0..capacity {
        let open =
            (0..grants.len()).filter(|i| grants[*i] < demands[*i].wanted);
        let Some(next) = open.min_by_key(|i| grants[*i]) else { break };
        grants[next] += 1;
    }
    grants
}

/// Satisfies demands in rounds, until a round satisfies none.
fn model(capacity: u64, demands: &[Demand]) -> Vec<u64> {
    let mut grants: Vec<_> = demands.iter().map(|d| d.wanted).collect();
    let mut open: Vec<usize> = (0..demands.len()).collect();
    let weight = |i: &usize| u128::from(demands[*i].weight.get());
    let (mut units, mut weights) = (u128::from(capacity), u128::MAX);
    while weights != open.iter().map(weight).sum() {
        weights = open.iter().map(weight).sum();
        let level = (units, weights);
        open.retain(|i| {
            let wanted = u128::from(demands[*i].wanted);
            let is_limited = wanted * level.1 > level.0 * weight(i);
            units -= if is_limited { 0 } else { wanted };
            is_limited
        });
    }
    let mut left = units;
    for i in &open {
        left -= units * weight(i) / weights;
        grants[*i] = (units * weight(i) / weights) as u64;
    }
    open.sort_by_key(|i| Reverse(units * weight(i) % weights));
    open.iter().zip(0..left).for_each(|(i, _)| grants[*i] += 1);
    grants
}

fn check(capacity: u64, demands: &[Demand], expected: &[u64]) {
    compare(capacity, demands, &share(capacity, demands), expected);
}

fn check_model(capacity: u64, demands: &[Demand]) {
    check(capacity, demands, &model(capacity, demands));
}

fn check_classes(mut capacity: u64, classes: &[Vec<Demand>]) {
    let grants = share_by_class(capacity, classes);
    let lists = grants.len();
    assert_eq!(lists, classes.len(), "lists: seen (left), expected (right)");
    for (demands, grants) in classes.iter().zip(&grants) {
        let expected = model(capacity, demands);
        compare(capacity, demands, grants, &expected);
        capacity -= expected.iter().sum::<u64>();
    }
}

fn compare(capacity: u64, demands: &[Demand], seen: &[u64], expected: &[u64]) {
    if seen == expected {
        return;
    }
    let differ = |i: &usize| seen.get(*i) != expected.get(*i);
    let i = (0..demands.len()).find(differ).unwrap_or(demands.len());
    let (expected, seen) = (expected.get(i), seen.get(i));
    let (n, first) = (demands.len(), &demands[..demands.len().min(5)]);
    panic!(
        "expected: demand {i} gets {expected:?}; seen: {seen:?}. The capacity \
         is {capacity}, and the first of {n} demands are {first:?}"
    );
}
