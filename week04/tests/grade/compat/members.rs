//! Generates two versions of a message or an enum, and has a model of the rules
//! for them.

use std::collections::BTreeSet;
use std::fmt::Debug;

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::{Strategy, TestCaseError};
use proptest::sample::select;
use proptest::test_runner::{
    Config, RngAlgorithm, TestError, TestRng, TestRunner,
};
use week04::contract::Breaks::{self, Json, Wire};
use week04::contract::Change::*;

use super::contracts::{Contract, Found, contract, message};

/// The type of an enum's values, which have none.
pub(super) const VALUE: &str = "";

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// The option `json_name` of a field. `a` and `b` are also names of fields.
pub(super) const JSON_NAMES: [Option<&str>; 8] =
    [None, None, None, Some("a"), Some("b"), Some("A"), Some("B"), Some("ä")];
const FIELDS: [i32; 7] = [1, 2, 3, 4, 130, 1500, (1 << 29) - 1];
const VALUES: [i32; 8] = [0, 1, 2, 3, 1500, i32::MAX, -1, i32::MIN];
const RESERVES: [&str; 7] = ["", "", "", "", "number", "name", "number, name"];

/// Fields or enum values, and reserved numbers and names.
#[derive(Debug, Default)]
pub(super) struct Members {
    members: Vec<Member>,
    numbers: BTreeSet<i32>,
    names: BTreeSet<&'static str>,
}

#[derive(Debug, Default)]
struct Member {
    name: &'static str,
    json: Option<&'static str>,
    number: i32,
    kind: &'static str,
    /// A label, or the oneof `x` or `y`.
    group: &'static str,
    /// The numbers and names that are reserved after the member is removed.
    reserves: &'static str,
}

/// Generates two versions: of an enum, if `kinds` is `VALUE`.
pub(super) fn evolutions(
    kinds: &'static [&str],
    groups: &'static [&str],
    json_names: &'static [Option<&str>],
) -> impl Strategy<Value = [Members; 2]> {
    let numbers: &[_] = if kinds == [VALUE] { &VALUES } else { &FIELDS };
    let names = (twice(&NAMES), twice(json_names), twice(numbers));
    let member = (names, twice(kinds), twice(groups), twice(&RESERVES));
    vec(member, 0..=8).prop_map(move |all| {
        [0, 1].map(|i| {
            let mut members = Members::default();
            if kinds == [VALUE] {
                members.add(Member { name: "ZERO", ..Member::default() });
            }
            for ((name, json, number), kind, group, reserves) in &all {
                members.add(Member {
                    name: name[i],
                    json: json[i],
                    number: number[i],
                    kind: kind[i],
                    group: group[i],
                    reserves: reserves[i],
                });
            }
            members
        })
    })
}

/// Generates an item for the old version and one for the new version, which are
/// mostly the same.
fn twice<T: Copy + Debug>(
    items: &'static [T],
) -> impl Strategy<Value = [T; 2]> {
    let change = weighted(0.15, select(items));
    (select(items), change).prop_map(|(old, new)| [old, new.unwrap_or(old)])
}

