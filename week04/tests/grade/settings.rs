use std::net::{SocketAddr, SocketAddrV4};
use std::sync::LazyLock;

use Layer::{Environment, File};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Value as Json, json};
use week04::options::{Options, Secret};
use week04::problem::{Fault, Layer, Problem};
use week04::schema;
use week04::settings::load;

/// A value in the file or in the environment.
type Value = (Setting, Layer, Json);

mod file {
    use super::*;

    #[test]
    fn a_setting_that_is_not_set_has_its_default() {
        for file in ["{}", r#"{"data": {}, "server": {"http": {}}}"#] {
            expect_lines(file, &[]);
        }
    }

    #[test]
    fn a_value_in_the_file_overrides_only_its_own_default() {
        for_each(100, values(), |mut values| {
            values.retain(|(_, layer, _)| *layer == File);
            expect_lines(&json_of(&values).to_string(), &values);
        });
    }

    #[test]
    fn zero_and_empty_text_are_values_and_null_is_not() {
        for setting in SETTINGS.iter() {
            let zero = match setting.kind {
                Kind::String => json!(""),
                Kind::Message(_) => json!("0s"),
                _ => json!(0),
            };
            let values = [(setting.clone(), File, zero)];
            expect_lines(&json_of(&values).to_string(), &values);
            let null = [(setting.clone(), File, json!(null))];
            expect_lines(&json_of(&null).to_string(), &[]);
        }
        expect_lines(r#"{"data": null, "server": {"http": null}}"#, &[]);
    }
}

mod problems {
    use super::*;

    #[test]
    fn an_unknown_key_at_any_depth_is_reported_with_its_path() {
        let mut keys = vec!["adress", "DATA", "a.b", "a\nb", "", "timeout_s"];
        keys.extend(SETTINGS.iter().map(|setting| &*setting.path));
        keys.extend(
            SECTIONS.iter().flat_map(|(_, names)| names).map(String::as_str),
        );
        let key = prop_oneof![text(), select(keys).prop_map(str::to_owned)];
        let value = select(vec![json!(null), json!(1), json!("a"), json!({})]);
        let input = (values(), any::<Index>(), key, value);
        for_each(100, input, |(values, section, key, value)| {
            let (section, names) = section.get(&SECTIONS);
            if !names.contains(&key) {
                let mut file = json_of(&values);
                member(&mut file, section)[&key] = value;
                expect_problems(&file, &[], &[unknown(section, &key)]);
            }
        });
    }

