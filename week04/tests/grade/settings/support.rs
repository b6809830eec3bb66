//! A model of the rules, and generators of values.

use std::fmt::Debug;
use std::iter::once;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::LazyLock;
use std::time::Duration;

use Layer::{Default, Environment, File};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Value as Json, json};
use week04::options::Options;
use week04::problem::{Error, Fault, Layer, Problem};
use week04::schema;
use week04::settings::load;

/// A value in the file or in the environment, where it is a text.
pub(super) type Value = (&'static Setting, Layer, Json);

#[derive(Debug)]
pub(super) struct Setting {
    pub(super) path: String,
    pub(super) json_path: String,
    pub(super) field: FieldDescriptor,
}

type Section = (String, MessageDescriptor);

/// The path and the schema of each section. The first is the root.
pub(super) static SECTIONS: LazyLock<Vec<Section>> =
    LazyLock::new(|| sections("", &schema::settings()));

fn sections(path: &str, schema: &MessageDescriptor) -> Vec<Section> {
    let mut all = vec![(path.to_owned(), schema.clone())];
    for field in schema.fields() {
        if let Some(schema) = schema::section(&field) {
            all.extend(sections(&schema::join(path, field.name()), &schema));
        }
    }
    all
}

/// All settings, in the order of the schema.
pub(super) static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let settings = SECTIONS.iter().flat_map(|(section, schema)| {
        let fields = schema.fields().filter(|it| schema::section(it).is_none());
        fields.map(move |field| Setting {
            path: schema::join(section, field.name()),
            json_path: schema::join(section, field.json_name()),
            field,
        })
    });
    settings.collect()
});

/// Each setting in the file, and then each in the environment.
pub(super) fn places() -> impl Iterator<Item = (&'static Setting, Layer)> {
    let layers = [File, Environment].into_iter();
    layers.flat_map(|layer| SETTINGS.iter().map(move |it| (it, layer)))
}

/// Expects that `load` reports `others` and the problems of the values. If
/// there are none, expects the lines of the settings.
pub(super) fn expect_load(
    file: &dyn ToString,
    values: &[Value],
    others: &[Problem],
) {
    let problems = values.iter().filter_map(|(setting, layer, value)| {
        Some(problem(&setting.path, *layer, fault(setting, value)?))
    });
    let lines = SETTINGS.iter().filter_map(|setting| {
        let (layer, value) = effective(values, setting)?;
        let shown = schema::parse(&setting.field, &value).unwrap().1;
        let shown = if setting.is_secret() { "***" } else { &shown };
        Some(format!("{} = {shown} ({layer})\n", setting.path))
    });
    let problems = problems.chain(others.iter().cloned()).collect();
    let (file, variables) = (file.to_string(), variables(values));
    let input = format!("the settings of {file:?} and {variables:?}");
    let seen = load(&file, variables).map(|settings| settings.to_string());
    expect(seen, problems, || lines.collect(), &input);
}

/// Expects the options that have these values, or the problems of the options.
pub(super) fn expect_options(values: &[Value]) {
    let all = SETTINGS.iter().map(|it| (it, effective(values, it)));
    let problems = all.clone().filter_map(|(setting, value)| {
        let (layer, value) = value?;
        Some(problem(&setting.path, layer, unusable(setting, &value)?))
    });
    let expected = all.map(|(it, value)| Some(canonical(it, &value?.1)));
    let settings =
        load(&json_of(values).to_string(), variables(values)).unwrap();
    let seen = settings.options().map(texts);
    let input = format!("the options of\n{settings}");
    expect(seen, problems.collect(), || expected.collect(), &input);
}

/// Expects the problems, in any order, or the value if there are none.
fn expect<T: Debug + PartialEq>(
    seen: Result<T, Error>,
    problems: Vec<Problem>,
    value: impl FnOnce() -> T,
    input: &str,
) {
    let sorted = |problems: Vec<Problem>| {
        let texts = problems.iter().map(ToString::to_string);
        let mut texts: Vec<_> = texts.collect();
        texts.sort();
        texts
    };
    let none = problems.is_empty();
    let expected = if none { Ok(value()) } else { Err(sorted(problems)) };
    let seen = seen.map_err(|error| sorted(error.problems));
    assert_eq!(seen, expected, "{input}");
}

/// Returns all texts that can be printed.
pub(super) fn printed(values: &[Value]) -> String {
    let settings = load(&json_of(values).to_string(), variables(values));
    let options = settings.as_ref().map(|it| it.options());
    let text = settings.as_ref();
    let text = text.map_or_else(ToString::to_string, ToString::to_string);
    format!("{text} {settings:?} {settings:#?} {options:?} {options:#?}")
}

