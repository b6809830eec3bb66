//! A model of updates on JSON, and generated updates of profiles.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{
    Config, RngAlgorithm, TestError, TestRng, TestRunner,
};
use prost_reflect::prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, SerializeOptions,
    Value,
};
use serde_json::{Map, Value as Json, from_str, json};
use week04::field_mask::Mask;
use week04::field_path::{MaskError, quote};
use week04_api::{DESCRIPTORS, FILE_DESCRIPTOR_SET};

pub(crate) type Object = Map<String, Json>;
pub(crate) type Path = Vec<String>;
pub(crate) type Places = Vec<(Path, Vec<Json>)>;
pub(crate) type Updated = Result<Json, MaskError>;
pub(crate) type Verdict = Result<(), TestCaseError>;

/// An update. The messages are JSON with the names of the .proto file.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) stored: Object,
    pub(crate) sent: Object,
    pub(crate) paths: Vec<Path>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.paths.iter().map(text).collect();
        let [stored, sent] =
            [&self.stored, &self.sent].map(|json| json.clone().into());
        f.write_str(&describe(&paths, &stored, &sent))
    }
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
        self.check_mask("an update", &Ok(self.mask()))
    }

    /// Compares an update with the model, and repeats it.
    pub(crate) fn check_mask(
        &self,
        what: &str,
        mask: &Result<Mask, MaskError>,
    ) -> Verdict {
        let expected = Ok(self.expected(&SERVER_FIELDS));
        let (mut stored, sent) = (self.stored(), self.sent());
        for again in ["", ", sent again"] {
            let mask = mask.as_ref().map_err(Clone::clone);
            let updated = mask.and_then(|mask| mask.update(&stored, &sent));
            let seen = updated.as_ref().map(to_json).map_err(Clone::clone);
            compare(&seen, &expected, &format!("{what}{again}\n{self:?}"))?;
            stored = updated.unwrap_or(stored);
        }
        Ok(())
    }

    /// Updates a profile of another contract.
    pub(crate) fn update(&self, profile: &MessageDescriptor) -> Updated {
        let paths: Vec<_> = self.paths.iter().map(text).collect();
        let [stored, sent] = [&self.stored, &self.sent].map(Clone::clone);
        update_with(profile, &paths, &stored.into(), &sent.into())
    }

    /// The model: returns the result of the update, if no field is immutable.
    pub(crate) fn expected(&self, output_only: &[&str]) -> Json {
        let mut expected = self.stored.clone();
        for path in self.selected() {
            write(&mut expected, &self.sent, &path, output_only);
        }
        tidy(expected, &self.sent)
    }

    /// The model: returns the selected fields of the stored profile.
    pub(crate) fn expected_read(&self) -> Json {
        let mut expected = Map::new();
        for path in self.selected() {
            write(&mut expected, &self.stored, &path, &[]);
        }
        tidy(expected, &self.stored)
    }

    /// Returns the paths, or all fields of the message instead of `*`.
    pub(crate) fn selected(&self) -> Vec<Path> {
        if self.paths != [["*"]] {
            return self.paths.clone();
        }
        profile().fields().map(|field| vec![field.name().to_owned()]).collect()
    }
}

/// The model: writes the value at one path of `new` into `old`, but not the
/// fields in `fixed`.
fn write(old: &mut Object, new: &Object, path: &[String], fixed: &[&str]) {
    let (first, rest) = path.split_first().expect("a path is not empty");
    if fixed.contains(&&**first) {
        return;
    }
    let (before, after) = (old.remove(first), new.get(first));
    let value = if rest.is_empty() {
        after.map(|after| replaced(before.as_ref(), after, fixed))
    } else {
        let mut inner = before.clone().unwrap_or_else(|| json!({}));
        let inside = inner.as_object_mut().expect("only objects have parts");
        let after = after.and_then(Json::as_object);
        write(inside, after.unwrap_or(&Map::new()), rest, fixed);
        let exists = before.is_some() || !inside.is_empty();
        exists.then_some(inner)
    };
    old.extend(value.map(|value| (first.clone(), value)));
}

