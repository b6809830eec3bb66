//! Support for [`field_mask`](crate::field_mask): paths, the tree of the
//! selected parts, and the parts of a value.
//!
//! The parts of a message are its fields, and those of a map are its entries.
//! All other values have no parts: scalars, repeated fields, and the types of
//! the package `google.protobuf`, such as a Timestamp.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    ReflectMessage, Value,
};
use serde_json::Value as Json;

/// The reason why a request is answered with `INVALID_ARGUMENT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// No value of the message can be at this path.
    #[error("the field mask has the unknown path {0:?}")]
    UnknownPath(String),
    /// The update would change the field with this name.
    #[error("the field {0:?} cannot be changed")]
    Immutable(String),
    /// There is no body, or it is not a JSON object.
    #[error("the body is not a JSON object")]
    NotAnObject,
}

/// One step of a path: from a value to one of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// From a message to a field.
    Field(FieldDescriptor),
    /// From a map to the value at a key.
    Key(MapKey),
}

impl Step {
    /// Returns the step that a segment of a path names, and the type of the
    /// parts that follow. Returns `None` if there is no such part.
    ///
    /// `parent` is a message type, or the type of a map's entries, and so is
    /// the returned type. It is `None` if the value has no parts.
    fn find(
        parent: &MessageDescriptor,
        segment: &str,
    ) -> Option<(Self, Option<MessageDescriptor>)> {
        let (step, field) = if parent.is_map_entry() {
            let key = map_key(parent, segment)?;
            (Self::Key(key), parent.map_entry_value_field())
        } else {
            let field = parent
                .get_field_by_name(segment)
                .or_else(|| parent.get_field_by_json_name(segment))?;
            (Self::Field(field.clone()), field)
        };
        let target = field.kind().as_message().cloned();
        let has_parts = |target: &_| !field.is_list() && !is_well_known(target);
        Some((step, target.filter(has_parts)))
    }

    /// Returns whether only the server sets this field: it is OUTPUT_ONLY.
    pub fn is_output_only(&self) -> bool {
        self.has_behavior(&[3])
    }

    /// Returns the name of the field if it cannot change: it is IMMUTABLE or an
    /// IDENTIFIER.
    pub fn immutable_name(&self) -> Option<&str> {
        match self {
            Self::Field(field) if self.has_behavior(&[5, 8]) => {
                Some(field.name())
            }
            _ => None,
        }
    }

    /// Returns whether the option `google.api.field_behavior` contains one of
    /// these numbers.
    fn has_behavior(&self, numbers: &[i32]) -> bool {
        let Self::Field(field) = self else { return false };
        let pool = field.parent_pool();
        let option = pool.get_extension_by_name("google.api.field_behavior");
        let options = field.options();
        option.is_some_and(|option| {
            let behaviors = options.get_extension(&option);
            let mut behaviors = behaviors.as_list().unwrap_or_default().iter();
            behaviors.any(|behavior| {
                let number = behavior.as_enum_number();
                number.is_some_and(|number| numbers.contains(&number))
            })
        })
    }

    fn sort_key(&self) -> (u32, Option<&MapKey>) {
        match self {
            Self::Field(field) => (field.number(), None),
            Self::Key(key) => (0, Some(key)),
        }
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sort_key().cmp(&other.sort_key())
    }
}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The part of a value that a mask selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The whole value.
    All,
    /// These parts of the value. Without parts, nothing.
    Parts(BTreeMap<Step, Selection>),
}

impl Selection {
    /// Adds the value at the end of `path`.
    pub fn add(&mut self, path: &[Step]) {
        match (self, path) {
            (Self::All, _) => {}
            (all, []) => *all = Self::All,
            (Self::Parts(parts), [first, rest @ ..]) => {
                let part = parts.entry(first.clone());
                part.or_default().add(rest);
            }
        }
    }

    /// Returns what is selected of the part that `step` leads to. Returns
    /// `None` if nothing is.
    pub fn get(&self, step: &Step) -> Option<&Self> {
        match self {
            Self::All => Some(self),
            Self::Parts(parts) => parts.get(step),
        }
    }
}

impl Default for Selection {
    /// Selects nothing.
    fn default() -> Self {
        Self::Parts(BTreeMap::new())
    }
}

/// Returns the steps of a path in a message of type `descriptor`, or `None` if
/// it leads to no field and to no entry of a map.
pub fn find(descriptor: &MessageDescriptor, path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut parent = Some(descriptor.clone());
    for segment in segments(path)? {
        let (step, target) = Step::find(&parent?, &segment)?;
        steps.push(step);
        parent = target;
    }
    Some(steps)
}