    #[test]
    fn the_json_name_is_unknown_if_both_names_occur() {
        for setting in SETTINGS.iter().filter(|it| it.path != it.json_path) {
            let mut file = json!({});
            *member(&mut file, &setting.path) = setting.default.clone();
            *member(&mut file, &setting.json_path) = setting.default.clone();
            let (section, name) = setting.json_path.rsplit_once('.').unwrap();
            expect_problems(&file, &[], &[unknown(section, name)]);
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_reported_with_its_path() {
        for setting in SETTINGS.iter() {
            let (fault, wrong) = wrong_values(setting);
            for (layer, value) in wrong {
                let values = [(setting.clone(), layer, value)];
                let problem = problem(&setting.path, layer, fault.clone());
                expect_problems(&json_of(&values), &values, &[problem]);
            }
        }
        for (path, _) in SECTIONS.iter() {
            for value in [json!(true), json!(0), json!(""), json!([{}])] {
                let mut file = json!({});
                *member(&mut file, path) = value;
                let problem = problem(path, File, Fault::NotAnObject);
                expect_problems(&file, &[], &[problem]);
            }
        }
    }

    #[test]
    fn all_problems_of_all_layers_are_reported_at_once() {
        let wrong = prop::collection::vec(any::<(Index, Index)>(), 0..9);
        for_each(100, (values(), wrong), |(mut values, wrong)| {
            let mut problems = vec![];
            for (setting, value) in wrong {
                let setting = setting.get(&SETTINGS);
                let (fault, wrong) = wrong_values(setting);
                let (layer, value) = value.get(&wrong).clone();
                let problem = problem(&setting.path, layer, fault);
                if !problems.contains(&problem) {
                    values.retain(|(it, of, _)| (it, *of) != (setting, layer));
                    values.push((setting.clone(), layer, value));
                    problems.push(problem);
                }
            }
            let mut file = json_of(&values);
            for (section, _) in SECTIONS.iter() {
                for key in ["unknown", "adress"] {
                    member(&mut file, section)[key] = json!(1);
                    problems.push(unknown(section, key));
                }
            }
            expect_problems(&file, &values, &problems);
        });
    }

    #[test]
    fn a_file_that_is_not_json_is_a_syntax_problem() {
        let timeout = |it: &&Setting| it.path == "server.http.timeout";
        let timeout = SETTINGS.iter().find(timeout).unwrap();
        let text = r#"{"data": {"url": "sqlite://é\n.db"}, "server": null}"#;
        let prefixes = text.char_indices().map(|(end, _)| &text[..end]);
        for file in prefixes.chain(["{} {}", "{'data': {}}", "data: {}"]) {
            let error = serde_json::from_str::<Json>(file).unwrap_err();
            let (line, column) = (error.line(), error.column());
            let syntax = problem("", File, Fault::Syntax { line, column });
            let wrong = (timeout.clone(), Environment, json!("5"));
            let problem =
                problem(&timeout.path, Environment, Fault::NotADuration);
            expect_problems(&file, &[wrong], &[syntax, problem]);
        }
    }

    #[test]
    fn a_url_with_a_password_is_reported_from_every_layer() {
        let layer = select(vec![File, Environment]);
        let input = (text(), text(), text(), any::<bool>(), layer);
        for_each(60, input, |(user, password, host, in_query, layer)| {
            let url = if in_query {
                format!("postgres://{host}/db?user={user}&password={password}")
            } else {
                format!("postgres://{user}:{password}@{host}:5432/db")
            };
            for setting in SETTINGS.iter().filter(|it| it.is_text()) {
                let values = [(setting.clone(), layer, json!(url))];
                let file = json_of(&values);
                let problem = problem(&setting.path, layer, Fault::HasPassword);
                if setting.secret {
                    expect_lines(&file.to_string(), &values);
                } else {
                    expect_problems(&file, &values, &[problem]);
                }
            }
        });
        let right = ["postgres://me@[::1]:5432/db", "me:secret@host", ":@://"];
        for url in right.into_iter().chain(["sqlite://a:b", "a:b@c://d:1"]) {
            for setting in SETTINGS.iter().filter(|it| it.is_text()) {
                let values = [(setting.clone(), File, json!(url))];
                expect_lines(&json_of(&values).to_string(), &values);
            }
        }
    }
}

mod environment {
    use super::*;

    #[test]
    fn a_variable_overrides_the_file_and_the_default() {
        for_each(100, values(), |values| {
            expect_lines(&json_of(&values).to_string(), &values);
        });
    }

    #[test]
    fn an_empty_variable_overrides_the_file() {
        for setting in SETTINGS.iter().filter(|it| it.is_text()) {
            let empty = (setting.clone(), Environment, json!(""));
            let values = [(setting.clone(), File, json!("text")), empty];
            expect_lines(&json_of(&values).to_string(), &values);
        }
    }

    #[test]
    fn variables_that_name_no_setting_are_ignored() {
        let names = "COMMENTS_PORT COMMENTS_SERVICE_HOST COMMENTS_ COMMENTS \
            COMMENTS_DATA COMMENTS_SERVER_HTTP SERVER_HTTP_TIMEOUT DATA_URL \
            comments_data_url COMMENTS_DATA_URL_ XCOMMENTS_DATA_URL \
            COMMENTS.DATA.URL COMMENTS_DATA_MAXCONNECTIONS";
        let variables = names.split_whitespace().map(|name| {
            (name.to_owned(), "tcp://me:secret@10.0.0.1:8000".to_owned())
        });
        let settings = load("{}", variables).unwrap_or_else(|error| {
            panic!("expected that load ignores {names}, got {error}")
        });
        assert_eq!(settings.to_string(), load("{}", []).unwrap().to_string());
    }
}

mod options {
    use super::*;

    #[test]
    fn each_option_has_the_value_of_its_setting() {
        for_each(100, values(), |mut values| {
            values.retain(|(setting, _, value)| {
                unusable(setting, value).is_none()
            });
            let file = json_of(&values).to_string();
            let settings = load(&file, variables(&values)).unwrap();
            let options = settings.options().unwrap_or_else(|error| {
                panic!("expected the options of\n{settings}got {error}")
            });
            let expected = SETTINGS.iter().map(|setting| {
                let value = value_of(&values, setting);
                value.map(|(_, value)| canonical(setting, &value))
            });
            let expected: Vec<_> = expected.collect();
            assert_eq!(texts(options), expected, "the options of\n{settings}");
        });
    }

    #[test]
    fn all_values_that_a_component_cannot_use_are_reported_at_once() {
        for_each(100, values(), |values| {
            let file = json_of(&values).to_string();
            let settings = load(&file, variables(&values)).unwrap();
            let expected = SETTINGS.iter().filter_map(|setting| {
                let (layer, value) = value_of(&values, setting)?;
                let fault = unusable(setting, &value)?;
                Some(problem(&setting.path, layer, fault))
            });
            let expected: Vec<_> = expected.collect();
            let error = settings.options().err();
            let seen = error.map_or(vec![], |error| error.problems);
            let input = format!("the options of\n{settings}");
            assert_eq!(sorted(&seen), sorted(&expected), "{input}");
        });
    }

    #[test]
    fn no_printed_text_depends_on_a_secret() {
        let layer = select(vec![File, Environment]);
        for_each(100, (text(), text(), layer), |(one, other, layer)| {
            let [one, other] = [one, other].map(|secret| {
                let password = SETTINGS.iter().find(|it| it.secret).unwrap();
                let values = [(password.clone(), layer, json!(secret))];
                let file = json_of(&values).to_string();
                let settings = load(&file, variables(&values)).unwrap();
                let options = settings.options().unwrap();
                let seen = options.data.password.as_ref().map(Secret::expose);
                assert_eq!(seen, Some(&*secret), "the password");
                format!("{settings} {settings:?} {settings:#?} {options:?}")
            });
            assert_eq!(one, other, "the texts of two passwords");
        });
    }

    #[test]
    fn no_error_depends_on_a_misplaced_secret() {
        for_each(50, (text(), text()), |(one, other)| {
            let [one, other] = [one, other].map(|secret| {
                let secret = format!("hunter{secret}");
                let files = [
                    json!({ "data": { "password": [secret] } }),
                    json!({ "data": { "password": { "value": secret } } }),
                    json!({ "data": { "pasword": secret } }),
                    json!({ "data": { "max_connections": secret } }),
                    json!({ "data": { "acquire_timeout": secret } }),
                    json!({ "data": { "url": format!("a://b:{secret}@c") } }),
                    json!({ "server": { "http": { "address": secret } } }),
                    json!({ "data": secret }),
                ];
                files.map(|file| {
                    let settings = load(&file.to_string(), []);
                    let error = settings.and_then(|it| it.options());
                    let error = error.unwrap_err();
                    format!("{error} {error:?} {error:#?}")
                })
            });
            assert_eq!(one, other, "the errors of two secrets");
        });
    }
}

/// Expects one line for each setting that has a value, in schema order.
fn expect_lines(file: &str, values: &[Value]) {
    let lines = SETTINGS.iter().filter_map(|setting| {
        let (layer, value) = value_of(values, setting)?;
        let value = value.to_string();
        let shown = if setting.secret { "***" } else { &value };
        Some(format!("{} = {shown} ({layer})\n", setting.path))
    });
    let (lines, variables): (String, _) = (lines.collect(), variables(values));
    let input = format!("the settings of {file:?} and {variables:?}");
    match load(file, variables) {
        Ok(settings) => assert_eq!(settings.to_string(), lines, "{input}"),
        Err(error) => panic!("{input}: expected\n{lines}got {error}"),
    }
}

/// Expects that `load` reports exactly these problems, in any order.
fn expect_problems(
    file: &dyn ToString,
    values: &[Value],
    expected: &[Problem],
) {
    let (file, variables) = (file.to_string(), variables(values));
    let input = format!("the problems of {file:?} and {variables:?}");
    let seen = load(&file, variables).err();
    let seen = seen.map_or(vec![], |error| error.problems);
    assert_eq!(sorted(&seen), sorted(expected), "{input}");
}

fn sorted(problems: &[Problem]) -> Vec<String> {
    let mut texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}

fn problem(path: &str, layer: Layer, fault: Fault) -> Problem {
    Problem { path: path.to_owned(), layer, fault }
}

fn unknown(section: &str, key: &str) -> Problem {
    let schema = section.split('.').filter(|name| !name.is_empty());
    let schema = schema.fold(schema::settings(), |schema, name| {
        schema::section(&schema.get_field_by_name(name).unwrap()).unwrap()
    });
    let known = schema.fields().map(|field| field.name().to_owned()).collect();
    problem(&schema::join(section, key), File, Fault::Unknown { known })
}

/// Returns values of the wrong type, and the problem with them.
fn wrong_values(setting: &Setting) -> (Fault, Vec<(Layer, Json)>) {
    let (fault, texts) = match setting.kind {
        Kind::String => (Fault::NotAString, ""),
        Kind::Uint32 => {
            (Fault::NotAnInteger, "ten,0x10,-1,1.5,4294967296,,1s,1 ,null")
        }
        _ => (
            Fault::NotADuration,
            "1,s,1m,250ms,1 s, 1s,1S,1e3s,.5s,,315576000001s,\
             -315576000001s,99999999999999999999s,१s,null",
        ),
    };
    let texts = texts.split(',').filter(|_| !texts.is_empty());
    let texts =
        texts.flat_map(|it| [(File, it.into()), (Environment, it.into())]);
    let others = [json!(true), json!(1.5), json!(-1), json!([0]), json!({})];
    let others = others.into_iter().map(|value| (File, value));
    (fault, others.chain(texts).collect())
}

/// Returns why a component cannot use a value, or `None` if it can.
fn unusable(setting: &Setting, value: &Json) -> Option<Fault> {
    let text = value.as_str().unwrap_or_default();
    let is_address = text.parse::<SocketAddr>().is_ok();
    match setting.kind {
        Kind::String if !setting.path.ends_with(".address") => None,
        Kind::String => (!is_address).then_some(Fault::NotAnAddress),
        Kind::Message(_) => text.starts_with('-').then_some(Fault::Negative),
        _ if setting.path.ends_with("_bytes") => None,
        _ => (*value == json!(0)).then_some(Fault::Zero),
    }
}

/// Returns a value as [`texts`] prints it.
fn canonical(setting: &Setting, value: &Json) -> String {
    let text = value.as_str().map_or(value.to_string(), str::to_owned);
    if !matches!(setting.kind, Kind::Message(_)) {
        return text;
    }
    let (seconds, fraction) = text.split_once(['.', 's']).unwrap();
    format!("{seconds}.{:0<9}", fraction.trim_end_matches('s'))
}

/// Returns the text of each option, in the order of the schema.
fn texts(options: Options) -> Vec<Option<String>> {
    let duration = |it: std::time::Duration| {
        Some(format!("{}.{:09}", it.as_secs(), it.subsec_nanos()))
    };
    let Options { http, grpc, data, shutdown } = options;
    let mut texts = vec![];
    for it in [http, grpc] {
        texts.extend([Some(it.address.to_string()), duration(it.timeout)]);
        texts.push(Some(it.max_body_bytes.to_string()));
    }
    texts.push(Some(data.url));
    texts.push(data.password.map(|password| password.expose().to_owned()));
    texts.push(Some(data.max_connections.to_string()));
    texts.push(duration(data.acquire_timeout));
    texts.extend([duration(shutdown.lame_duck), duration(shutdown.budget)]);
    texts
}

/// Returns the effective value of a setting, and its layer.
fn value_of(values: &[Value], setting: &Setting) -> Option<(Layer, Json)> {
    let default = (setting.clone(), Layer::Default, setting.default.clone());
    let all = [default].into_iter().chain(values.iter().cloned());
    let set = all.filter(|(it, _, value)| it == setting && !value.is_null());
    set.last().map(|(_, layer, value)| (layer, value))
}

/// Returns the file. Every second value has its JSON name.
fn json_of(values: &[Value]) -> Json {
    let mut file = json!({});
    let in_file = values.iter().filter(|(_, layer, _)| *layer == File);
    for (index, (setting, _, value)) in in_file.enumerate() {
        let paths = [&setting.path, &setting.json_path];
        *member(&mut file, paths[index % 2]) = value.clone();
    }
    file
}

/// Returns the member with this path, and creates the sections on the way.
fn member<'a>(file: &'a mut Json, path: &str) -> &'a mut Json {
    let names = path.split('.').filter(|name| !name.is_empty());
    names.fold(file, |json, name| &mut json[name])
}

fn variables(values: &[Value]) -> Vec<(String, String)> {
    let values = values.iter().filter(|(_, layer, _)| *layer == Environment);
    let variables = values.map(|(setting, _, value)| {
        let name = setting.path.to_uppercase().replace('.', "_");
        let text = value.as_str().map_or(value.to_string(), str::to_owned);
        (format!("COMMENTS_{name}"), text)
    });
    variables.collect()
}

#[derive(Clone, Debug, PartialEq)]
struct Setting {
    path: String,
    json_path: String,
    kind: Kind,
    default: Json,
    secret: bool,
}

/// All settings, in the order of the schema.
static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut settings = vec![];
    walk("", &schema::settings(), &mut settings, &mut vec![]);
    settings
});

