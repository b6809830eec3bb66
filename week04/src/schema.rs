//! The schema of the settings: what `conf.proto` says about each field.
//!
//! The module [`settings`](crate::settings) walks it.

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value,
};
use serde_json::{Value as Json, json};
use week04_api::DESCRIPTORS;

use crate::problem::Fault;

/// Returns the message with all settings.
#[expect(clippy::missing_panics_doc, reason = "conf.proto declares it")]
pub fn settings() -> MessageDescriptor {
    DESCRIPTORS.get_message_by_name("conf.v1.Settings").expect("is declared")
}

/// Returns the message of a section, such as `server`. Returns `None` for a
/// setting, such as `server.http.timeout`.
pub fn section(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let kind = field.kind();
    let message = kind.as_message()?;
    (message.package_name() == "conf.v1").then(|| message.clone())
}

/// Returns the path of a field in a section. The path of the root is empty.
pub fn join(section: &str, field: &str) -> String {
    if section.is_empty() { field.into() } else { format!("{section}.{field}") }
}

/// Returns the default of a setting, or `null` if it has none.
///
/// # Panics
///
/// Panics if the option `default_json` is not JSON.
pub fn default(field: &FieldDescriptor) -> Json {
    match custom_option(field, "conf.v1.default_json").as_str() {
        None | Some("") => Json::Null,
        Some(text) => serde_json::from_str(text).expect("default_json is JSON"),
    }
}

/// Returns whether a setting is a secret.
pub fn is_secret(field: &FieldDescriptor) -> bool {
    custom_option(field, "conf.v1.secret") == Value::Bool(true)
}

/// Parses the value of a setting by the rules of proto JSON. Returns it with
/// its canonical JSON text.
///
/// # Errors
///
/// Returns the type of the field. The error of the JSON parser repeats the
/// value, which may be a secret, so it is dropped.
pub fn parse(
    field: &FieldDescriptor,
    json: &Json,
) -> Result<(Value, String), Fault> {
    let object = json!({ field.name(): json });
    let schema = field.parent_message().clone();
    let message = DynamicMessage::deserialize(schema, object);
    let message = message.map_err(|_| match field.kind() {
        Kind::String => Fault::NotAString,
        Kind::Message(_) => Fault::NotADuration,
        _ => Fault::NotAnInteger,
    })?;
    let text = json!(message)[field.json_name()].to_string();
    Ok((message.get_field(field).into_owned(), text))
}

fn custom_option(field: &FieldDescriptor, name: &str) -> Value {
    let option = DESCRIPTORS.get_extension_by_name(name).expect("is declared");
    field.options().get_extension(&option).into_owned()
}
