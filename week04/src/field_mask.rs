//! Field mask: an update changes the fields that the client has named.
//!
//! *Question.* A client sends a message in which `nickname` is empty. Does it
//! clear the nickname, or does it not know the field? Which fields of the
//! stored message does the update change, and to which values?
//!
//! *Idea.* A message alone cannot tell "clear" from "leave", since proto3 does
//! not encode zero values. So a **field mask** lists the paths to change. The
//! mask becomes a tree of the selected fields, checked against the descriptor
//! of the message. One **walk over both messages** takes each selected field
//! from the sent message, and every other field from the stored one. Without a
//! mask, the tree is made of the fields that the client has set, or of the keys
//! in its JSON body.
//!
//! *Guarantee.* A field that is not selected keeps its value, and so does an
//! output-only field in a message that is stored and sent. A selected field
//! that is not sent is cleared. To read with a mask and to write the result
//! with the same mask changes nothing. A wrong path, or a change of an
//! immutable field, is an error, and nothing is changed.
//!
//! *Cost.* The walk reads descriptors at run time, and copies the values. Two
//! clients that change the same field still overwrite each other: that needs an
//! etag. A repeated field can only be replaced as a whole. The JSON of a
//! `google.protobuf.Struct` is an object, so it needs a case of its own in
//! [`Mask::of_json`].
//!
//! ```
//! use prost_reflect::DynamicMessage;
//! use serde_json::json;
//! use week04::field_mask::Mask;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = &week04_api::DESCRIPTORS;
//! let profile = pool.get_message_by_name("profile.v1.Profile").unwrap();
//! let message = |json| DynamicMessage::deserialize(profile.clone(), json);
//!
//! let stored = message(json!({"nickname": "Zoë", "visitCount": 7}))?;
//! let body = json!({"nickname": "", "address": {"city": "Bonn"}});
//! let mask = Mask::of_json(&profile, Some(&body))?;
//! let updated = mask.update(&stored, &message(body)?)?;
//!
//! let expected = json!({"visitCount": 7, "address": {"city": "Bonn"}});
//! assert_eq!(updated, message(expected)?);
//! # Ok(())
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage, Value};
use prost_types::FieldMask;
use serde_json::Value as Json;

use crate::field_path::{
    MaskError, Selection, Step, empty_like, find, parts, put, quote,
    replace_elements, take,
};

/// The fields of a message that a request selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    selection: Selection,
}

impl Mask {
    /// Returns a mask of `paths`. Without paths, it selects nothing.
    ///
    /// # Errors
    ///
    /// Returns [`MaskError::UnknownPath`] with the first wrong path.
    pub fn parse<P: AsRef<str>>(
        descriptor: &MessageDescriptor,
        paths: &[P],
    ) -> Result<Self, MaskError> {
        let mut selection = Selection::default();
        for path in paths.iter().map(AsRef::as_ref) {
            if path == "*" && paths.len() == 1 {
                return Ok(Self { selection: Selection::All });
            }
            let unknown = || MaskError::UnknownPath(path.to_owned());
            selection.add(&find(descriptor, path).ok_or_else(unknown)?);
        }
        Ok(Self { selection })
    }

    /// Returns the mask of an update request: the paths of `update_mask`, or
    /// the populated fields of `sent` if there are no paths.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`parse`](Self::parse).
    pub fn of_request(
        update_mask: Option<&FieldMask>,
        sent: &DynamicMessage,
    ) -> Result<Self, MaskError> {
        match update_mask {
            Some(mask) if !mask.paths.is_empty() => {
                Self::parse(&sent.descriptor(), &mask.paths)
            }
            _ => {
                let selection = populated(&Value::Message(sent.clone()));
                Ok(Self { selection })
            }
        }
    }

    /// Returns the mask of a JSON body: the keys that the client has written.
    ///
    /// # Errors
    ///
    /// Returns [`MaskError::NotAnObject`] if there is no body or it is not an
    /// object, and [`MaskError::UnknownPath`] for an unknown key.
    pub fn of_json(
        descriptor: &MessageDescriptor,
        body: Option<&Json>,
    ) -> Result<Self, MaskError> {
        let mut paths = Vec::new();
        let body = body.filter(|body| body.is_object());
        json_paths("", body.ok_or(MaskError::NotAnObject)?, &mut paths);
        Self::parse(descriptor, &paths)
    }