/// The path of each section, and all names of its fields. The first is the root.
static SECTIONS: LazyLock<Vec<(String, Vec<String>)>> = LazyLock::new(|| {
    let mut sections = vec![];
    walk("", &schema::settings(), &mut vec![], &mut sections);
    sections
});

fn walk(
    path: &str,
    schema: &MessageDescriptor,
    settings: &mut Vec<Setting>,
    sections: &mut Vec<(String, Vec<String>)>,
) {
    let fields = schema.fields();
    let names = fields.flat_map(|it| [it.name().into(), it.json_name().into()]);
    sections.push((path.to_owned(), names.collect()));
    for field in schema.fields() {
        let kind = field.kind();
        let json_path = schema::join(path, field.json_name());
        let path = schema::join(path, field.name());
        match schema::section(&field) {
            Some(schema) => walk(&path, &schema, settings, sections),
            None => {
                let default = schema::default(&field);
                let secret = schema::is_secret(&field);
                let setting =
                    Setting { path, json_path, kind, default, secret };
                settings.push(setting);
            }
        }
    }
}

impl Setting {
    fn is_text(&self) -> bool {
        matches!(self.kind, Kind::String)
    }

    /// Generates canonical values of the right type.
    fn value(&self) -> BoxedStrategy<Json> {
        let address = any::<SocketAddrV4>().prop_map(|it| it.to_string());
        let no_address = ["[::1]:0", "localhost:1", "127.0.0.1", ":80", ""];
        let no_address = select(no_address.map(str::to_owned).to_vec());
        let number = prop_oneof![Just(0), Just(u32::MAX), any::<u32>()];
        match self.kind {
            Kind::Uint32 => number.prop_map(Json::from).boxed(),
            Kind::Message(_) => duration().prop_map(Json::from).boxed(),
            _ if self.path.ends_with(".address") => {
                prop_oneof![address, no_address].prop_map(Json::from).boxed()
            }
            _ => text().prop_map(Json::from).boxed(),
        }
    }
}

