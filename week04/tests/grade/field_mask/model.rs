//! A model of updates on JSON, and generated updates of profiles.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use prost_reflect::{
    DynamicMessage, Kind, MessageDescriptor, SerializeOptions,
};
use serde_json::{Map, Value as Json, from_str, json};
use week04::field_mask::Mask;
use week04::field_path::{MaskError, quote};
use week04_api::DESCRIPTORS;

pub(crate) type Object = Map<String, Json>;
pub(crate) type Path = Vec<String>;
pub(crate) type Verdict = Result<(), TestCaseError>;

/// An update. The messages are JSON with the names of the .proto file.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) stored: Object,
    pub(crate) sent: Object,
    pub(crate) paths: Vec<Path>,
}

impl Case {
    pub(crate) fn stored(&self) -> DynamicMessage {
        message(&profile(), &self.stored.clone().into())
    }

    pub(crate) fn sent(&self) -> DynamicMessage {
        message(&profile(), &self.sent.clone().into())
    }

    pub(crate) fn mask(&self) -> Mask {
        let paths: Vec<_> = self.paths.iter().map(text).collect();
        Mask::parse(&profile(), &paths).expect("expected a mask")
    }

    pub(crate) fn check(&self) -> Verdict {
        self.check_mask(Ok(self.mask()))
    }

    /// Compares an update with the model, and repeats it.
    pub(crate) fn check_mask(&self, mask: Result<Mask, MaskError>) -> Verdict {
        let mask = mask.expect("expected a mask");
        let mut expected = self.stored.clone();
        for path in self.selected() {
            write(&mut expected, &self.sent, &path, false);
        }
        let expected = tidy(expected, &self.sent);
        let (mut updated, sent) = (self.stored(), self.sent());
        for times in 1..=2 {
            let result = mask.update(&updated, &sent);
            updated = result.expect("expected no error of the update");
            let updated = to_json(&updated);
            prop_assert_eq!(&updated, &expected, "{} times {:?}", times, self);
        }
        Ok(())
    }

    /// Returns the paths, or all fields of the message instead of `*`.
    pub(crate) fn selected(&self) -> Vec<Path> {
        if self.paths != [["*"]] {
            return self.paths.clone();
        }
        profile().fields().map(|field| vec![field.name().to_owned()]).collect()
    }
}

/// The model: writes the value at one path of `new` into `old`.
pub(crate) fn write(
    old: &mut Object,
    new: &Object,
    path: &[String],
    reading: bool,
) {
    let (first, rest) = path.split_first().expect("a path is not empty");
    if OUTPUT_ONLY.contains(&&**first) && !reading {
        return;
    }
    let (before, after) = (old.remove(first), new.get(first));
    let value = if rest.is_empty() {
        after.map(|after| replaced(before.as_ref(), after, reading))
    } else {
        let mut inner = before.clone().unwrap_or_else(|| json!({}));
        let inside = inner.as_object_mut().expect("only objects have parts");
        let after = after.and_then(Json::as_object);
        write(inside, after.unwrap_or(&Map::new()), rest, reading);
        let exists = before.is_some() || !inside.is_empty();
        exists.then_some(inner)
    };
    old.extend(value.map(|value| (first.clone(), value)));
}

/// The model: returns `new` with the output-only fields of `old`.
fn replaced(old: Option<&Json>, new: &Json, reading: bool) -> Json {
    let is_output_only = |key: &&String| OUTPUT_ONLY.contains(&&***key);
    match new {
        Json::Object(new) => {
            let empty = Map::new();
            let old = old.and_then(Json::as_object).unwrap_or(&empty);
            let sent =
                new.iter().filter(|(k, _)| reading || !is_output_only(k));
            let sent = sent
                .map(|(k, v)| (k.clone(), replaced(old.get(k), v, reading)));
            let kept = old.iter().filter(|(key, _)| is_output_only(key));
            let kept = kept.map(|(key, value)| (key.clone(), value.clone()));
            sent.chain(kept).collect()
        }
        Json::Array(new) => {
            let strip = |element: &Json| replaced(None, element, reading);
            let old = old.and_then(Json::as_array);
            let mut old = old.cloned().unwrap_or_default();
            let elements = new.iter().map(|new| {
                let same = old.iter().position(|old| strip(old) == strip(new));
                same.map_or_else(|| strip(new), |index| old.remove(index))
            });
            elements.collect()
        }
        _ => new.clone(),
    }
}

