//! Field mask. The walk has a function for messages and one for maps, and asks
//! the descriptor for all fields, not only for those that are set. Immutable
//! fields are compared in a walk of their own.

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{
    DynamicMessage, FieldDescriptor, MapKey, MessageDescriptor, ReflectMessage,
    Value,
};
use prost_types::FieldMask;
use serde_json::Value as Json;

use crate::field_path::{
    MaskError, Selection, Step, find, parts, quote, replace_elements,
};

/// The fields of a message that a request selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    selection: Selection,
}

impl Mask {
    /// Returns a mask of `paths`.
    pub fn parse<P: AsRef<str>>(
        descriptor: &MessageDescriptor,
        paths: &[P],
    ) -> Result<Self, MaskError> {
        if matches!(paths, [path] if path.as_ref() == "*") {
            return Ok(Self { selection: Selection::All });
        }
        let steps = paths.iter().map(|path| {
            let path = path.as_ref();
            find(descriptor, path)
                .ok_or_else(|| MaskError::UnknownPath(path.to_owned()))
        });
        let mut selection = Selection::Parts(BTreeMap::new());
        for steps in steps.collect::<Result<Vec<_>, _>>()? {
            selection.add(&steps);
        }
        Ok(Self { selection })
    }

    /// Returns the mask of an update request.
    pub fn of_request(
        update_mask: Option<&FieldMask>,
        sent: &DynamicMessage,
    ) -> Result<Self, MaskError> {
        let paths = update_mask.map(|mask| &mask.paths[..]).unwrap_or_default();
        if !paths.is_empty() {
            return Self::parse(&sent.descriptor(), paths);
        }
        let mut selection = Selection::default();
        let root = Value::Message(sent.clone());
        select_populated(&root, &mut Vec::new(), &mut selection);
        Ok(Self { selection })
    }

    /// Returns the mask of a JSON body.
    pub fn of_json(
        descriptor: &MessageDescriptor,
        body: Option<&Json>,
    ) -> Result<Self, MaskError> {
        let Some(Json::Object(body)) = body else {
            return Err(MaskError::NotAnObject);
        };
        let mut paths = Vec::new();
        let mut open = vec![(String::new(), body)];
        while let Some((outer, object)) = open.pop() {
            for (key, value) in object {
                let path = format!("{outer}{}", quote(key));
                match value {
                    Json::Object(inner) => open.push((path + ".", inner)),
                    _ => paths.push(path),
                }
            }
        }
        Self::parse(descriptor, &paths)
    }

    /// Returns a message that has only the selected fields of `stored`.
    pub fn read(&self, stored: &DynamicMessage) -> DynamicMessage {
        Walk::Read.message(&self.selection, None, stored)
    }

    /// Returns `stored` with the selected fields of `sent`.
    pub fn update(
        &self,
        stored: &DynamicMessage,
        sent: &DynamicMessage,
    ) -> Result<DynamicMessage, MaskError> {
        let updated = Walk::Update.message(&self.selection, Some(stored), sent);
        let (old, new) = (stored.clone(), updated.clone());
        check_immutable(&Value::Message(old), &Value::Message(new))?;
        Ok(updated)
    }
}

/// Adds the path of each value without parts.
fn select_populated(
    value: &Value,
    path: &mut Vec<Step>,
    selection: &mut Selection,
) {
    let Some(parts) = parts(value) else { return selection.add(path) };
    for (step, part) in parts {
        path.push(step);
        select_populated(part, path, selection);
        path.pop();
    }
}

/// Fails if an immutable field differs in two messages.
fn check_immutable(old: &Value, new: &Value) -> Result<(), MaskError> {
    let (Some(old), Some(new)) = (parts(old), parts(new)) else {
        return Ok(());
    };
    for step in old.keys().chain(new.keys()) {
        let (old, new) = (old.get(step), new.get(step));
        if let Some(name) = step.immutable_name()
            && old != new
        {
            return Err(MaskError::Immutable(name.to_owned()));
        }
        if let (Some(old), Some(new)) = (old, new) {
            check_immutable(old, new)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Walk {
    Read,
    Update,
}

impl Walk {
    fn message(
        self,
        selection: &Selection,
        old: Option<&DynamicMessage>,
        new: &DynamicMessage,
    ) -> DynamicMessage {
        let descriptor = new.descriptor();
        let empty = || DynamicMessage::new(descriptor.clone());
        let mut message = old.cloned().unwrap_or_else(empty);
        for field in descriptor.fields() {
            let step = Step::Field(field.clone());
            let Some(part) = selection.get(&step) else { continue };
            if self == Self::Update && step.is_output_only() {
                continue;
            }
            let get = |message: &DynamicMessage| {
                let value = message.has_field(&field);
                value.then(|| message.get_field(&field).into_owned())
            };
            match self.value(part, &field, get(&message), get(new)) {
                Some(value) => message.set_field(&field, value),
                None => message.clear_field(&field),
            }
        }
        message
    }

    fn map(
        self,
        selection: &Selection,
        value: &FieldDescriptor,
        mut old: HashMap<MapKey, Value>,
        mut new: HashMap<MapKey, Value>,
    ) -> HashMap<MapKey, Value> {
        let mut keys: Vec<_> = old.keys().chain(new.keys()).cloned().collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let Some(part) = selection.get(&Step::Key(key.clone())) else {
                continue;
            };
            let (before, after) = (old.remove(&key), new.remove(&key));
            if let Some(after) = self.value(part, value, before, after) {
                old.insert(key, after);
            }
        }
        old
    }

    /// Returns the value of a field or of an entry of a map.
    fn value(
        self,
        selection: &Selection,
        field: &FieldDescriptor,
        old: Option<Value>,
        new: Option<Value>,
    ) -> Option<Value> {
        let is_whole = *selection == Selection::All;
        let stays = is_whole && new.is_some() || !is_whole && old.is_some();
        if is_whole && new.is_none() {
            return None;
        }
        let value = match new.unwrap_or_else(|| field.default_value()) {
            Value::Message(new) => {
                let old = old.as_ref().and_then(Value::as_message);
                Value::Message(self.message(selection, old, &new))
            }
            Value::Map(new) => {
                let kind = field.kind();
                let entry = kind.as_message().expect("a map has entries");
                let value = entry.map_entry_value_field();
                let old = old.and_then(|old| old.as_map().cloned());
                let old = old.unwrap_or_default();
                Value::Map(self.map(selection, &value, old, new))
            }
            Value::List(new) => {
                let strip = |element: Value| match element {
                    Value::Message(element) => {
                        let all = &Selection::All;
                        Value::Message(self.message(all, None, &element))
                    }
                    scalar => scalar,
                };
                Value::List(replace_elements(old, new, strip))
            }
            scalar => scalar,
        };
        (stays || !value.is_default_for_field(field)).then_some(value)
    }
}