/// Generates values of the right type for some settings in each layer.
fn values() -> impl Strategy<Value = Vec<Value>> {
    let layers = [File, Environment];
    let values = layers.map(|layer| {
        let values = SETTINGS.iter().map(|setting| {
            let value = prop::option::of(setting.value());
            (Just(setting.clone()), Just(layer), value)
        });
        values.collect::<Vec<_>>()
    });
    values.concat().prop_map(|values| {
        let set = values.into_iter();
        set.filter_map(|(it, layer, value)| Some((it, layer, value?))).collect()
    })
}

/// Generates canonical texts of durations of up to 10,000 years.
fn duration() -> impl Strategy<Value = String> {
    let seconds = prop_oneof![Just(0), 0..315_576_000_000_u64];
    let fraction = "|\\.[0-9]{2}[1-9]|\\.[0-9]{5}[1-9]|\\.[0-9]{8}[1-9]";
    let parts = ("-?", seconds, fraction);
    parts.prop_map(|(sign, seconds, fraction)| {
        let zero = seconds == 0 && fraction.is_empty();
        let sign = if zero { "" } else { &*sign };
        format!("{sign}{seconds}{fraction}s")
    })
}

/// Generates any text, also with controls and quotes.
fn text() -> impl Strategy<Value = String> {
    let chars = prop::collection::vec(any::<char>(), 0..12);
    chars.prop_map(|chars| chars.into_iter().collect())
}

/// Calls `test` with generated values. The seed is fixed.
fn for_each<S: Strategy>(count: usize, values: S, test: impl Fn(S::Value)) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    for _ in 0..count {
        test(values.new_tree(&mut runner).unwrap().current());
    }
}
