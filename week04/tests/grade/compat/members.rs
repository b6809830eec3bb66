//! A model of the rules for numbers and names.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::test_runner::{
    Config, RngAlgorithm, TestError, TestRng, TestRunner,
};
use week04::contract::Breaks::{Json, Wire};
use week04::contract::Change::{Removed, Renamed, Renumbered, Unreserved};

use super::contracts::{Found, breaks};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const NUMBERS: [i32; 6] = [1, 2, 3, 4, 130, 1500];

/// Fields or enum values, and reserved numbers and names.
#[derive(Debug)]
pub(super) struct Members {
    members: BTreeMap<&'static str, i32>,
    numbers: BTreeSet<i32>,
    names: BTreeSet<&'static str>,
}

impl Members {
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let names = || subsequence(&NAMES, 0..=6);
        let reserved = (subsequence(&NUMBERS, 0..=6), names());
        let numbers = Just(NUMBERS).prop_shuffle();
        (names(), numbers, reserved).prop_map(|(names, numbers, reserved)| {
            let members = names.into_iter().zip(numbers).collect();
            let (numbers, names) = reserved;
            let mut all = Self {
                members,
                numbers: numbers.into_iter().collect(),
                names: names.into_iter().collect(),
            };
            for (name, number) in &all.members {
                all.names.remove(name);
                all.numbers.remove(number);
            }
            all
        })
    }

    pub(super) fn text(&self, start: &str, kind: &str) -> String {
        let members = self.members.iter();
        let members =
            members.map(|(name, number)| format!("{kind} {name} = {number}"));
        let numbers =
            self.numbers.iter().map(|each| format!("reserved {each}"));
        let names =
            self.names.iter().map(|each| format!("reserved \"{each}\""));
        let all: Vec<_> = members.chain(numbers).chain(names).collect();
        format!("{start} {}; }}", all.join("; "))
    }

    pub(super) fn breaks(
        &self,
        new: &Self,
        element: &str,
        scope: &str,
    ) -> Vec<Found> {
        let wire = !self.numbers.is_subset(&new.numbers);
        let json = !self.names.is_subset(&new.names);
        let unreserved = breaks(wire, json);
        let mut all: Vec<_> = unreserved
            .map(|breaks| (element.to_owned(), Unreserved, breaks))
            .into_iter()
            .collect();
        for (name, number) in &self.members {
            let found = match new.members.get(name) {
                Some(now) if now == number => None,
                Some(_) => Some((Renumbered, Wire)),
                None if new.members.values().any(|each| each == number) => {
                    Some((Renamed, Json))
                }
                None => {
                    let wire = !new.numbers.contains(number);
                    let json = !new.names.contains(name);
                    breaks(wire, json).map(|breaks| (Removed, breaks))
                }
            };
            let element = format!("{scope}{name}");
            all.extend(found.map(|(change, breaks)| (element, change, breaks)));
        }
        all
    }
}

/// Runs `test` with `cases` generated values, the same in each run. Panics with
/// the error of the smallest value that fails.
pub(super) fn check<S: Strategy>(
    cases: u32,
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), String>,
) {
    let config =
        Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    match runner
        .run(&strategy, |value| test(value).map_err(TestCaseError::fail))
    {
        Err(TestError::Fail(error, _)) => panic!("{error}"),
        Err(error) => panic!("{error}"),
        Ok(()) => {}
    }
}
