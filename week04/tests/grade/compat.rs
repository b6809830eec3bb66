use proptest::array::uniform2;
use proptest::prelude::Strategy;
use week04::compat::compare;
use week04::contract::Breaks::{self, Both, Json, Wire};
use week04::contract::Change::{self, *};

use contracts::{
    Contract, assert_breaks, assert_contracts, contract, expect, message, pairs,
};
use judge::{judge, lost_field};
use members::{JSON_NAMES, Members, VALUE, check, evolutions};

#[path = "compat/contracts.rs"]
mod contracts;
#[path = "compat/judge.rs"]
mod judge;
#[path = "compat/members.rs"]
mod members;

/// The expected breaks of a compatible change.
const NOTHING: [(&str, Change, Breaks); 0] = [];

const KINDS: [&str; 7] =
    ["int32", "int64", "bool", "E", "sint32", "string", "bytes"];
const GROUPS: [&str; 6] = ["", "optional", "repeated", "x", "x", "y"];

/// Expects the breaks of the model, also for two versions that have little in
/// common.
fn assert_evolutions(all: impl Strategy<Value = [Members; 2]>) {
    check(300, uniform2(all), |[[old, new], [_, other]]| {
        [new, other].iter().try_for_each(|new| {
            expect(&old.contract(), &new.contract(), old.breaks(new))
        })
    });
}

mod numbers_and_names {
    use super::*;

    #[test]
    fn added_elements_and_another_order_are_no_break() {
        let old = "message M { int32 a = 1; oneof x { int32 b = 2; } }
            enum E { A = 0; } service S { rpc Get(M) returns (M); }";
        let new = "message N { repeated M m = 1; } enum F { F_A = 0; }
            service T { rpc Get(N) returns (N); }
            service S { rpc List(N) returns (N); rpc Get(M) returns (M); }
            enum E { A = 0; B = 1; C = -1; reserved 2 to max, \"D\"; }
            message M { map<int32, N> c = 3; int32 a = 1; reserved 9 to max;
                oneof x { int32 d = 7; int32 b = 2; } reserved \"e\";
                message Inner { int32 f = 1; } }";
        assert_breaks(old, new, NOTHING);
    }

    #[test]
    fn a_removed_type_is_one_break_without_its_parts() {
        let old = "message M { message N { int32 b = 1; enum E { A = 0; } } }
            message P { message Q { message R { int32 c = 1; } } }
            enum F { B = 0; } service S { rpc Get(M) returns (M); }";
        let new = "message M { message N { int32 b = 1; } } enum F { B = 0; }
            message P { } service S { rpc Get(M) returns (M); }";
        let removed = |element| (element, Removed, Both);
        assert_breaks(old, "", ["t.F", "t.M", "t.P", "t.S"].map(removed));
        assert_breaks(old, new, ["t.M.N.E", "t.P.Q"].map(removed));
    }

    #[test]
    fn json_clients_depend_on_the_json_name_of_a_field() {
        let old = "message M { int32 user_id = 1; }";
        let new = "message M { int32 user_id = 1 json=id; }";
        assert_breaks(old, new, [("t.M.user_id", Renamed, Json)]);
        assert_breaks(new, old, [("t.M.user_id", Renamed, Json)]);
        assert_breaks(old, "message M { int32 u = 1 json=userId; }", NOTHING);
        // A reservation contains the name in the `.proto` file.
        let new = "message M { reserved 1, \"user_id\"; }";
        assert_breaks(old, new, NOTHING);
        let new = "message M { reserved 1, \"userId\"; }";
        assert_breaks(old, new, [("t.M.user_id", Removed, Json)]);
    }

    #[test]
    fn a_reservation_has_to_stay_but_its_range_may_be_split() {
        for (old, new, breaks) in [
            ("2 to 9", "5 to 9, 2 to 4", None),
            ("2 to 9", "2 to 4, 6 to 9", Some(Wire)),
            ("2 to 9", "3 to 9", Some(Wire)),
            ("2, 3, 4", "2 to 4", None),
            ("2 to max", "1 to 99, 100 to max", None),
            ("2 to max", "2 to 100000", Some(Wire)),
            ("\"b\", \"c\"", "\"c\", \"d\", \"b\"", None),
            ("\"b\", \"c\"", "\"c\"", Some(Json)),
            ("7, \"b\"", "8, \"c\"", Some(Both)),
        ] {
            for (element, start, end) in [
                ("t.M.MEntry", "message M { message MEntry {", "} }"),
                ("t.E", "enum E { ZERO = 0;", "}"),
            ] {
                let text =
                    |reserved| format!("{start} reserved {reserved}; {end}");
                let breaks = breaks.map(|breaks| (element, Unreserved, breaks));
                assert_breaks(text(old), text(new), breaks);
            }
        }
    }

    #[test]
    fn a_renumbered_renamed_or_removed_field_or_enum_value_is_a_break() {
        assert_evolutions(evolutions(&["int32"], &[""], &JSON_NAMES));
        assert_evolutions(evolutions(&[VALUE], &[""], &[None]));
    }
}

mod methods {
    use super::*;