    /// Returns a message that has only the selected fields of `stored`.
    pub fn read(&self, stored: &DynamicMessage) -> DynamicMessage {
        let new = Some(Value::Message(stored.clone()));
        match write(&self.selection, None, new, true) {
            Ok(Some(Value::Message(message))) => message,
            _ => DynamicMessage::new(stored.descriptor()),
        }
    }

    /// Returns `stored` with the selected fields of `sent`. Both have the type
    /// of the mask.
    ///
    /// # Errors
    ///
    /// Returns [`MaskError::Immutable`] if an immutable field would change.
    pub fn update(
        &self,
        stored: &DynamicMessage,
        sent: &DynamicMessage,
    ) -> Result<DynamicMessage, MaskError> {
        let old = Some(Value::Message(stored.clone()));
        let new = Some(Value::Message(sent.clone()));
        match write(&self.selection, old, new, false)? {
            Some(Value::Message(message)) => Ok(message),
            value => unreachable!("a message becomes {value:?}"),
        }
    }
}

/// Selects the scalars in `value`, and the other values without parts.
fn populated(value: &Value) -> Selection {
    let Some(parts) = parts(value) else { return Selection::All };
    let parts = parts.into_iter().map(|(step, part)| (step, populated(part)));
    Selection::Parts(parts.collect())
}

/// Adds the path of each value in `json` that is not an object.
fn json_paths(path: &str, json: &Json, paths: &mut Vec<String>) {
    let Json::Object(object) = json else {
        return paths.push(path.to_owned());
    };
    let dot = if path.is_empty() { "" } else { "." };
    for (key, json) in object {
        json_paths(&format!("{path}{dot}{}", quote(key)), json, paths);
    }
}

/// Returns `old` with the selected parts of `new`. A value that is not set is
/// `None`. Output-only fields are copied only for reading.
fn write(
    selection: &Selection,
    old: Option<Value>,
    new: Option<Value>,
    reading: bool,
) -> Result<Option<Value>, MaskError> {
    let whole = *selection == Selection::All;
    if whole && new.is_none() {
        return Ok(None);
    }
    if let Some(Value::List(sent)) = new {
        let elements = replace_elements(old, sent, |element| {
            let stripped = write(selection, None, Some(element), reading);
            stripped.ok().flatten().expect("a new value has no fixed fields")
        });
        return Ok(Some(Value::List(elements)));
    }
    let Some(like) = new.as_ref().or(old.as_ref()) else { return Ok(None) };
    let Some(empty) = empty_like(like) else { return Ok(new) };
    let exists = old.is_some();
    let mut value = old.unwrap_or_else(|| empty.clone());
    let mut new = new.unwrap_or(empty);
    let stored = parts(&value).unwrap_or_default();
    let stored: Vec<_> = stored.into_keys().collect();
    let all = [&value, &new].into_iter().filter_map(parts);
    for step in all.flat_map(BTreeMap::into_keys).collect::<BTreeSet<_>>() {
        let Some(part) = selection.get(&step) else { continue };
        if step.is_output_only() && !reading {
            continue;
        }
        let before = take(&mut value, &step);
        let after =
            write(part, before.clone(), take(&mut new, &step), reading)?;
        match step.immutable_name() {
            Some(name) if exists && before != after => {
                return Err(MaskError::Immutable(name.to_owned()));
            }
            _ => {}
        }
        // To put an unset member of a oneof would clear the other members.
        if let Some(after) = after {
            put(&mut value, &step, after);
        }
    }
    let set = parts(&value).unwrap_or_default();
    // To put one member of a oneof has cleared the others.
    let mut lost = stored.iter().filter(|step| !set.contains_key(step));
    if let Some(name) = lost.find_map(Step::immutable_name) {
        return Err(MaskError::Immutable(name.to_owned()));
    }
    // A sub-path creates a message only if something is put into it.
    let has_parts = !set.is_empty();
    Ok((whole || exists || has_parts).then_some(value))
}