/// Splits a path at its dots.
///
/// A segment in backticks may contain any character, and two backticks for one
/// of them. Other segments are not empty, and contain no backtick and no `*`.
/// Returns `None` if the path is not of this form.
fn segments(path: &str) -> Option<Vec<String>> {
    let mut segments = Vec::new();
    let mut rest = path;
    loop {
        let mut segment = String::new();
        if let Some(quoted) = rest.strip_prefix('`') {
            rest = quoted;
            loop {
                let (text, after) = rest.split_once('`')?;
                segment += text;
                rest = after;
                let Some(after) = rest.strip_prefix('`') else { break };
                segment.push('`');
                rest = after;
            }
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            segment += &rest[..end];
            rest = &rest[end..];
            if segment.is_empty() || segment.contains(['`', '*']) {
                return None;
            }
        }
        segments.push(segment);
        if rest.is_empty() {
            return Some(segments);
        }
        rest = rest.strip_prefix('.')?;
    }
}

/// Returns a segment as it is written in a path: in backticks if necessary.
pub fn quote(segment: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if !segment.is_empty() && segment.chars().all(is_plain) {
        return segment.to_owned();
    }
    format!("`{}`", segment.replace('`', "``"))
}

/// Returns the parts of `value` that are set, or `None` if it has no parts.
pub fn parts(value: &Value) -> Option<BTreeMap<Step, &Value>> {
    match value {
        Value::Message(message) if !is_well_known(&message.descriptor()) => {
            let fields = message.fields();
            Some(fields.map(|(f, part)| (Step::Field(f), part)).collect())
        }
        Value::Map(map) => {
            let entries = map.iter();
            Some(entries.map(|(k, v)| (Step::Key(k.clone()), v)).collect())
        }
        _ => None,
    }
}

/// Removes a part of `value`, and returns it if it was set.
pub fn take(value: &mut Value, step: &Step) -> Option<Value> {
    match (value, step) {
        (Value::Message(message), Step::Field(field)) => {
            message.take_field(field)
        }
        (Value::Map(map), Step::Key(key)) => map.remove(key),
        _ => None,
    }
}

/// Sets a part of `value`. If it is a member of a oneof, clears the others.
///
/// # Panics
///
/// Panics if `value` has no such part.
pub fn put(value: &mut Value, step: &Step, part: Value) {
    match (value, step) {
        (Value::Message(message), Step::Field(field)) => {
            message.set_field(field, part);
        }
        (Value::Map(map), Step::Key(key)) => {
            map.insert(key.clone(), part);
        }
        (value, step) => panic!("{value:?} has no part {step:?}"),
    }
}

/// Returns a value of the same type in which no part is set, or `None` if
/// `value` has no parts.
pub fn empty_like(value: &Value) -> Option<Value> {
    parts(value)?;
    Some(match value {
        Value::Message(message) => {
            Value::Message(DynamicMessage::new(message.descriptor()))
        }
        _ => Value::Map(HashMap::new()),
    })
}

/// Returns the new elements of a repeated field. `strip` removes the
/// output-only fields of an element.
///
/// An element that equals a stored element, apart from output-only fields,
/// becomes the stored element. Each stored element is used once. All other
/// elements are stripped.
pub fn replace_elements(
    stored: Option<Value>,
    sent: Vec<Value>,
    strip: impl Fn(Value) -> Value,
) -> Vec<Value> {
    if !matches!(sent.first(), Some(Value::Message(_))) {
        return sent;
    }
    let mut stored = match stored {
        Some(Value::List(stored)) => stored,
        _ => Vec::new(),
    };
    let mut stripped: Vec<_> = stored.iter().cloned().map(&strip).collect();
    let replaced = sent.into_iter().map(strip).map(|sent| {
        match stripped.iter().position(|stripped| *stripped == sent) {
            Some(index) => {
                stripped.remove(index);
                stored.remove(index)
            }
            None => sent,
        }
    });
    replaced.collect()
}

/// Removes the members of objects that are null. A field that is null is a
/// field that is not set, but a map with a null is not protobuf JSON.
pub fn without_nulls(json: Json) -> Json {
    let Json::Object(object) = json else { return json };
    let members = object.into_iter().filter(|(_, json)| !json.is_null());
    members.map(|(key, json)| (key, without_nulls(json))).collect()
}

/// Returns whether the messages of this type are single values.
fn is_well_known(message: &MessageDescriptor) -> bool {
    message.package_name() == "google.protobuf"
}

/// Parses a key of the map whose entries have the type `entry`.
fn map_key(entry: &MessageDescriptor, text: &str) -> Option<MapKey> {
    Some(match entry.map_entry_key_field().kind() {
        Kind::Bool => MapKey::Bool(text.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            MapKey::I32(text.parse().ok()?)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            MapKey::I64(text.parse().ok()?)
        }
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(text.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(text.parse().ok()?),
        Kind::String => MapKey::String(text.to_owned()),
        kind => unreachable!("a map has no keys of the type {kind:?}"),
    })
}
