use model::*;
use proptest::prelude::*;
use prost_reflect::DescriptorPool;
use prost_types::FieldMask;
use serde_json::{Map, Value as Json, json};
use week04::field_mask::Mask;
use week04::field_path::{MaskError, without_nulls};
use week04_api::{DESCRIPTORS, FILE_DESCRIPTOR_SET};

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
            for all in [vec![&**path], vec!["tags", path, "x"]] {
                let mask = Mask::parse(&profile(), &all);
                let unknown = MaskError::UnknownPath(path.clone());
                assert_eq!(mask, Err(unknown), "the mask of the paths {all:?}");
            }
        }
        let star = Mask::parse(&profile(), &["tags", "*"]);
        let unknown = MaskError::UnknownPath("*".to_owned());
        assert_eq!(star, Err(unknown), "the mask of `*` and another path");
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
    fn a_sub_path_creates_no_empty_message() {
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
                    let updated = update(&[text(&path)], &stored, sent);
                    assert_eq!(updated, Ok(stored), "{path:?} of {sent}");
                }
            }
        }
    }

    #[test]
    fn a_oneof_has_the_member_that_was_set_last() {
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
            let updated = update(paths, stored, sent);
            let case = format!("{paths:?} of {sent} on {stored}");
            assert_eq!(updated.as_ref(), Ok(expected), "{case}");
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
    fn only_a_mask_without_paths_selects_the_populated_fields() {
        check(128, false, |mut case| {
            let paths: Vec<_> = case.paths.iter().map(text).collect();
            if !paths.is_empty() {
                let mask = FieldMask { paths };
                case.check_mask(Mask::of_request(Some(&mask), &case.sent()))?;
            }
            case.paths = leaves(&case.sent);
            for mask in [None, Some(&FieldMask::default())] {
                case.check_mask(Mask::of_request(mask, &case.sent()))?;
            }
            Ok(())
        });
    }

    #[test]
    fn a_duration_is_one_value_and_its_neighbors_stay() {
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
    }

    #[test]
    fn each_json_body_has_one_meaning() {
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
            let mask = Mask::of_json(&profile(), Some(&parse(body))).unwrap();
            let sent = message(&profile(), &without_nulls(parse(body)));
            let updated =
                mask.update(&message(&profile(), &parse(stored)), &sent);
            let mut expected = parse(stored);
            for (name, value) in parse(changes).as_object().unwrap() {
                expected[name] = value.clone();
            }
            let expected = without_nulls(expected);
            assert_eq!(to_json(&updated.unwrap()), expected, "the body {body}");
        }
    }

    #[test]
    fn an_unknown_key_or_a_missing_body_is_an_error() {
        let wrong = ["null", "[]", "\"nickname\"", "7"].map(parse).map(Some);
        for body in wrong.iter().chain([&None]) {
            let mask = Mask::of_json(&profile(), body.as_ref());
            assert_eq!(mask, Err(MaskError::NotAnObject), "the body {body:?}");
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
            assert_eq!(mask, Err(unknown), "the mask of the body {body}");
        }
    }
}

mod field_behavior {
    use super::*;

    #[test]
    fn output_only_fields_keep_their_stored_values_at_any_depth() {
        check(256, true, |case| case.check());
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
            let (sent, expected) = (message(sent), message(expected));
            for path in ["former_addresses", "*"] {
                let updated = update(&[path], &stored, &sent);
                assert_eq!(updated, Ok(expected.clone()), "{path} of {sent}");
            }
        }
    }

    #[test]
    fn a_change_of_an_immutable_field_is_an_error() {
        // The same contract, in which output-only fields are immutable.
        let mut files = FILE_DESCRIPTOR_SET.to_vec();
        for at in 3..files.len() {
            if files[at - 3..=at] == [0xe2, 0x41, 1, 3] {
                files[at] = 5;
            }
        }
        let pool = DescriptorPool::decode(&*files).unwrap();
        let profile = pool.get_message_by_name("profile.v1.Profile").unwrap();
        let country = |n| json!({"country": {"population": n}});
        let address = |n| json!({"address": country(n)});
        let office = |n| json!({"offices": {"a": country(n)}});
        let [one, two] = ["1", "2"].map(|n| json!({"visit_count": n}));
        let [mia, zoe] = ["mia", "zoe"].map(|name| json!({"name": name}));
        let none = json!({});
        let at_address = "address.country.population address.country address *";
        let at_office = "offices.a.country.population offices.a offices *";
        for (field, paths, stored, sent) in [
            ("name", "name *", &mia, &zoe),
            ("name", "name *", &mia, &none),
            ("name", "name *", &none, &zoe),
            ("visit_count", "visit_count *", &one, &two),
            ("visit_count", "visit_count *", &one, &none),
            ("population", at_address, &address("1"), &address("2")),
            ("population", &at_address[..26], &address("1"), &none),
            ("population", at_office, &office("1"), &office("2")),
            ("", "address *", &address("1"), &none),
            ("", "offices.a offices *", &office("1"), &none),
            ("", at_address, &none, &address("2")),
            ("", at_office, &none, &office("2")),
        ] {
            let [stored, sent] = [stored, sent].map(|m| message(&profile, m));
            for path in paths.split(' ') {
                let mask = Mask::parse(&profile, &[path]).unwrap();
                let update = |sent| Ok(to_json(&mask.update(&stored, sent)?));
                let expected = match field {
                    "" => Ok(to_json(&sent)),
                    _ => Err(MaskError::Immutable(field.to_owned())),
                };
                let case = format!("{path} of {sent} on {stored}");
                assert_eq!(update(&sent), expected, "{case}");
                let same = Ok(to_json(&stored));
                assert_eq!(update(&stored), same, "{path} of an equal message");
            }
        }
    }

    #[test]
    fn a_read_returns_only_the_selected_fields() {
        check(256, true, |case| {
            let read = to_json(&case.mask().read(&case.stored()));
            let mut expected = Map::new();
            for path in case.selected() {
                write(&mut expected, &case.stored, &path, true);
            }
            prop_assert_eq!(read, tidy(expected, &case.stored), "{:?}", case);
            Ok(())
        });
    }

    #[test]
    fn to_write_what_was_read_changes_nothing() {
        check(256, true, |case| {
            let (mask, stored) = (case.mask(), case.stored());
            let updated = mask.update(&stored, &mask.read(&stored));
            let updated = updated.map(|updated| to_json(&updated));
            let expected = Json::Object(case.stored.clone());
            prop_assert_eq!(updated, Ok(expected), "{:?}", case);
            Ok(())
        });
    }
}
