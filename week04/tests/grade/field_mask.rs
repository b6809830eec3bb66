use std::collections::BTreeMap;

use model::*;
use proptest::prelude::*;
use prost_reflect::DynamicMessage;
use prost_reflect::prost::Message as _;
use prost_types::FieldMask;
use serde_json::{Value as Json, json};
use week04::field_mask::Mask;
use week04::field_path::{MaskError, without_nulls};
use week04_api::DESCRIPTORS;

#[path = "field_mask/model.rs"]
mod model;

mod paths {
    use super::*;

    #[test]
    fn every_path_of_a_message_type_is_accepted() {
        let mut all: Vec<_> = places().iter().map(|(p, _)| text(p)).collect();
        all.extend(["visitCount", "numbers.int32Value"].map(str::to_owned));
        for path in all.iter().map(|path| vec![&**path]).chain([vec!["*"]]) {
            let mask = Mask::parse(&profile(), &path);
            assert!(mask.is_ok(), "expected a mask of {path:?}, got {mask:?}");
        }
        let mask = Mask::parse(&profile(), &all);
        assert!(mask.is_ok(), "expected a mask of all paths, got {mask:?}");
    }

    #[test]
    fn a_path_that_leads_to_no_field_is_an_error() {
        const WRONG: &str = "profile.nickname Nickname x address. .tags \
            address..city tags.0 tags.* former_addresses.0.city *.city . \
            former_addresses.city offices.a.x labels.* labels.a.b labels.`a \
            labels.`a`b labels.a`b prizes.x prizes.2147483648 prizes. contact \
            create_time.seconds address.* level.LEVEL_GOLD email.x age.value";
        let mut wrong: Vec<_> = WRONG.split(' ').map(str::to_owned).collect();
        wrong.extend(["", "nickname "].map(str::to_owned));
        for (path, _) in places() {
            if path.len() != 1 || !MAPS.contains(&&*path[0]) {
                wrong.push(text(&path) + ".zzz");
            }
        }
        for path in &wrong {
            for all in [&[&**path][..], &["tags", path, "x"], &[path, "*"]] {
                let mask = Mask::parse(&profile(), all);
                let unknown = MaskError::UnknownPath(path.clone());
                assert_rejected(mask, &unknown, &format!("the paths {all:?}"));
            }
        }
        for all in [["tags", "*"], ["*", "tags"], ["*", "x"]] {
            let mask = Mask::parse(&profile(), &all);
            let unknown = MaskError::UnknownPath("*".to_owned());
            assert_rejected(mask, &unknown, &format!("the paths {all:?}"));
        }
    }
}

mod updates {
    use super::*;

    #[test]
    fn a_selected_field_that_is_not_sent_is_cleared() {
        check(8, false, |Case { stored, .. }| {
            for (path, _) in places() {
                let name = stored.get_key_value("name");
                let sent = name.map(|(k, v)| (k.clone(), v.clone()));
                let sent = sent.into_iter().collect();
                let paths = vec![path];
                Case { stored: stored.clone(), sent, paths }.check()?;
            }
            Ok(())
        });
    }

    #[test]
    fn clearing_a_sub_path_creates_no_message() {
        let mut sent = json!({});
        for (path, samples) in places() {
            if samples == [json!({})] {
                set(&mut sent, &path, &samples[0]);
            }
        }
        for (path, samples) in places() {
            let is_sub_path = path.len() > 1 && !samples.contains(&json!({}));
            if !is_sub_path || ["labels", "prizes"].contains(&&*path[0]) {
                continue;
            }
            for sent in [&json!({}), &sent] {
                for stored in [json!({}), json!({"email": ""})] {
                    let expected = Ok(stored.clone());
                    assert_update(&[&text(&path)], &stored, sent, &expected);
                }
            }
        }
    }

    #[test]
    fn only_setting_a_oneof_member_clears_the_others() {
        let [mail, phone, empty, none] = [
            r#"{"email":"e"}"#,
            r#"{"phone":{"number":"1"}}"#,
            r#"{"phone":{}}"#,
            "{}",
        ]
        .map(parse);
        for (paths, stored, sent, expected) in [
            (&["email"][..], &phone, &mail, &mail),
            (&["email"], &phone, &none, &phone),
            (&["email"], &mail, &phone, &none),
            (&["phone"], &mail, &empty, &empty),
            (&["phone"], &mail, &none, &mail),
            (&["phone"], &phone, &mail, &none),
            (&["phone.number"], &mail, &phone, &phone),
            (&["phone.number"], &mail, &empty, &mail),
            (&["phone.number"], &mail, &none, &mail),
            (&["phone.number"], &phone, &none, &empty),
            (&["phone", "email"], &phone, &mail, &mail),
            (&["phone", "email"], &mail, &phone, &phone),
            (&["phone.number", "email"], &phone, &mail, &mail),
        ] {
            assert_update(paths, stored, sent, &Ok(expected.clone()));
        }
    }

