//! An OpenAPI 3.1 document, made from the descriptors of the contract.

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind,
    MessageDescriptor,
};
use serde_json::{Map, Value, json};

use super::transcode::{RequestBody, Route, routes};

/// Returns the document of all methods that have an HTTP form.
///
/// # Panics
///
/// Panics if a path in the contract is malformed.
#[must_use]
pub fn document(pool: &DescriptorPool) -> Value {
    let mut schemas = Map::new();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes(pool) {
        let method = route.http_method.as_str().to_lowercase();
        let operation = operation(&route, &mut schemas);
        let path = paths.entry(path(&route)).or_insert_with(|| json!({}));
        path[method] = operation;
    }
    schemas.insert("Error".to_owned(), error());
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Comment service", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn error() -> Value {
    let properties = json!({
        "code": {"type": "integer"},
        "status": {"type": "string"},
        "message": {"type": "string"},
        "details": {"type": "array", "items": {"type": "object"}},
    });
    let error = json!({"type": "object", "properties": properties});
    json!({"type": "object", "properties": {"error": error}})
}

/// Returns the path with each variable as one parameter. OpenAPI has no
/// variable with a slash, so `{name=subjects/*}` becomes
/// `subjects/{subjects}`: one parameter for each star, with the name of the
/// collection.
fn path(route: &Route) -> String {
    let mut path = String::new();
    let template = route.template.replace(['{', '}'], "/");
    let mut collection = "id";
    for part in template.split('/').filter(|part| !part.is_empty()) {
        let part = part.split_once('=').map_or(part, |(_, pattern)| pattern);
        match part.split_once(':') {
            Some(("", verb)) => path += &format!(":{verb}"),
            _ if part == "*" => path += &format!("/{{{collection}}}"),
            _ => {
                collection = part;
                path += &format!("/{part}");
            }
        }
    }
    path
}

fn operation(route: &Route, schemas: &mut Map<String, Value>) -> Value {
    let input = route.method.input();
    let mut parameters = Vec::new();
    for part in path(route).split('/') {
        if let Some(name) = part.strip_prefix('{') {
            let name = name.split('}').next().unwrap_or_default();
            parameters.push(json!({
                "name": name, "in": "path", "required": true,
                "schema": {"type": "string"},
            }));
        }
    }
    for field in input.fields() {
        let in_path = route.variables.iter().any(|v| v.field == field.name());
        let in_body = match &route.body {
            RequestBody::Absent => false,
            RequestBody::Field(body) => body == field.name(),
            RequestBody::Whole => true,
        };
        if !in_path && !in_body {
            parameters.push(json!({
                "name": field.json_name(), "in": "query",
                "description": comment(&field).unwrap_or_default(),
                "schema": schema(&field, schemas),
            }));
        }
    }
    let output = message(&route.method.output(), schemas);
    let mut operation = json!({
        "operationId": route.method.name(),
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "The answer",
                "content": {"application/json": {"schema": output}},
            },
            "default": {
                "description": "An error, as AIP-193 describes it",
                "content": {"application/json": {"schema": {
                    "$ref": "#/components/schemas/Error",
                }}},
            },
        },
    });
    let body = match &route.body {
        RequestBody::Absent => return operation,
        RequestBody::Whole => message(&input, schemas),
        RequestBody::Field(name) => {
            let field = input.get_field_by_name(name);
            schema(&field.expect("the field exists"), schemas)
        }
    };
    let content = json!({"application/json": {"schema": body}});
    operation["requestBody"] = json!({"required": true, "content": content});
    operation
}

/// Returns a reference to the schema of a message, and adds the schema.
fn message(
    descriptor: &MessageDescriptor,
    schemas: &mut Map<String, Value>,
) -> Value {
    let text = |format: &str| json!({"type": "string", "format": format});
    match descriptor.full_name() {
        "google.protobuf.Timestamp" => return text("date-time"),
        "google.protobuf.Duration" => return text("duration"),
        "google.protobuf.FieldMask" => return text("field-mask"),
        _ => {}
    }
    let name = descriptor.full_name();
    if !schemas.contains_key(name) {
        // First: a message may contain itself.
        schemas.insert(name.to_owned(), Value::Null);
        let mut properties = Map::new();
        for field in descriptor.fields() {
            let mut schema = schema(&field, schemas);
            if let Some(comment) = comment(&field) {
                schema["description"] = comment.into();
            }
            properties.insert(field.json_name().to_owned(), schema);
        }
        let schema = json!({"type": "object", "properties": properties});
        schemas.insert(name.to_owned(), schema);
    }
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn schema(field: &FieldDescriptor, schemas: &mut Map<String, Value>) -> Value {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            unreachable!("a map is a list of messages");
        };
        let values = single(&entry.map_entry_value_field(), schemas);
        return json!({"type": "object", "additionalProperties": values});
    }
    let value = single(field, schemas);
    match field.cardinality() {
        Cardinality::Repeated => json!({"type": "array", "items": value}),
        Cardinality::Optional | Cardinality::Required => value,
    }
}

/// Returns the schema of one value, as JSON represents it.
fn single(field: &FieldDescriptor, schemas: &mut Map<String, Value>) -> Value {
    match field.kind() {
        Kind::Double => json!({"type": "number", "format": "double"}),
        Kind::Float => json!({"type": "number", "format": "float"}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            json!({"type": "integer", "format": "int32"})
        }
        Kind::Uint32 | Kind::Fixed32 => {
            json!({"type": "integer", "format": "int64", "minimum": 0})
        }
        // JSON numbers are exact up to 2^53 only.
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            json!({"type": "string", "format": "int64"})
        }
        Kind::Uint64 | Kind::Fixed64 => {
            json!({"type": "string", "format": "uint64"})
        }
        Kind::Bool => json!({"type": "boolean"}),
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Message(descriptor) => message(&descriptor, schemas),
        Kind::Enum(descriptor) => enumeration(&descriptor),
    }
}

fn enumeration(descriptor: &EnumDescriptor) -> Value {
    let values = descriptor.values().map(|value| value.name().to_owned());
    json!({"type": "string", "enum": values.collect::<Vec<_>>()})
}

/// Returns the comment on a field in the contract.
fn comment(field: &FieldDescriptor) -> Option<String> {
    let file = field.parent_message().parent_file();
    let source = file.file_descriptor_proto().source_code_info.as_ref()?;
    let path = field.path();
    let location = source.location.iter().find(|at| at.path == path)?;
    let text = location.leading_comments.as_deref()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}