/// The model: returns `new` with those fields of `old` that are in `fixed`.
fn replaced(old: Option<&Json>, new: &Json, fixed: &[&str]) -> Json {
    let is_fixed = |key: &&String| fixed.contains(&&***key);
    match new {
        Json::Object(new) => {
            let empty = Map::new();
            let old = old.and_then(Json::as_object).unwrap_or(&empty);
            let sent = new.iter().filter(|(key, _)| !is_fixed(key));
            let sent =
                sent.map(|(k, v)| (k.clone(), replaced(old.get(k), v, fixed)));
            let kept = old.iter().filter(|(key, _)| is_fixed(key));
            let kept = kept.map(|(key, value)| (key.clone(), value.clone()));
            sent.chain(kept).collect()
        }
        Json::Array(new) => {
            let strip = |element: &Json| replaced(None, element, fixed);
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
fn tidy(mut message: Object, sent: &Object) -> Json {
    if message.contains_key("email") && message.contains_key("phone") {
        let sent_email = sent.contains_key("email");
        message.remove(if sent_email { "phone" } else { "email" });
    }
    message.retain(|key, v| !MAPS.contains(&&**key) || *v != json!({}));
    message.into()
}

/// Returns a profile without its output-only fields.
pub(crate) fn stripped(profile: &Object) -> Object {
    let json = replaced(None, &profile.clone().into(), &SERVER_FIELDS);
    json.as_object().expect("a profile is an object").clone()
}

/// The model: returns whether a field differs in two messages, or in messages
/// inside both.
pub(crate) fn differ(old: &Json, new: &Json, field: &str) -> bool {
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
        return false;
    };
    let parts = before.iter().filter_map(|(k, v)| Some((v, after.get(k)?)));
    before.get(field) != after.get(field)
        || parts.into_iter().any(|(old, new)| differ(old, new, field))
}

/// The fields that are output-only.
pub(crate) const SERVER_FIELDS: [&str; 3] =
    ["visit_count", "create_time", "population"];
pub(crate) const MAPS: [&str; 3] = ["labels", "offices", "prizes"];
const STRINGS: [&str; 6] = ["a", "", "a.b", "city", "*", "Zoë`, \"\n"];
const INTEGERS: [i32; 4] = [7, 0, i32::MIN, i32::MAX];

pub(crate) fn profile() -> MessageDescriptor {
    DESCRIPTORS.get_message_by_name("profile.v1.Profile").unwrap()
}

pub(crate) const OUTPUT_ONLY: i32 = 3;
pub(crate) const IMMUTABLE: i32 = 5;

/// Returns contracts in which one more field has this behavior: the name of the
/// field, and the type of profiles.
pub(crate) fn contracts(
    behavior: i32,
) -> Vec<(&'static str, MessageDescriptor)> {
    const FIELDS: &str = "address offices country code phone number email age \
        tags labels former_addresses";
    let set = "google.protobuf.FileDescriptorSet";
    let set = DESCRIPTORS.get_message_by_name(set).unwrap();
    let mut set = DynamicMessage::decode(set, FILE_DESCRIPTOR_SET).unwrap();
    for file in elements(&mut set, "file") {
        file.clear_field_by_name("source_code_info");
    }
    let with = |field| (field, profile_with(field, behavior, set.clone()));
    FIELDS.split(' ').map(with).collect()
}

fn profile_with(
    name: &str,
    behavior: i32,
    mut set: DynamicMessage,
) -> MessageDescriptor {
    let option = "google.api.field_behavior";
    let option = DESCRIPTORS.get_extension_by_name(option).unwrap();
    let files = elements(&mut set, "file");
    let messages = files.flat_map(|file| elements(file, "message_type"));
    for field in messages.flat_map(|message| elements(message, "field")) {
        if field.get_field_by_name("name").unwrap().as_str() == Some(name) {
            let options = field.get_field_by_name_mut("options").unwrap();
            let behaviors = Value::List(vec![Value::EnumNumber(behavior)]);
            let options = options.as_message_mut().unwrap();
            options.set_extension(&option, behaviors);
        }
    }
    let pool = DescriptorPool::decode(&*set.encode_to_vec()).unwrap();
    pool.get_message_by_name("profile.v1.Profile").unwrap()
}

/// Returns the messages in a repeated field.
fn elements<'a>(
    message: &'a mut DynamicMessage,
    field: &str,
) -> impl Iterator<Item = &'a mut DynamicMessage> + use<'a> {
    let list = message.get_field_by_name_mut(field).unwrap();
    let elements = list.as_list_mut().unwrap().iter_mut();
    elements.map(|element| element.as_message_mut().unwrap())
}

/// Returns every path of a profile, with some keys of each map, and some values
/// for each path.
pub(crate) fn places() -> Places {
    let mut all = Vec::new();
    collect_places(&profile(), &[], &mut all);
    all
}

/// Returns the paths of a profile with one key of each map and no numbers, so
/// that generated profiles often have the same parts.
pub(crate) fn few_places() -> Places {
    let is_few = |path: &Path| match &path[..] {
        [map, key, ..] if MAPS.contains(&&**map) => key == "a" || key == "7",
        _ => path[0] != "numbers",
    };
    places().into_iter().filter(|(path, _)| is_few(path)).collect()
}

fn collect_places(
    parent: &MessageDescriptor,
    outer: &[String],
    all: &mut Places,
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

fn collect_values(kind: &Kind, is_list: bool, path: Path, all: &mut Places) {
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

fn update_with(
    profile: &MessageDescriptor,
    paths: &[impl AsRef<str>],
    stored: &Json,
    sent: &Json,
) -> Updated {
    let [stored, sent] = [stored, sent].map(|json| message(profile, json));
    let mask = Mask::parse(profile, paths)?;
    mask.update(&stored, &sent).map(|updated| to_json(&updated))
}

/// Fails with both values if an update is not as expected.
pub(crate) fn compare(
    seen: &Updated,
    expected: &Updated,
    what: &str,
) -> Verdict {
    if seen == expected {
        return Ok(());
    }
    let [seen, expected] = [seen, expected].map(|updated| match updated {
        Ok(json) => on_one_line(json),
        Err(error) => format!("the error {error:?}"),
    });
    let message = format!("{what}\nexpected: {expected}\nseen: {seen}");
    Err(TestCaseError::fail(message))
}

/// Panics with both values if the update of a profile is not as expected.
#[track_caller]
pub(crate) fn assert_update(
    paths: &[&str],
    stored: &Json,
    sent: &Json,
    expected: &Updated,
) {
    let updated = update_with(&profile(), paths, stored, sent);
    let what = format!("an update\n{}", describe(paths, stored, sent));
    assert_updated(&updated, expected, &what);
}

/// Panics with both values if an update is not as expected.
#[track_caller]
pub(crate) fn assert_updated(seen: &Updated, expected: &Updated, what: &str) {
    if let Err(TestCaseError::Fail(message)) = compare(seen, expected, what) {
        panic!("{message}");
    }
}

/// Panics unless a mask is rejected with this error.
#[track_caller]
pub(crate) fn assert_rejected(
    mask: Result<Mask, MaskError>,
    expected: &MaskError,
    what: &str,
) {
    let seen = match mask {
        Err(error) if error == *expected => return,
        Err(error) => format!("the error {error:?}"),
        Ok(_) => "a mask".to_owned(),
    };
    panic!("{what}\nexpected: the error {expected:?}\nseen: {seen}");
}

/// Returns one line for the paths and one for each message.
fn describe(
    paths: &[impl AsRef<str> + fmt::Debug],
    stored: &Json,
    sent: &Json,
) -> String {
    let [stored, sent] = [stored, sent].map(on_one_line);
    format!("selected: {paths:?}\nstored: {stored}\nsent: {sent}")
}

/// Returns JSON on one line, with spaces at which the line can be broken.
pub(crate) fn on_one_line(json: &Json) -> String {
    let lines = format!("{json:#}");
    let lines: Vec<_> = lines.lines().map(str::trim_start).collect();
    lines.join(" ")
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
#[track_caller]
pub(crate) fn check(
    cases: u32,
    output_only: bool,
    property: impl Fn(Case) -> Verdict,
) {
    check_at(places(), cases, output_only, property);
}

/// Checks a property of profiles that have only values at these places.
#[track_caller]
pub(crate) fn check_at(
    places: Places,
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
            let fixed = if output_only { &[][..] } else { &SERVER_FIELDS };
            let json = replaced(None, &json, fixed);
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
    match TestRunner::new_with_rng(config, rng).run(&all, property) {
        Ok(()) => {}
        Err(TestError::Fail(message, _)) => panic!("{message}"),
        Err(error) => panic!("{error}"),
    }
}