    #[test]
    fn the_order_and_the_overlap_of_paths_do_not_matter() {
        let all = places();
        check(128, false, |mut case| {
            case.check()?;
            case.paths.reverse();
            case.check()?;
            let selected = case.paths.clone();
            for (path, _) in &all {
                if selected.iter().any(|outer| path.starts_with(outer)) {
                    case.paths.push(path.clone());
                }
            }
            case.check()?;
            case.paths.reverse();
            case.check()
        });
    }
}

mod requests {
    use super::*;

    #[test]
    fn populated_fields_are_selected_only_without_paths() {
        check(128, false, |mut case| {
            let paths: Vec<_> = case.paths.iter().map(text).collect();
            if !paths.is_empty() {
                let mask = FieldMask { paths };
                let mask = Mask::of_request(Some(&mask), &case.sent());
                case.check_mask("a request with a mask", &mask)?;
            }
            case.paths = leaves(&case.sent);
            for (what, mask) in [
                ("a request without a mask", None),
                ("a mask without paths", Some(&FieldMask::default())),
            ] {
                case.check_mask(what, &Mask::of_request(mask, &case.sent()))?;
            }
            Ok(())
        });
    }

    #[test]
    fn a_well_known_type_is_one_value() {
        let settings = DESCRIPTORS.get_message_by_name("conf.v1.Settings");
        let settings = settings.unwrap();
        let timeout = |text| json!({"server": {"http": {"timeout": text}}});
        let data = json!({"url": "sqlite://x"});
        for [old, new] in [["1.500s", "2s"], ["1.500s", "0s"], ["1s", "0.500s"]]
        {
            let (mut stored, body) = (timeout(old), timeout(new));
            stored["data"] = data.clone();
            let mut expected = body.clone();
            expected["data"] = data.clone();
            let [stored, sent] =
                [&stored, &body].map(|json| message(&settings, json));
            for mask in [
                Mask::of_request(None, &sent),
                Mask::of_json(&settings, Some(&body)),
                Mask::parse(&settings, &["server.http.timeout"]),
            ] {
                let updated = mask.unwrap().update(&stored, &sent).unwrap();
                assert_eq!(to_json(&updated), expected, "{old} becomes {new}");
            }
        }
        let request = "profile.v1.UpdateProfileRequest";
        let request = DESCRIPTORS.get_message_by_name(request).unwrap();
        let stored = message(&request, &json!({"update_mask": "tags"}));
        let empty = DynamicMessage::decode(request, &[18, 0][..]).unwrap();
        let mask = Mask::of_request(None, &empty).unwrap();
        let updated = mask.update(&stored, &empty);
        assert_eq!(updated, Ok(empty), "an empty field mask in the message");
    }

