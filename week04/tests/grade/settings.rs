use std::iter::{repeat, zip};

use Layer::{Environment, File};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value as Json, json};
use week04::problem::{Fault, Layer};
use week04::schema;
use week04::settings::load;

use support::*;

#[path = "settings/support.rs"]
mod support;

mod file {
    use super::*;

    #[test]
    fn a_setting_that_is_not_set_has_its_default() {
        let empty = r#"{"data": {}, "server": {"http": {}}}"#;
        let null = r#"{"data": null, "server": {"http": null}}"#;
        for file in ["{}", "null", empty, null] {
            expect_load(&file, &[], &[]);
        }
    }

    #[test]
    fn a_value_in_the_file_overrides_only_its_own_default() {
        for_each(100, right_values(), |mut values| {
            values.retain(|(_, layer, _)| *layer == File);
            expect_load(&json_of(&values), &values, &[]);
        });
    }

    #[test]
    fn zero_and_empty_text_are_values_and_null_is_not() {
        for setting in SETTINGS.iter() {
            let zero = match setting.type_fault() {
                Fault::NotAString => json!(""),
                Fault::NotADuration => json!("0s"),
                _ => json!(0),
            };
            for value in [zero, Json::Null] {
                let values = [(setting, File, value)];
                expect_load(&json_of(&values), &values, &[]);
            }
        }
    }
}

mod problems {
    use super::*;

    #[test]
    fn an_unknown_key_at_any_depth_is_reported_with_its_path() {
        let mut keys = vec!["adress".into(), "a.b".into(), "a\nb".into()];
        keys.extend(SETTINGS.iter().map(|setting| setting.path.clone()));
        let fields = SECTIONS.iter().flat_map(|(_, schema)| schema.fields());
        for field in fields {
            let name = field.name();
            keys.extend([name.into(), field.json_name().into()]);
            keys.push(name.to_uppercase());
            keys.extend([name.replace('_', "-"), name.replace('_', "__")]);
            keys.extend([format!("{name}_"), format!(" {name}")]);
        }
        let key = prop_oneof![text(), select(keys)];
        let object = json!({ "timeout": "5s", "a": { "b": 1 } });
        let values = [json!(null), json!(1), json!("a"), json!({}), object];
        let value = select(values.to_vec());
        let unknown_keys = vec((any::<Index>(), key, value), 1..5);
        for_each(100, (right_values(), unknown_keys), |(values, keys)| {
            let (mut file, mut problems) = (json_of(&values), vec![]);
            for (section, key, value) in keys {
                let (section, schema) = section.get(&SECTIONS);
                let problem = unknown(section, schema, &key);
                let known = schema.get_field_by_name(&key);
                let known = known.or(schema.get_field_by_json_name(&key));
                if known.is_none() && !problems.contains(&problem) {
                    member(&mut file, section)[&key] = value;
                    problems.push(problem);
                }
            }
            expect_load(&file, &values, &problems);
        });
    }