pub(super) fn problem(path: &str, layer: Layer, fault: Fault) -> Problem {
    Problem { path: path.to_owned(), layer, fault }
}

pub(super) fn unknown(
    section: &str,
    schema: &MessageDescriptor,
    key: &str,
) -> Problem {
    let known = schema.fields().map(|field| field.name().to_owned()).collect();
    problem(&schema::join(section, key), File, Fault::Unknown { known })
}

/// Returns why `load` refuses a value, or `None` if it does not.
pub(super) fn fault(setting: &Setting, value: &Json) -> Option<Fault> {
    let parsed = schema::parse(&setting.field, value);
    let text = value.as_str().unwrap_or_default();
    let (_, rest) = text.split_once("://").unwrap_or_default();
    let (_, after_colon) = rest.split_once(':').unwrap_or_default();
    let has_password = after_colon.contains('@') || rest.contains("password=");
    let has_password = has_password && !setting.is_secret();
    parsed.err().or(has_password.then_some(Fault::HasPassword))
}

/// Returns why a component cannot use a value, or `None` if it can.
pub(super) fn unusable(setting: &Setting, value: &Json) -> Option<Fault> {
    if value.is_null() {
        return None;
    }
    let text = canonical(setting, value);
    let not_an_address = text.parse::<SocketAddr>().is_err();
    match setting.type_fault() {
        Fault::NotADuration => text.starts_with('-').then_some(Fault::Negative),
        Fault::NotAString if !setting.is_address() => None,
        Fault::NotAString => not_an_address.then_some(Fault::NotAnAddress),
        _ if setting.path.ends_with("_bytes") => None,
        _ => (text == "0").then_some(Fault::Zero),
    }
}

/// Returns a value of the right type as [`texts`] prints it.
fn canonical(setting: &Setting, value: &Json) -> String {
    let shown = schema::parse(&setting.field, value).unwrap().1;
    let text = serde_json::from_str(&shown).unwrap_or(shown);
    if setting.type_fault() == Fault::NotADuration {
        let (seconds, fraction) = text.split_once(['.', 's']).unwrap();
        return format!("{seconds}.{:0<9}", fraction.trim_end_matches('s'));
    }
    let address = text.parse::<SocketAddr>().ok();
    let address = address.filter(|_| setting.is_address());
    address.map_or(text, |it| it.to_string())
}

/// Returns the text of each option, in the order of the schema.
fn texts(options: Options) -> Vec<Option<String>> {
    let duration = |it: Duration| {
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
fn effective(values: &[Value], setting: &Setting) -> Option<(Layer, Json)> {
    let set = values.iter().filter(|(it, ..)| it.path == setting.path);
    let set = set.map(|(_, layer, value)| (*layer, value.clone()));
    let default = (Default, schema::default(&setting.field));
    let mut all = once(default).chain(set);
    all.rfind(|(_, value)| !value.is_null())
}

/// Returns the file. Every second value has its JSON name.
pub(super) fn json_of(values: &[Value]) -> Json {
    let mut file = json!({});
    let in_file = values.iter().filter(|(_, layer, _)| *layer == File);
    for (index, (setting, _, value)) in in_file.enumerate() {
        let paths = [&setting.path, &setting.json_path];
        *member(&mut file, paths[index % 2]) = value.clone();
    }
    file
}

/// Returns the member with this path, and creates the sections on the way.
pub(super) fn member<'a>(file: &'a mut Json, path: &str) -> &'a mut Json {
    let names = path.split('.').filter(|name| !name.is_empty());
    names.fold(file, |json, name| &mut json[name])
}

pub(super) fn variables(values: &[Value]) -> Vec<(String, String)> {
    let values = values.iter().filter(|(_, layer, _)| *layer == Environment);
    let variables = values.map(|(setting, _, value)| {
        (setting.variable(), value.as_str().unwrap().to_owned())
    });
    variables.collect()
}

/// Returns the same variable for each setting.
pub(super) fn variables_with(text: &str) -> Vec<Value> {
    SETTINGS.iter().map(|it| (it, Environment, json!(text))).collect()
}

impl Setting {
    pub(super) fn variable(&self) -> String {
        format!("COMMENTS_{}", self.path.to_uppercase().replace('.', "_"))
    }

    pub(super) fn is_secret(&self) -> bool {
        schema::is_secret(&self.field)
    }

    pub(super) fn is_address(&self) -> bool {
        self.path.ends_with(".address")
    }