    #[test]
    fn a_json_body_selects_the_values_that_it_contains() {
        let stored = r#"{"nickname":"n","age":0,"tags":["t"],
            "address":{"street":"s","country":{"code":"DE"}},
            "labels":{"a":"1","a.b":"2"},"prizes":{"7":"p"},
            "phone":{"number":"1"},"numbers":{"int32_value":5}}"#;
        for [body, changes] in table(
            r#"
            {}                                  | {}
            {"nickname":""}                     | {"nickname":null}
            {"nickname":null}                   | {"nickname":null}
            {"age":1,"nickname":"m"}            | {"age":1,"nickname":"m"}
            {"age":null}                        | {"age":null}
            {"address":{}}                      | {}
            {"address":null}                    | {"address":null}
            {"address":{"country":{}}}          | {}
            {"address":{"country":null}}        | {"address":{"street":"s"}}
            {"address":{"street":""}}           | {"address":{"country":{"code":"DE"}}}
            {"tags":[]}                         | {"tags":null}
            {"tags":["u",""]}                   | {"tags":["u",""]}
            {"labels":{}}                       | {}
            {"labels":null}                     | {"labels":null}
            {"labels":{"a.b":null}}             | {"labels":{"a":"1"}}
            {"labels":{"a":""}}                 | {"labels":{"a":"","a.b":"2"}}
            {"labels":{"*":"x","":"y","`.":"z"}} | {"labels":{"a":"1","a.b":"2","*":"x","":"y","`.":"z"}}
            {"prizes":{"8":"q"}}                | {"prizes":{"7":"p","8":"q"}}
            {"phone":{}}                        | {}
            {"email":null}                      | {}
            {"email":""}                        | {"email":"","phone":null}
            {"numbers":{"int32Value":0}}        | {"numbers":{}}
            {"numbers":{"int32_value":null}}    | {"numbers":{}}
            "#,
        ) {
            let mask = Mask::of_json(&profile(), Some(&parse(body)));
            let sent = message(&profile(), &without_nulls(parse(body)));
            let updated = mask.and_then(|mask| {
                mask.update(&message(&profile(), &parse(stored)), &sent)
            });
            let updated = updated.map(|updated| to_json(&updated));
            let mut expected = parse(stored);
            for (name, value) in parse(changes).as_object().unwrap() {
                expected[name] = value.clone();
            }
            let expected = Ok(without_nulls(expected));
            let stored = on_one_line(&parse(stored));
            let what = format!("the body {body}\nstored: {stored}");
            assert_updated(&updated, &expected, &what);
        }
        let places: BTreeMap<_, _> = places().into_iter().collect();
        check(48, false, |mut case| {
            let sent = Json::Object(case.sent.clone());
            for path in std::mem::take(&mut case.paths) {
                let values = places.get(&path).into_iter().flatten();
                for value in values.chain([&Json::Null]) {
                    let mut body = sent.clone();
                    match &*path[0] {
                        "name" | "*" => continue,
                        "email" => body["phone"].take(),
                        "phone" => body["email"].take(),
                        _ => Json::Null,
                    };
                    body = without_nulls(body);
                    set(&mut body, &path, value);
                    case.paths = leaves(body.as_object().unwrap());
                    let mask = Mask::of_json(&profile(), Some(&body));
                    let what = format!("the body {body}");
                    let sent = message(&profile(), &without_nulls(body));
                    case.sent = to_json(&sent).as_object().unwrap().clone();
                    case.check_mask(&what, &mask)?;
                }
            }
            Ok(())
        });
    }

    #[test]
    fn an_unknown_path_or_a_missing_body_is_an_error() {
        for path in ["", " ", "x", "nickname.x"] {
            for all in [&[path][..], &["tags", path, "*"]] {
                let paths = all.iter().map(|&path| path.to_owned()).collect();
                let sent = message(&profile(), &json!({"tags": ["t"]}));
                let mask = Mask::of_request(Some(&FieldMask { paths }), &sent);
                let unknown = MaskError::UnknownPath(path.to_owned());
                assert_rejected(mask, &unknown, &format!("the paths {all:?}"));
            }
        }
        let wrong = ["null", "[]", "\"nickname\"", "7"].map(parse).map(Some);
        for body in wrong.iter().chain([&None]) {
            let mask = Mask::of_json(&profile(), body.as_ref());
            let what = body.as_ref().map_or("no body".to_owned(), |body| {
                format!("the body {body}")
            });
            assert_rejected(mask, &MaskError::NotAnObject, &what);
        }
        for [body, path] in table(
            r#"
            {"x":1}                  | x
            {"*":1}                  | `*`
            {"address.city":1}       | `address.city`
            {"tags":[],"zip":null}   | zip
            {"address":{"zip":""}}   | address.zip
            {"nickname":{"x":1}}     | nickname.x
            {"tags":{"0":"x"}}       | tags.0
            {"prizes":{"x":""}}      | prizes.x
            "#,
        ) {
            let mask = Mask::of_json(&profile(), Some(&parse(body)));
            let unknown = MaskError::UnknownPath(path.to_owned());
            assert_rejected(mask, &unknown, &format!("the body {body}"));
        }
    }
}

mod field_behavior {
    use super::*;

    #[test]
    fn output_only_fields_keep_their_stored_values_at_any_depth() {
        check(256, true, |case| case.check());
        let contracts = contracts(OUTPUT_ONLY);
        check_at(few_places(), 64, true, |case| {
            for (field, profile) in &contracts {
                let output_only = [&SERVER_FIELDS[..], &[*field]].concat();
                let expected = Ok(case.expected(&output_only));
                let what = format!(
                    "an update in which {field} is output-only\n{case:?}"
                );
                compare(&case.update(profile), &expected, &what)?;
            }
            Ok(())
        });
    }

