use week04::compat::compare;
use week04::contract::Breaks::{self, Both, Json, Wire};
use week04::contract::Change::{self, *};

use contracts::{
    Contract, assert_breaks, assert_contracts, contract, expect, message, pairs,
};
use judge::{evolutions, judge, lost_field};
use members::{Members, check};

#[path = "compat/contracts.rs"]
mod contracts;
#[path = "compat/judge.rs"]
mod judge;
#[path = "compat/members.rs"]
mod members;

/// What is expected if nothing breaks.
const NOTHING: [(&str, Change, Breaks); 0] = [];

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
            for (element, start) in [("t.M", "message M {"), ("t.E", ENUM)] {
                let text =
                    |reserved| format!("{start} reserved {reserved}; }}");
                let breaks = breaks.map(|breaks| (element, Unreserved, breaks));
                assert_breaks(text(old), text(new), breaks);
            }
        }
    }

    #[test]
    fn a_renumbered_renamed_or_removed_field_or_enum_value_is_a_break() {
        check(300, (Members::any(), Members::any()), |(old, new)| {
            for (start, kind, element, scope) in [
                ("message M {", "int32", "t.M", "t.M."),
                (ENUM, "", "t.E", "t."),
            ] {
                let expected = old.breaks(&new, element, scope);
                let [old, new] =
                    [&old, &new].map(|each| contract(each.text(start, kind)));
                expect(&old, &new, expected)?;
            }
            Ok(())
        });
    }

    const ENUM: &str = "enum E { ZERO = 0;";
}

mod methods {
    use super::*;

    #[test]
    fn a_method_keeps_its_request_and_response_types_and_their_streams() {
        let types = ["M", "stream M", "N", "stream N"];
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
            (set, service(&format!("rpc Get(M) returns (N) {list};")))
        });
        let sets: Vec<_> = sets.collect();
        for ((before, old), (after, new)) in pairs(&sets) {
            let lost = before & !after != 0;
            let expected = lost.then_some(("t.S.Get", HttpBinding, Json));
            assert_contracts(old, new, expected);
        }
    }

    fn service(methods: &str) -> Contract {
        contract(format!(
            "message M {{ }} message N {{ }} service S {{ {methods} }}"
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
            let expected = judge(old, new);
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
            let expected = match (judge(key, new_key), judge(value, new_value))
            {
                (None, breaks) | (breaks, None) => breaks,
                (key, value) if key == value => key,
                _ => Some(Both),
            };
            let expected = expected.map(|breaks| ("t.T.f", Type, breaks));
            assert_contracts(old, new, expected);
        }
        for other in ["M", "repeated M", "repeated int32", "bytes"] {
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
        let types = "message A { message I { } enum E { Z = 0; } }
            message B { message I { } enum E { Z = 0; } }";
        let old = format!("{types} message T {{ A.I f = 1; A.E g = 2; }}");
        let new = format!("{types} message T {{ B.I f = 1; B.E g = 2; }}");
        let expected = [("t.T.f", Type, Both), ("t.T.g", Type, Json)];
        assert_breaks(old, new, expected);
    }

    #[test]
    fn types_are_compared_by_number_on_the_wire_and_by_name_in_json() {
        let old = "message M { int32 a = 1; int32 b = 2; int32 c = 3; }";
        let new = "message M { sint32 z = 1; bool b = 4; string c = 2; }";
        let expected = [
            ("t.M.a", Renamed, Json),
            ("t.M.a", Type, Wire),
            ("t.M.b", Renumbered, Wire),
            ("t.M.b", Type, Json),
            ("t.M.c", Renumbered, Wire),
            ("t.M.c", Type, Json),
        ];
        assert_breaks(old, new, expected);
    }

    fn field(label: &str, kind: &str) -> Contract {
        contract(format!(
            "message T {{ {label} {kind} f = 1; }} enum E {{ A = 0; B = 1; }} \
             enum F {{ C = 0; D = 1; }} \
             message M {{ bool a = 1; message N {{ bool a = 1; }} }}"
        ))
    }
}

mod oneofs {
    use super::*;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    #[test]
    fn a_oneof_breaks_if_two_fields_become_exclusive_or_the_reverse() {
        let states = ["x", "y", "absent", "", "optional"];
        let all = (0..75).map(|i| [i % 5, i / 5 % 5, i / 25]);
        let all = all.map(|each| each.map(|i| states[i]));
        let all = all.map(|states| {
            let fields = |absent: fn(usize, &str) -> String| {
                let fields = (1..).zip(NAMES).zip(states);
                message(fields.map(
                    move |((number, name), state)| match state {
                        "absent" => ("", absent(number, name)),
                        _ => (state, format!("int32 {name} = {number}; ")),
                    },
                ))
            };
            let old = fields(|_, _| String::new());
            let new = fields(|number, name| {
                format!("reserved {number}, \"{name}\"; ")
            });
            (states, (old, new))
        });
        let contracts: Vec<_> = all.collect();
        for ((before, (old, _)), (after, (_, new))) in pairs(&contracts) {
            let stays =
                |i: usize| before[i] != "absent" && after[i] != "absent";
            let share = |states: &[&str], i: usize, j: usize| {
                states[i] == states[j] && ["x", "y"].contains(&states[i])
            };
            let moved = |i: usize, j: usize| {
                let differs = share(before, i, j) != share(after, i, j);
                i != j && differs && stays(i) && stays(j)
            };
            let fields = (0..3).filter(|i| (0..3).any(|j| moved(*i, j)));
            let expected =
                fields.map(|i| (format!("t.M.{}", NAMES[i]), Oneof, Both));
            assert_contracts(old, new, expected);
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
        let old = "message M { oneof x { int32 a = 1; int32 b = 2; } }";
        let new = "message M { int32 a = 1; int32 c = 2; }";
        let expected = [
            ("t.M.a", Oneof, Wire),
            ("t.M.b", Renamed, Json),
            ("t.M.b", Oneof, Wire),
        ];
        assert_breaks(old, new, expected);
        let new = "message M { int32 a = 1; int32 b = 3; int32 d = 2; }";
        let expected = [
            ("t.M.a", Oneof, Json),
            ("t.M.b", Renumbered, Wire),
            ("t.M.b", Oneof, Json),
        ];
        assert_breaks(old, new, expected);
    }

    #[test]
    fn without_a_break_every_value_carries_over_in_both_directions() {
        check(600, evolutions(), |(old, new)| {
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
