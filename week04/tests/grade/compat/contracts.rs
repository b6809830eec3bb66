//! Compiles contracts from a small part of the language of `.proto` files, and
//! compares them.

use std::iter::Peekable;
use std::vec::IntoIter;

use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use week04::compat::compare;
use week04::contract::{Break, Breaks, Change, Report};
use week04_api::DESCRIPTORS;

/// The files that methods with HTTP bindings need.
const IMPORTS: [&str; 3] = [
    "google/protobuf/descriptor.proto",
    "google/api/http.proto",
    "google/api/annotations.proto",
];

/// A contract, and the text that it is compiled from.
#[derive(Debug)]
pub(super) struct Contract {
    pub(super) text: String,
    pub(super) pool: DescriptorPool,
}

/// Compiles a file of the package `t`. A method has its HTTP bindings at its
/// end, as in `get:/v1/a post:/v1/a:*`.
pub(super) fn contract(text: impl Into<String>) -> Contract {
    let text = text.into();
    let spaced = text.chars().map(|each| match each {
        '(' | ')' | '<' | '>' | ',' => " ".to_owned(),
        '{' | '}' | '=' | ';' => format!(" {each} "),
        other => other.to_string(),
    });
    let spaced: String = spaced.collect();
    let tokens: Vec<_> = spaced.split_whitespace().map(str::to_owned).collect();
    let mut file =
        json!({"name": "t.proto", "package": "t", "syntax": "proto3"});
    let mut pool = DescriptorPool::new();
    if text.contains("rpc") {
        file["dependency"] = json!(IMPORTS);
        for name in IMPORTS {
            let import = DESCRIPTORS.get_file_by_name(name).unwrap();
            let bytes = import.encode_to_vec();
            pool.decode_file_descriptor_proto(&*bytes).unwrap();
        }
    }
    Parser(tokens.into_iter().peekable()).items(&mut file);
    let name = "google.protobuf.FileDescriptorProto";
    let message = DESCRIPTORS.get_message_by_name(name).unwrap();
    let file = DynamicMessage::deserialize(message, file).unwrap();
    pool.decode_file_descriptor_proto(&*file.encode_to_vec())
        .unwrap_or_else(|error| panic!("`{text}`: {error:?}"));
    Contract { text, pool }
}

/// Returns the message `M`. Each field has a label or a oneof, and a text.
pub(super) fn message<'a>(
    fields: impl IntoIterator<Item = (&'a str, String)>,
) -> Contract {
    let [mut text, mut x, mut y] = [const { String::new() }; 3];
    for (group, field) in fields {
        match group {
            "x" => x += &field,
            "y" => y += &field,
            label => text += &format!("{label} {field}"),
        }
    }
    for (name, fields) in [("x", x), ("y", y)] {
        if !fields.is_empty() {
            text += &format!("oneof {name} {{ {fields}}} ");
        }
    }
    contract(format!("message M {{ {text}}} enum E {{ A = 0; B = 1; }}"))
}

/// The element, the change, and the clients that it breaks.
pub(super) type Found = (String, Change, Breaks);

pub(super) fn assert_breaks(
    old: impl Into<String>,
    new: impl Into<String>,
    expected: impl IntoIterator<Item = (impl Into<String>, Change, Breaks)>,
) {
    assert_contracts(&contract(old), &contract(new), expected);
}

/// Expects exactly these breaks, sorted.
pub(super) fn assert_contracts(
    old: &Contract,
    new: &Contract,
    expected: impl IntoIterator<Item = (impl Into<String>, Change, Breaks)>,
) {
    if let Err(difference) = expect(old, new, expected) {
        panic!("{difference}");
    }
}

/// Returns an error if `compare` does not return exactly these breaks, sorted.
pub(super) fn expect(
    old: &Contract,
    new: &Contract,
    expected: impl IntoIterator<Item = (impl Into<String>, Change, Breaks)>,
) -> Result<(), String> {
    let mut report = Report::default();
    for (element, change, breaks) in expected {
        report.add(&element.into(), change, breaks);
    }
    let expected = report.into_breaks();
    let seen = compare(&old.pool, &new.pool);
    if seen == expected {
        return Ok(());
    }
    let [expected, seen] = [expected, seen].map(|breaks| {
        let breaks: Vec<_> = breaks.iter().map(Break::to_string).collect();
        format!("[{}]", breaks.join(", "))
    });
    let (old, new) = (&old.text, &new.text);
    Err(format!(
        "from `{old}` to `{new}`: expected the breaks {expected}, got {seen}"
    ))
}

/// Returns every pair of two items, also of an item with itself.
pub(super) fn pairs<T>(items: &[T]) -> impl Iterator<Item = (&T, &T)> {
    items.iter().flat_map(move |a| items.iter().map(move |b| (a, b)))
}

/// Turns tokens into the JSON form of a `FileDescriptorProto`.
struct Parser(Peekable<IntoIter<String>>);

impl Parser {
    fn next(&mut self) -> String {
        self.0.next().unwrap_or_else(|| "}".to_owned())
    }