impl Members {
    /// Returns a message with a field in each of `groups`, or a reservation.
    pub(super) fn with_groups(groups: [&'static str; 3]) -> Self {
        let mut all = Self::default();
        for ((name, number), group) in NAMES.into_iter().zip(FIELDS).zip(groups)
        {
            let absent = group == "absent";
            let reserves = if absent { "number, name" } else { "" };
            let (json, kind) = (None, "int32");
            all.add(Member { name, json, number, kind, group, reserves });
        }
        all
    }

    /// Adds a member or a reservation, unless a member has its name or number.
    /// A member replaces the reservations of its name and number.
    fn add(&mut self, new: Member) {
        let has_number = self.find(|old| old.number == new.number).is_some();
        let has_name = self.find(|old| old.name == new.name).is_some();
        let has_json_name = self.find(|old| old.json() == new.json()).is_some();
        if new.reserves.contains("number") && !has_number {
            self.numbers.insert(new.number);
        }
        if new.reserves.contains("name") && !has_name {
            self.names.insert(new.name);
        }
        // Two values of an enum may have the same number.
        let has_number = has_number && new.kind != VALUE;
        if new.reserves.is_empty() && !has_number && !has_name && !has_json_name
        {
            self.numbers.remove(&new.number);
            self.names.remove(new.name);
            self.members.push(new);
        }
    }

    fn is_enum(&self) -> bool {
        self.find(|each| each.kind == VALUE).is_some()
    }

    pub(super) fn contract(&self) -> Contract {
        let numbers: Vec<_> = self.numbers.iter().copied().collect();
        let ranges = numbers.chunk_by(|a, b| a + 1 == *b).map(|range| {
            format!("reserved {} to {}; ", range[0], range[range.len() - 1])
        });
        let names = self.names.iter();
        let names = names.map(|name| format!("reserved \"{name}\"; "));
        let reserved = ranges.chain(names).map(|text| ("", text));
        let members = self.members.iter().map(|each| {
            let Member { name, number, kind, group, .. } = each;
            let json = each.json.map(|json| format!(" json={json}"));
            let json = json.unwrap_or_default();
            (*group, format!("{kind} {name} = {number}{json}; "))
        });
        let all = members.chain(reserved);
        if !self.is_enum() {
            return message(all);
        }
        let values: String = all.map(|(_, text)| text).collect();
        contract(format!(
            "message L {{ enum E {{ L = 0; }} }} enum E {{ A = 0; }} \
             message M {{ enum E {{ {values}}} }}"
        ))
    }

    /// Returns the breaks from `self` to `new`, in each format.
    pub(super) fn breaks(&self, new: &Self) -> Vec<Found> {
        let element = if self.is_enum() { "t.M.E" } else { "t.M" };
        let mut all = Vec::new();
        let mut add = |element: &str, change, breaks, is_break| {
            if is_break {
                all.push((element.to_owned(), change, breaks));
            }
        };
        let number_free = !self.numbers.is_subset(&new.numbers);
        add(element, Unreserved, Wire, number_free);
        add(element, Unreserved, Json, !self.names.is_subset(&new.names));
        for old in &self.members {
            let element = &*format!("t.M.{}", old.name);
            let same = new.find(|new| new.json() == old.json());
            let renumbered = same.is_some_and(|new| new.number != old.number);
            let found = new.find(|new| new.number == old.number).is_some();
            let gone = same.is_none() && !found;
            let number_free = gone && !new.numbers.contains(&old.number);
            let name_free = gone && !new.names.contains(old.name);
            add(element, Renumbered, Wire, renumbered);
            add(element, Renamed, Json, same.is_none() && found);
            add(element, Removed, Wire, number_free);
            add(element, Removed, Json, name_free);
            for format in [Wire, Json] {
                let Some(same) = new.matching(old, format) else { continue };
                let differs = old.kind(format) != same.kind(format);
                add(element, Type, format, differs);
                let moved = self.members.iter().any(|other| {
                    new.matching(other, format).is_some_and(|new_other| {
                        old.excludes(other) != same.excludes(new_other)
                    })
                });
                add(element, Oneof, format, moved);
            }
        }
        all
    }

    fn find(&self, wanted: impl Fn(&Member) -> bool) -> Option<&Member> {
        self.members.iter().find(|each| wanted(each))
    }

    /// Returns the member that `old` matches.
    fn matching(&self, old: &Member, format: Breaks) -> Option<&Member> {
        match self.find(|each| each.json() == old.json()) {
            None if format == Wire => {
                self.find(|each| each.number == old.number)
            }
            same => {
                same.filter(|same| format == Json || same.number == old.number)
            }
        }
    }
}

impl Member {
    fn json(&self) -> &str {
        self.json.unwrap_or(self.name)
    }

    /// Returns the same for all types that are compatible in `format`.
    fn kind(&self, format: Breaks) -> (bool, &str) {
        let kind = match (format, self.kind) {
            (Wire, "int64" | "bool" | "E") | (Json, "sint32") => "int32",
            (Wire, "string") => "bytes",
            (_, kind) => kind,
        };
        (self.group == "repeated", kind)
    }

    fn excludes(&self, other: &Self) -> bool {
        let same = self.group == other.group && self.name != other.name;
        same && ["x", "y"].contains(&self.group)
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
    let run =
        runner.run(&strategy, |value| test(value).map_err(TestCaseError::fail));
    match run {
        Err(TestError::Fail(error, _)) => panic!("{error}"),
        run => run.unwrap(),
    }
}