/// The model: keeps the `sent` member of the oneof, and omits empty maps.
pub(crate) fn tidy(mut message: Object, sent: &Object) -> Json {
    if message.contains_key("email") && message.contains_key("phone") {
        let sent_email = sent.contains_key("email");
        message.remove(if sent_email { "phone" } else { "email" });
    }
    message.retain(|key, v| !MAPS.contains(&&**key) || *v != json!({}));
    message.into()
}

const OUTPUT_ONLY: [&str; 3] = ["visit_count", "create_time", "population"];
pub(crate) const MAPS: [&str; 3] = ["labels", "offices", "prizes"];
const STRINGS: [&str; 6] = ["a", "", "a.b", "city", "*", "Zoë`, \"\n"];
const INTEGERS: [i32; 4] = [7, 0, i32::MIN, i32::MAX];

pub(crate) fn profile() -> MessageDescriptor {
    DESCRIPTORS.get_message_by_name("profile.v1.Profile").unwrap()
}

/// Returns every path of a profile, with some keys of each map, and some values
/// for each path.
pub(crate) fn places() -> Vec<(Path, Vec<Json>)> {
    let mut all = Vec::new();
    collect_places(&profile(), &[], &mut all);
    all
}

fn collect_places(
    parent: &MessageDescriptor,
    outer: &[String],
    all: &mut Vec<(Path, Vec<Json>)>,
) {
    for field in parent.fields() {
        let path = [outer, &[field.name().to_owned()]].concat();
        if !field.is_map() {
            collect_values(&field.kind(), field.is_list(), path, all);
            continue;
        }
        all.push((path.clone(), Vec::new()));
        let entry = field.kind().as_message().cloned().unwrap();
        let keys = match entry.map_entry_key_field().kind() {
            Kind::String => STRINGS.map(str::to_owned).to_vec(),
            _ => INTEGERS.map(|key| key.to_string()).to_vec(),
        };
        for key in keys {
            let path = [&path[..], &[key]].concat();
            let kind = entry.map_entry_value_field().kind();
            collect_values(&kind, false, path, all);
        }
    }
}

fn collect_values(
    kind: &Kind,
    is_list: bool,
    path: Path,
    all: &mut Vec<(Path, Vec<Json>)>,
) {
    let values = match kind {
        Kind::Message(time) if time.package_name() == "google.protobuf" => {
            json!(["1970-01-01T00:00:00Z", "2026-01-02T03:04:05.600Z"])
        }
        Kind::Message(_) if is_list => json!([
            [], [{}, {"city": "a", "country": {"population": "1"}}],
            [{"city": "a", "country": {"population": "2"}}, {"country": {}}],
            [{"city": "a", "country": {}}, {}, {"street": ""}],
        ]),
        Kind::Message(message) => {
            all.push((path.clone(), vec![json!({})]));
            return collect_places(message, &path, all);
        }
        Kind::String if is_list => json!([[], [""], STRINGS]),
        _ if is_list => json!([[], [0], [i64::MIN, i64::MAX]]),
        Kind::String => json!(STRINGS),
        Kind::Bytes => json!(["", "AP8="]),
        Kind::Bool => json!([true, false]),
        Kind::Enum(_) => json!([0, 2, 77]),
        Kind::Double | Kind::Float => json!([0, -1.5, "NaN", "Infinity"]),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!(INTEGERS),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!([i64::MIN, 0, 1]),
        Kind::Uint32 | Kind::Fixed32 => json!([u32::MAX, 0, 1]),
        Kind::Uint64 | Kind::Fixed64 => json!([u64::MAX, 0, 1]),
    };
    all.push((path, values.as_array().unwrap().clone()));
}