    fn take(&mut self, token: &str) -> bool {
        self.0.next_if(|next| next == token).is_some()
    }

    /// Reads the declarations in `scope`, up to its end.
    fn items(&mut self, scope: &mut Value) {
        let is_file = scope["syntax"].is_string();
        loop {
            match &*self.next() {
                "}" => return,
                ";" => {}
                "message" if is_file => self.item(scope, "messageType"),
                "message" => self.item(scope, "nestedType"),
                "enum" => self.item(scope, "enumType"),
                "service" => self.item(scope, "service"),
                "oneof" => self.oneof(scope),
                "reserved" => self.reserved(scope),
                "rpc" => self.method(scope),
                name if self.take("=") => {
                    let value = json!({"name": name, "number": self.next()});
                    push(scope, "value", value);
                }
                first => self.field(first, scope),
            }
        }
    }

    fn item(&mut self, scope: &mut Value, list: &str) {
        let mut item = json!({"name": self.next()});
        if list == "enumType" {
            item["options"] = json!({"allowAlias": true});
        }
        self.take("{");
        self.items(&mut item);
        push(scope, list, item);
    }

    fn oneof(&mut self, scope: &mut Value) {
        let index = push(scope, "oneofDecl", json!({"name": self.next()}));
        self.take("{");
        let mut item = json!({});
        self.items(&mut item);
        for field in item["field"].as_array_mut().unwrap() {
            field["oneofIndex"] = json!(index);
            push(scope, "field", field.take());
        }
    }

    fn reserved(&mut self, scope: &mut Value) {
        let is_enum = scope["value"].is_array();
        while !self.take(";") {
            let first = self.next();
            if first.starts_with('"') {
                let name = first.trim_matches('"');
                push(scope, "reservedName", json!(name));
                continue;
            }
            let last =
                if self.take("to") { self.next() } else { first.clone() };
            let max = if is_enum { i64::from(i32::MAX) } else { (1 << 29) - 1 };
            let last: i64 = last.parse().unwrap_or(max);
            // The end of a range is included only in enums.
            let end = if is_enum { last } else { last + 1 };
            push(scope, "reservedRange", json!({"start": first, "end": end}));
        }
    }

    fn field(&mut self, first: &str, scope: &mut Value) {
        let has_label = ["optional", "repeated"].contains(&first);
        let kind = if has_label { self.next() } else { first.to_owned() };
        let is_map = kind == "map";
        let types = is_map.then(|| [self.next(), self.next()]);
        let name = self.next();
        self.take("=");
        let entry = format!("{}Entry", name.to_uppercase());
        let kind = if is_map { &entry } else { &kind };
        let mut field = typed(kind, &name, &self.next());
        if let Some([key, value]) = types {
            let fields = [typed(&key, "key", "1"), typed(&value, "value", "2")];
            let options = json!({"mapEntry": true});
            let entry =
                json!({"name": entry, "field": fields, "options": options});
            push(scope, "nestedType", entry);
        }
        if first == "repeated" || is_map {
            field["label"] = json!("LABEL_REPEATED");
        }
        if first == "optional" {
            let oneof = json!({"name": format!("_{name}")});
            field["oneofIndex"] = json!(push(scope, "oneofDecl", oneof));
            field["proto3Optional"] = json!(true);
        }
        if self.take("json") {
            self.take("=");
            field["jsonName"] = json!(self.next());
        }
        push(scope, "field", field);
    }

    fn method(&mut self, scope: &mut Value) {
        let mut method = json!({"name": self.next()});
        for (kind, streaming) in [
            ("inputType", "clientStreaming"),
            ("outputType", "serverStreaming"),
        ] {
            method[streaming] = json!(self.take("stream"));
            method[kind] = json!(self.next());
            self.take("returns");
        }
        let mut rules = Vec::new();
        while !self.take(";") {
            let binding = self.next();
            let mut parts = binding.split(':');
            let mut part = || parts.next().unwrap_or_default();
            let (verb, path) = (part(), part());
            rules.push(json!({verb: path, "body": part()}));
        }
        if !rules.is_empty() {
            let mut rule = rules.remove(0);
            rule["additionalBindings"] = json!(rules);
            method["options"] = json!({"[google.api.http]": rule});
        }
        push(scope, "method", method);
    }
}

/// Returns a field. The types of messages and enums have capital letters.
fn typed(kind: &str, name: &str, number: &str) -> Value {
    let mut field = json!({"name": name, "number": number});
    if kind.contains(char::is_uppercase) {
        field["typeName"] = json!(kind);
    } else {
        field["type"] = json!(format!("TYPE_{}", kind.to_uppercase()));
    }
    field
}

/// Adds `item` to a list in `scope`, and returns its index.
fn push(scope: &mut Value, list: &str, item: Value) -> usize {
    if scope[list].is_null() {
        scope[list] = json!([]);
    }
    let items = scope[list].as_array_mut().unwrap();
    items.push(item);
    items.len() - 1
}