    #[test]
    fn a_method_keeps_its_request_and_response_types_and_their_streams() {
        let types = ["M", "stream M", "N.M", "stream N.M"];
        let all = types.iter().flat_map(|input| {
            types.map(|output| {
                service(&format!("rpc Get({input}) returns ({output});"))
            })
        });
        let all: Vec<_> = all.collect();
        for (old, new) in pairs(&all) {
            let differs = old.text != new.text;
            let expected = differs.then_some(("t.S.Get", Type, Both));
            assert_contracts(old, new, expected);
        }
    }

    #[test]
    fn a_removed_method_breaks_both_formats() {
        let [get, list] =
            ["Get", "List"].map(|name| format!("rpc {name}(M) returns (N); "));
        let old = service(&format!("{get}{list}"));
        assert_contracts(&old, &service(&list), [("t.S.Get", Removed, Both)]);
        assert_contracts(&old, &service(&format!("{list}{get}")), NOTHING);
    }

    #[test]
    fn each_http_binding_of_a_method_has_to_stay() {
        let bindings = [
            "get:/v1/a",
            "get:/v1/b",
            "put:/v1/a",
            "post:/v1/a:*",
            "post:/v1/a:m",
        ];
        let sets = (0..32).map(|set| {
            let mut chosen: Vec<_> =
                (0..5).filter(|i| set >> i & 1 == 1).collect();
            // The first one is the main binding.
            if set % 3 == 0 {
                chosen.reverse();
            }
            let list: Vec<_> = chosen.iter().map(|i| bindings[*i]).collect();
            let list = list.join(" ");
            let input = if set % 5 < 2 { "M" } else { "N" };
            let method = format!("rpc Get({input}) returns (N) {list};");
            (set, input, service(&method))
        });
        let sets: Vec<_> = sets.collect();
        for ((before, input, old), (after, new_input, new)) in pairs(&sets) {
            let lost = before & !after != 0;
            let lost = lost.then_some(("t.S.Get", HttpBinding, Json));
            let differs = input != new_input;
            let differs = differs.then_some(("t.S.Get", Type, Both));
            assert_contracts(old, new, lost.into_iter().chain(differs));
        }
    }

    fn service(methods: &str) -> Contract {
        contract(format!(
            "message M {{ }} message N {{ message M {{ }} }} \
             service S {{ {methods} }}"
        ))
    }
}

mod types {
    use super::*;

    const KEYS: [&str; 12] = [
        "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32",
        "fixed64", "sfixed32", "sfixed64", "bool", "string",
    ];
    const OTHERS: [&str; 7] =
        ["bytes", "float", "double", "E", "F", "M", "M.N"];

    #[test]
    fn two_types_are_compatible_exactly_if_common_values_carry_over() {
        let types = || KEYS.into_iter().chain(OTHERS);
        let fields = ["", "repeated"]
            .into_iter()
            .flat_map(|label| types().map(move |each| field(label, each)));
        let fields: Vec<_> = fields.collect();
        for (old, new) in pairs(&fields) {
            let expected = judge(old, new).into_iter();
            let expected = expected.map(|breaks| ("t.T.f", Type, breaks));
            assert_contracts(old, new, expected);
        }
    }