/// Returns the paths of all values that are not objects.
pub(crate) fn leaves(object: &Object) -> Vec<Path> {
    let mut all = Vec::new();
    for (key, json) in object {
        let inner = match json {
            Json::Object(inner) => leaves(inner),
            _ => vec![Vec::new()],
        };
        let own = std::slice::from_ref(key);
        all.extend(inner.iter().map(|path| [own, path].concat()));
    }
    all
}

/// Returns a path as it is written in a mask.
pub(crate) fn text(path: &Path) -> String {
    if path == &["*"] {
        return "*".to_owned();
    }
    let segments: Vec<_> = path.iter().map(|segment| quote(segment)).collect();
    segments.join(".")
}

pub(crate) fn parse(json: &str) -> Json {
    from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// Returns the cells of the lines of a table.
pub(crate) fn table<const N: usize>(
    text: &str,
) -> impl Iterator<Item = [&str; N]> {
    text.trim().lines().map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        cells.try_into().expect("each line has all cells")
    })
}

pub(crate) fn to_json(message: &DynamicMessage) -> Json {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let serializer = serde_json::value::Serializer;
    message.serialize_with_options(serializer, &options).unwrap()
}

pub(crate) fn message(
    descriptor: &MessageDescriptor,
    json: &Json,
) -> DynamicMessage {
    DynamicMessage::deserialize(descriptor.clone(), json.clone()).unwrap()
}

pub(crate) fn update(
    paths: &[impl AsRef<str>],
    stored: &Json,
    sent: &Json,
) -> Result<Json, MaskError> {
    let [stored, sent] = [stored, sent].map(|json| message(&profile(), json));
    let mask = Mask::parse(&profile(), paths)?;
    mask.update(&stored, &sent).map(|updated| to_json(&updated))
}

/// Sets the value at a path of an object, unless it is an empty object.
pub(crate) fn set(json: &mut Json, path: &[String], value: &Json) {
    let place = path.iter().fold(json, |json, key| {
        let object = json.as_object_mut().expect("only objects have parts");
        object.entry(key).or_insert_with(|| json!({}))
    });
    if *value != json!({}) {
        *place = value.clone();
    }
}

/// Checks a property with generated cases, always the same ones. The name does
/// not change.
pub(crate) fn check(
    cases: u32,
    output_only: bool,
    property: impl Fn(Case) -> Verdict,
) {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 500,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let places: Vec<_> = places();
    let profile_with = |values: Vec<((Path, Vec<Json>), Index)>| {
        let mut json = json!({});
        for ((path, samples), index) in &values {
            if !samples.is_empty() {
                set(&mut json, path, index.get(samples));
            }
        }
        if json.get("email").is_some() {
            json.as_object_mut().unwrap().remove("phone");
        }
        json
    };
    let valued = (select(places.clone()), any::<Index>());
    let document = vec(valued, 0..40).prop_map(profile_with);
    let paths = prop_oneof![
        7 => vec(select(places).prop_map(|(path, _)| path), 0..6),
        1 => Just(vec![vec!["*".to_owned()]]),
    ];
    let all = (document.clone(), document, paths);
    let all = all.prop_map(|(stored, sent, paths)| {
        let [stored, mut sent] = [stored, sent].map(|json| {
            let json = replaced(None, &json, output_only);
            match to_json(&message(&profile(), &json)) {
                Json::Object(object) => object,
                json => unreachable!("{json} is a message"),
            }
        });
        sent.remove("name");
        sent.extend(
            stored.get_key_value("name").map(|(k, v)| (k.clone(), v.clone())),
        );
        Case { stored, sent, paths }
    });
    let result = TestRunner::new_with_rng(config, rng).run(&all, property);
    result.unwrap_or_else(|error| panic!("{error}"));
}