    #[test]
    fn an_equal_element_keeps_its_output_only_fields() {
        // An element is a city and its population, which is output only.
        let message = |elements: &str| {
            let elements = elements.split(' ').map(|element| {
                let (city, population) = element.split_at(1);
                let country = match population {
                    "" => json!({}),
                    _ => json!({"population": population}),
                };
                json!({"city": city, "country": country})
            });
            json!({"former_addresses": elements.collect::<Vec<_>>()})
        };
        let stored = message("a1 b2 a3");
        for (sent, expected) in [
            ("a1 b2 a3", "a1 b2 a3"),
            ("a3 b2 a1", "a1 b2 a3"),
            ("x9 a b7", "x a1 b2"),
            ("b b2 a", "b2 b a1"),
        ] {
            let (sent, expected) = (message(sent), Ok(message(expected)));
            for path in ["former_addresses", "*"] {
                assert_update(&[path], &stored, &sent, &expected);
            }
        }
    }

    #[test]
    fn a_change_of_an_immutable_field_is_an_error() {
        let [mia, zoe] = ["mia", "zoe"].map(|name| json!({"name": name}));
        let none = json!({});
        for (stored, sent) in [(&mia, &zoe), (&mia, &none), (&none, &zoe)] {
            for path in ["name", "*"] {
                let error = MaskError::Immutable("name".to_owned());
                assert_update(&[path], stored, sent, &Err(error));
            }
        }
        let contracts = contracts(IMMUTABLE);
        check_at(few_places(), 80, true, |mut case| {
            let all = vec![vec!["*".to_owned()]];
            for (sent, paths) in [
                (case.sent.clone(), case.paths.clone()),
                (case.sent.clone(), all.clone()),
                (stripped(&case.stored), all),
            ] {
                (case.sent, case.paths) = (sent, paths);
                let stored = case.stored.clone().into();
                let new = case.expected(&SERVER_FIELDS);
                for (field, profile) in &contracts {
                    let expected = if differ(&stored, &new, field) {
                        Err(MaskError::Immutable((*field).to_owned()))
                    } else {
                        Ok(new.clone())
                    };
                    let what = format!(
                        "an update in which {field} is immutable\n{case:?}"
                    );
                    compare(&case.update(profile), &expected, &what)?;
                }
            }
            Ok(())
        });
    }

    #[test]
    fn a_read_returns_only_the_selected_fields() {
        check(256, true, |case| {
            let (stored, paths) = (case.stored(), leaves(&case.stored));
            let whole = Case { paths, ..case.clone() };
            let populated = Mask::of_request(None, &stored).unwrap();
            for (mask, case) in [(case.mask(), case), (populated, whole)] {
                let read = Ok(to_json(&mask.read(&stored)));
                let what = format!("a read\n{case:?}");
                compare(&read, &Ok(case.expected_read()), &what)?;
            }
            Ok(())
        });
    }

    #[test]
    fn unknown_fields_are_kept_and_not_read() {
        let address = vec!["address".to_owned()];
        check(64, true, |case| {
            // Field 127 is set in the profile and in its address.
            let known = case.stored().encode_to_vec();
            let bytes = [&[26, 3, 248, 7, 1, 248, 7, 1], &*known].concat();
            let stored = DynamicMessage::decode(profile(), &*bytes).unwrap();
            let unknown = |profile: DynamicMessage| {
                let address = profile.get_field_by_name("address").unwrap();
                [&profile, address.as_message().unwrap()]
                    .map(|message| message.unknown_fields().count())
            };
            if !case.selected().contains(&address) {
                let updated = case.mask().update(&stored, &case.sent());
                let updated = unknown(updated.expect("expected no error"));
                let read = unknown(case.mask().read(&stored));
                for (what, seen, expected) in
                    [("an update", updated, 1), ("a read", read, 0)]
                {
                    prop_assert!(
                        seen == [expected; 2],
                        "the unknown fields after {what}, in the profile and \
                         in its address\n{case:?}\n\
                         expected: {expected} in each\nseen: {seen:?}"
                    );
                }
            }
            Ok(())
        });
    }

    #[test]
    fn writing_what_was_read_changes_nothing() {
        check(256, true, |case| {
            let (mask, stored) = (case.mask(), case.stored());
            let updated = mask.update(&stored, &mask.read(&stored));
            let updated = updated.map(|updated| to_json(&updated));
            let expected = Json::Object(case.stored.clone());
            let what = format!("an update with what was read\n{case:?}");
            compare(&updated, &Ok(expected), &what)
        });
    }
}