    #[test]
    fn a_map_is_compared_by_its_key_type_and_its_value_type() {
        let mut maps = Vec::new();
        for key in KEYS {
            for value in ["int32", "E", "M"] {
                let map = field("", &format!("map<{key}, {value}>"));
                maps.push((field("", key), field("", value), map));
            }
        }
        for ((key, value, old), (new_key, new_value, new)) in pairs(&maps) {
            let mut expected = judge(key, new_key);
            expected.extend(judge(value, new_value));
            let expected = expected.into_iter();
            let expected = expected.map(|breaks| ("t.T.f", Type, breaks));
            assert_contracts(old, new, expected);
        }
        for other in
            ["M", "repeated M", "repeated P", "repeated int32", "bytes"]
        {
            let (map, other) = (field("", "map<int32, M>"), field("", other));
            assert_contracts(&map, &other, [("t.T.f", Type, Both)]);
            assert_contracts(&other, &map, [("t.T.f", Type, Both)]);
        }
        let old = "message M { map<int32, M> f = 1; map<int32, M> g = 2; }";
        let new = "message M { map<int32, M> e = 1; reserved 2; }";
        let expected = [("t.M.f", Renamed, Json), ("t.M.g", Removed, Json)];
        assert_breaks(old, new, expected);
    }

    #[test]
    fn messages_are_compared_by_full_name_and_enums_only_in_json() {
        let [a, b] = ["A", "B"].map(|name| {
            format!("message {name} {{ message I {{ }} enum E {{ Z = 0; }} }}")
        });
        let user = |name| {
            let fields = format!("{name}.I f = 1; {name}.E g = 2;");
            format!("message T {{ message TEntry {{ {fields} }} }}")
        };
        let expected =
            [("t.T.TEntry.f", Type, Both), ("t.T.TEntry.g", Type, Json)];
        let old = format!("{a} {b} {}", user("A"));
        assert_breaks(&old, format!("{a} {b} {}", user("B")), expected);
        // That `A` is removed is a break of its own.
        let expected = [("t.A", Removed, Both)].into_iter().chain(expected);
        assert_breaks(&old, format!("{b} {}", user("B")), expected);
    }

    #[test]
    fn types_are_compared_by_number_on_the_wire_and_by_name_in_json() {
        assert_evolutions(evolutions(&KINDS, &GROUPS[..3], &JSON_NAMES));
    }

    fn field(label: &str, kind: &str) -> Contract {
        contract(format!(
            "message T {{ {label} {kind} f = 1; }} enum E {{ A = 0; B = 1; }} \
             enum F {{ C = 0; D = 1; }} \
             message M {{ bool a = 1; message N {{ bool a = 1; }} }} \
             message P {{ int32 key = 1; M value = 2; }}"
        ))
    }
}

mod oneofs {
    use super::*;

    #[test]
    fn two_fields_that_become_exclusive_or_independent_are_a_break() {
        let states = ["x", "y", "absent", "", "optional"];
        let all = (0..75).map(|i| {
            let groups = [i % 5, i / 5 % 5, i / 25].map(|i| states[i]);
            let members = Members::with_groups(groups);
            (members.contract(), members)
        });
        let all: Vec<_> = all.collect();
        for ((old_contract, old), (new_contract, new)) in pairs(&all) {
            assert_contracts(old_contract, new_contract, old.breaks(new));
        }
        let many = |group| {
            let field = |i| (group, format!("int32 f{i} = {i}; "));
            message((1..=300).map(field))
        };
        let expected = (1..=300).map(|i| (format!("t.M.f{i}"), Oneof, Both));
        assert_contracts(&many("x"), &many(""), expected);
    }

    #[test]
    fn oneofs_are_compared_by_number_on_the_wire_and_by_name_in_json() {
        assert_evolutions(evolutions(&KINDS, &GROUPS, &JSON_NAMES));
    }

    #[test]
    fn without_a_break_every_value_carries_over_in_both_directions() {
        check(600, evolutions(&KINDS, &GROUPS, &[None]), |[old, new]| {
            let (old, new) = (old.contract(), new.contract());
            let breaks = compare(&old.pool, &new.pool);
            for format in [Wire, Json] {
                let mut all = breaks.iter().map(|each| each.breaks);
                if all.any(|each| each == format || each == Both) {
                    continue;
                }
                for (from, to) in [(&old, &new), (&new, &old)] {
                    let Some(lost) = lost_field(from, to, format) else {
                        continue;
                    };
                    let (from, to) = (&from.text, &to.text);
                    return Err(format!(
                        "expected a break for {format:?}: a message of \
                         `{from}`, read with `{to}`, loses {lost}; got \
                         {breaks:?}"
                    ));
                }
            }
            Ok(())
        });
    }
}