    /// The problem of a value of the wrong type.
    pub(super) fn type_fault(&self) -> Fault {
        match self.field.kind() {
            Kind::String => Fault::NotAString,
            Kind::Uint32 => Fault::NotAnInteger,
            _ => Fault::NotADuration,
        }
    }

    pub(super) fn wrong_values(&self, layer: Layer) -> Vec<Json> {
        let texts = match self.type_fault() {
            Fault::NotAString => "",
            Fault::NotAnInteger => "ten,0x10,-1,1.5,4294967296,,1s,1 ,null",
            _ => {
                "1,s,1m,250ms,1 s, 1s,1S,1e3s,.5s,,315576000001s,\
                 -315576000001s,99999999999999999999s,१s,null"
            }
        };
        let texts = texts.split(',').filter(|_| !texts.is_empty());
        let others =
            [json!(true), json!(1.5), json!(-1), json!([0]), json!({})];
        let others = others.into_iter().filter(|_| layer == File);
        others.chain(texts.map(Json::from)).collect()
    }

    /// Generates values for a layer. Most of them have the right type.
    fn values(&self, layer: Layer) -> impl Strategy<Value = Json> + use<> {
        let number = prop_oneof![Just(0), Just(u32::MAX), any::<u32>()].boxed();
        let texts = match self.type_fault() {
            Fault::NotAnInteger => {
                number.clone().prop_map(|it| it.to_string()).boxed()
            }
            Fault::NotADuration => duration().boxed(),
            _ if self.is_address() => address().boxed(),
            _ => prop_oneof![text(), url()].boxed(),
        };
        let texts = texts.prop_map(Json::from);
        let mut others = self.wrong_values(layer);
        others.push(Json::Null);
        let numbers = number.prop_map(Json::from);
        let values = prop_oneof![5 => texts, 1 => numbers, 1 => select(others)];
        values.prop_map(move |it| match layer {
            Environment if !it.is_string() => json!(it.to_string()),
            _ => it,
        })
    }
}

/// Generates values for some settings in each layer.
pub(super) fn values() -> impl Strategy<Value = Vec<Value>> {
    let values = places().map(|(setting, layer)| {
        let value = prop::option::of(setting.values(layer));
        value.prop_map(move |value| Some((setting, layer, value?)))
    });
    let values = values.collect::<Vec<_>>();
    values.prop_map(|values| values.into_iter().flatten().collect())
}

/// Generates values that `load` accepts.
pub(super) fn right_values() -> impl Strategy<Value = Vec<Value>> {
    values().prop_map(|mut values| {
        values.retain(|(setting, _, value)| fault(setting, value).is_none());
        values
    })
}

fn address() -> impl Strategy<Value = String> {
    let v4 = any::<SocketAddrV4>().prop_map(|it| it.to_string());
    let v6 = any::<SocketAddrV6>().prop_map(|it| it.to_string());
    let others = "[::1]:0,localhost:1,127.0.0.1,:80,,127.0.0.1:65536,\
        127.0.0.1:80 , 127.0.0.1:80,http://127.0.0.1:80,::1:80,[::1]";
    let others = others.split(',').map(str::to_owned).collect::<Vec<_>>();
    prop_oneof![v4, v6, select(others)]
}

/// Generates texts of durations of up to 10,000 years.
fn duration() -> impl Strategy<Value = String> {
    let seconds = prop_oneof![Just(0), 0..315_576_000_000_u64];
    let parts = ("-?", seconds, "|\\.[0-9]{1,9}");
    parts.prop_map(|(sign, seconds, fraction)| {
        format!("{sign}{seconds}{fraction}s")
    })
}

/// Generates any text, also with controls and quotes.
pub(super) fn text() -> impl Strategy<Value = String> {
    let chars = prop::collection::vec(any::<char>(), 0..12);
    let others = ["", " ", "0", "12345678", "true", "null", "{}", "\"a\""];
    let others = select(others.map(str::to_owned).to_vec());
    let chars = chars.prop_map(|chars| chars.into_iter().collect());
    prop_oneof![3 => chars, 1 => others]
}

/// Generates texts that resemble a URL with a password.
pub(super) fn url() -> impl Strategy<Value = String> {
    let parts = ":// : : @ @ / ?sslpassword= &password= PASSWORD= password";
    let parts = parts.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let part = prop_oneof![4 => select(parts), 1 => text()];
    prop::collection::vec(part, 0..9).prop_map(|parts| parts.concat())
}

/// Calls `test` with generated values. The seed is fixed.
pub(super) fn for_each<S: Strategy>(
    count: usize,
    values: S,
    test: impl Fn(S::Value),
) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    for _ in 0..count {
        test(values.new_tree(&mut runner).unwrap().current());
    }
}