    #[test]
    fn the_json_name_is_unknown_if_both_names_occur() {
        for setting in SETTINGS.iter().filter(|it| it.path != it.json_path) {
            let (section, name) = setting.json_path.rsplit_once('.').unwrap();
            let schema = setting.field.parent_message();
            let problems = [unknown(section, schema, name)];
            let default = schema::default(&setting.field);
            let values = [default, json!(null), json!([])];
            for index in 0..9 {
                let [value, other] =
                    [index / 3, index % 3].map(|it| values[it].clone());
                let values = [(setting, File, value)];
                let mut file = json_of(&values);
                *member(&mut file, &setting.json_path) = other;
                expect_load(&file, &values, &problems);
            }
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_reported_with_its_path() {
        for (setting, layer) in places() {
            for value in setting.wrong_values(layer) {
                let expected = Some(setting.type_fault());
                assert_eq!(fault(setting, &value), expected, "{value}");
                let values = [(setting, layer, value)];
                expect_load(&json_of(&values), &values, &[]);
            }
        }
        for (path, _) in SECTIONS.iter() {
            for value in [json!(true), json!(0), json!(""), json!([{}])] {
                let mut file = json!({});
                *member(&mut file, path) = value;
                let problem = problem(path, File, Fault::NotAnObject);
                expect_load(&file, &variables_with("1"), &[problem]);
            }
        }
    }

    #[test]
    fn a_file_that_is_not_json_is_a_syntax_problem() {
        let text = r#"{"data": {"url": "sqlite://é\n.db"}, "server": null}"#;
        let prefixes = text.char_indices().map(|(end, _)| &text[..end]);
        let others = ["{} {}", "{'data': {}}", "data: {}", "{} //", "[{},]"];
        for file in prefixes.chain(others) {
            let error = serde_json::from_str::<Json>(file).unwrap_err();
            let (line, column) = (error.line(), error.column());
            let syntax = problem("", File, Fault::Syntax { line, column });
            expect_load(&file, &variables_with("1"), &[syntax]);
        }
    }

    #[test]
    fn all_problems_of_all_layers_are_reported_at_once() {
        for_each(100, values(), |values| {
            let (mut file, mut problems) = (json_of(&values), vec![]);
            for (section, schema) in SECTIONS.iter() {
                // A key may look like a path. Then two problems have one path.
                for key in ["adress", "data.url", "http.timeout"] {
                    member(&mut file, section)[key] = json!(1);
                    problems.push(unknown(section, schema, key));
                }
            }
            expect_load(&file, &values, &problems);
        });
    }

    #[test]
    fn a_url_with_a_password_is_reported_from_every_layer() {
        for_each(300, vec(url(), 2 * SETTINGS.len()), |urls| {
            let values = zip(places(), urls);
            let values =
                values.map(|((it, layer), url)| (it, layer, json!(url)));
            let values: Vec<_> = values.collect();
            expect_load(&json_of(&values), &values, &[]);
        });
    }
}

mod environment {
    use super::*;

    #[test]
    fn a_variable_overrides_the_file_and_the_default() {
        for_each(100, right_values(), |values| {
            expect_load(&json_of(&values), &values, &[]);
        });
    }

    #[test]
    fn variables_that_name_no_setting_are_ignored() {
        let names = "COMMENTS_PORT COMMENTS_SERVICE_HOST COMMENTS_ COMMENTS \
            COMMENTS_DATA COMMENTS_SERVER_HTTP";
        let mut names: Vec<_> = names.split(' ').map(str::to_owned).collect();
        for setting in SETTINGS.iter() {
            let name = setting.variable();
            let path = setting.path.replace('.', "_");
            let json_path = setting.json_path.replace('.', "_").to_uppercase();
            names.extend([path.to_uppercase(), format!("COMMENTS_{path}")]);
            names.extend([format!("COMMENTS_{name}"), format!("X{name}")]);
            names.extend([format!("{name}_"), name.to_lowercase()]);
            names.extend([name.replace('_', "."), name.replace('_', "__")]);
            names.push(format!("COMMENTS_{json_path}"));
        }
        names.retain(|name| SETTINGS.iter().all(|it| it.variable() != *name));
        let url = "tcp://me:secret@10.0.0.1:8000".to_owned();
        let others: Vec<_> = names.into_iter().zip(repeat(url)).collect();
        for_each(20, right_values(), |values| {
            let file = json_of(&values).to_string();
            let [expected, seen] = [&[], &*others].map(|others| {
                let variables = [&variables(&values), others].concat();
                let settings = load(&file, variables);
                settings.map(|it| it.to_string()).map_err(|it| it.to_string())
            });
            assert_eq!(seen, expected, "the settings with {others:?}");
        });
    }
}

mod options {
    use super::*;

    #[test]
    fn each_option_has_the_value_of_its_setting() {
        for_each(100, right_values(), |mut values| {
            values.retain(|(setting, _, it)| unusable(setting, it).is_none());
            expect_options(&values);
        });
    }

    #[test]
    fn all_values_that_a_component_cannot_use_are_reported_at_once() {
        for_each(100, right_values(), |values| expect_options(&values));
    }

    #[test]
    fn no_printed_text_depends_on_a_secret() {
        let layer = select(vec![File, Environment]);
        let input = (values(), 0..3, layer, text(), text());
        for_each(100, input, |(mut values, stage, layer, one, other)| {
            values.retain(|(setting, _, value)| {
                !setting.is_secret()
                    && (stage < 1 || fault(setting, value).is_none())
                    && (stage < 2 || unusable(setting, value).is_none())
            });
            let password = SETTINGS.iter().find(|it| it.is_secret()).unwrap();
            let [one, other] = [one, other].map(|secret| {
                let mut values = values.clone();
                values.push((password, layer, json!(secret)));
                printed(&values)
            });
            assert_eq!(one, other, "the texts of two passwords");
        });
    }

    #[test]
    fn no_error_depends_on_a_misplaced_secret() {
        for_each(20, (text(), text()), |(one, other)| {
            let [one, other] = [one, other].map(|secret| {
                let error = |file: &Json, values: &[Value]| {
                    let settings = load(&file.to_string(), variables(values));
                    let error = settings.and_then(|it| it.options());
                    let error = error.unwrap_err();
                    format!("{error} {error:?} {error:#?}")
                };
                let text = json!(format!("hunter{secret}"));
                let url = json!(format!("a://b:{secret}@c"));
                let mut errors = vec![];
                let values =
                    [&text, &url, &json!([text]), &json!({ "a": text })];
                for value in values {
                    let values = places().map(|(setting, layer)| {
                        let fits = layer == File || value.is_string();
                        let value = if fits { value } else { &url };
                        (setting, layer, value.clone())
                    });
                    let values: Vec<_> = values.collect();
                    let mut file = json_of(&values);
                    for (section, _) in SECTIONS.iter() {
                        member(&mut file, section)["pasword"] = value.clone();
                        let mut other = json!({});
                        *member(&mut other, section) = value.clone();
                        errors.push(error(&other, &[]));
                    }
                    errors.push(error(&file, &values));
                }
                for (setting, layer) in
                    places().filter(|(it, _)| it.is_address())
                {
                    let values = [(setting, layer, text.clone())];
                    errors.push(error(&json_of(&values), &values));
                }
                errors
            });
            assert_eq!(one, other, "the texts of two secrets");
        });
    }
}
