//! Reads the fields of a request from its path, its query and its body.

use percent_encoding::percent_decode_str;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
};
use serde_json::{Map, Value};

use super::invalid;
use super::route::{RequestBody, Route};
use crate::failure::{Failure, Violation};
use crate::field_mask::Mask;
use crate::field_path::{MaskError, without_nulls};

/// The request of a method.
pub(super) struct Input {
    pub(super) message: DynamicMessage,
    /// The fields to change, if the method updates some fields.
    pub(super) mask: Option<Mask>,
}

/// Builds the request of a method.
///
/// # Errors
///
/// Returns the failure that the client gets if a part is malformed, unknown, or
/// of the wrong type.
pub(super) fn read(
    route: &Route,
    variables: Vec<String>,
    query: &str,
    body: &[u8],
) -> Result<Input, Box<Failure>> {
    let input = route.method.input();
    let mut body = parse(body)?;
    let mut request = Map::new();
    let (masked, mut mask) = (masked(route), None);
    if let Some(masked) = &masked
        && let Some(whole) = body.take()
    {
        // Without a mask, the keys that the client has written are the mask. So
        // an empty value clears, and an absent key changes nothing.
        let keys = Mask::of_json(masked, Some(&whole));
        mask = Some(keys.map_err(|error| invalid_mask(&error))?);
        body = Some(without_nulls(whole));
    }
    match (&route.body, body) {
        (RequestBody::Absent, None) => {}
        (RequestBody::Absent, Some(_)) => {
            let message = "this method has no body".to_owned();
            return Err(invalid("UNEXPECTED_BODY", message));
        }
        (RequestBody::Whole, body) => match body {
            None => {}
            Some(Value::Object(fields)) => request = fields,
            Some(_) => return Err(no_object()),
        },
        (RequestBody::Field(_), None) => {
            let message = "expected a JSON object as body".to_owned();
            return Err(invalid("MISSING_BODY", message));
        }
        (RequestBody::Field(name), Some(body)) => {
            if !body.is_object() {
                return Err(no_object());
            }
            let field = input.get_field_by_name(name).expect(CONTRACT);
            request.insert(field.json_name().to_owned(), body);
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if route.body == RequestBody::Whole {
            return Err(unknown(&name));
        }
        if let Some(masked) = &masked
            && ["updateMask", UPDATE_MASK].contains(&&*name)
        {
            if !value.is_empty() {
                let paths: Vec<_> = value.split(',').collect();
                let given = Mask::parse(masked, &paths);
                mask = Some(given.map_err(|error| invalid_mask(&error))?);
            }
            continue;
        }
        // What the path or the body has set, the query cannot set.
        let first = name.split('.').next();
        let in_body = matches!(
            &route.body,
            RequestBody::Field(body) if first == Some(body)
        );
        let in_path = route.variables.iter().any(|v| v.field == name);
        if in_body || in_path {
            return Err(unknown(&name));
        }
        set(&input, &mut request, &name, value)
            .ok_or_else(|| unknown(&name))?;
    }
    for (variable, value) in route.variables.iter().zip(variables) {
        set(&input, &mut request, &variable.field, value).expect(CONTRACT);
    }
    let request = Value::Object(request);
    let message = DynamicMessage::deserialize(input, request)
        .map_err(|error| invalid("INVALID_JSON", error.to_string()))?;
    Ok(Input { message, mask })
}

const UPDATE_MASK: &str = "update_mask";
const CONTRACT: &str = "the contract's path names an existing field";

/// Returns the type of the body, if the method updates the fields that a mask
/// selects.
fn masked(route: &Route) -> Option<MessageDescriptor> {
    let input = route.method.input();
    let RequestBody::Field(name) = &route.body else { return None };
    input.get_field_by_name(UPDATE_MASK)?;
    match input.get_field_by_name(name)?.kind() {
        Kind::Message(message) => Some(message),
        _ => None,
    }
}

fn invalid_mask(error: &MaskError) -> Box<Failure> {
    invalid("INVALID_FIELD_MASK", error.to_string())
}

/// Parses a body. An empty one is `None`.
fn parse(body: &[u8]) -> Result<Option<Value>, Box<Failure>> {
    if body.is_empty() {
        return Ok(None);
    }
    let parsed = serde_json::from_slice(body);
    parsed.map(Some).map_err(|error| {
        invalid("MALFORMED_JSON", format!("the body is not JSON: {error}"))
    })
}

/// Sets the field at `path`, such as `comment.name`, in the JSON form of a
/// message. A field that may occur many times gets one more value. Returns
/// `None` if there is no such field.
fn set(
    message: &MessageDescriptor,
    json: &mut Map<String, Value>,
    path: &str,
    value: String,
) -> Option<()> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    let field = message
        .get_field_by_name(name)
        .or_else(|| message.get_field_by_json_name(name))?;
    // The body may use either name of the field.
    let key = if json.contains_key(field.name()) {
        field.name()
    } else {
        field.json_name()
    };
    let Some(rest) = rest else {
        let value = scalar(&field, value);
        if field.cardinality() == Cardinality::Repeated {
            let values =
                json.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            values.as_array_mut()?.push(value);
        } else {
            json.insert(key.to_owned(), value);
        }
        return Some(());
    };
    let Kind::Message(inner) = field.kind() else { return None };
    let entry = json.entry(key).or_insert_with(|| Value::Object(Map::new()));
    set(&inner, entry.as_object_mut()?, rest, value)
}

/// Returns the JSON form of a value in a path or a query. JSON accepts numbers
/// and enum names as text, but `true` and `false` only without quotes.
fn scalar(field: &FieldDescriptor, value: String) -> Value {
    match (field.kind(), value.as_str()) {
        (Kind::Bool, "true") => Value::Bool(true),
        (Kind::Bool, "false") => Value::Bool(false),
        _ => Value::String(value),
    }
}

fn decode(text: &str) -> Result<String, Box<Failure>> {
    let text = text.replace('+', " ");
    let text = percent_decode_str(&text).decode_utf8();
    text.map(String::from).map_err(|_| {
        invalid("INVALID_QUERY", "the query is not UTF-8".to_owned())
    })
}

fn unknown(name: &str) -> Box<Failure> {
    let mut failure =
        invalid("UNKNOWN_PARAMETER", format!("unknown parameter {name}"));
    failure.violations = vec![Violation {
        field: name.to_owned(),
        description: "the method has no such parameter".to_owned(),
    }];
    failure
}

fn no_object() -> Box<Failure> {
    invalid("INVALID_JSON", "expected a JSON object as body".to_owned())
}
