//! Compatibility of a contract change: compare two sets of descriptors.
//!
//! *Question.* A service changes its `.proto` files, while clients still use
//! the old ones. Which clients does the change break: those that send the
//! binary format, or those that send JSON?
//!
//! *Idea.* The binary format identifies a field by its number, and JSON by its
//! name. So match the fields of the two contracts twice, by number and by name,
//! and compare the matched fields by the rules of that format.
//!
//! *Guarantee.* If [`compare`] finds no break in a format, each field that both
//! contracts have carries its values over, from old to new and from new to old,
//! as long as both types can represent them. Numbers and names of removed
//! fields stay reserved: if no release has a break, no later release gives them
//! another meaning.
//!
//! *Cost.* `compare` sees types, and not their meaning. Seconds that become
//! milliseconds are no break, nor is an `int64` that becomes an `int32` and
//! truncates large values. A field that replaces another one, with its number
//! and type, looks renamed. Removed types are reported even if unused.
//!
//! ```
//! use prost_reflect::DescriptorPool;
//! use prost_types::field_descriptor_proto::Type;
//! use prost_types::{
//!     DescriptorProto, FieldDescriptorProto, FileDescriptorProto,
//! };
//! use week04::compat::compare;
//!
//! let place = |number| FileDescriptorProto {
//!     name: Some("place.proto".to_owned()),
//!     message_type: vec![DescriptorProto {
//!         name: Some("Place".to_owned()),
//!         field: vec![FieldDescriptorProto {
//!             name: Some("label".to_owned()),
//!             number: Some(number),
//!             r#type: Some(Type::String.into()),
//!             ..Default::default()
//!         }],
//!         ..Default::default()
//!     }],
//!     ..Default::default()
//! };
//! let (mut old, mut new) = (DescriptorPool::new(), DescriptorPool::new());
//! old.add_file_descriptor_proto(place(1))?;
//! new.add_file_descriptor_proto(place(2))?;
//!
//! let breaks = compare(&old, &new);
//! assert_eq!(breaks[0].to_string(), "Place.label: Renumbered (Wire)");
//! # Ok::<(), prost_reflect::DescriptorError>(())
//! ```

use prost_reflect::{
    DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};

use crate::contract::{
    Break, Breaks, Change, Members, Pairs, Report, http_bindings,
};

/// Returns the breaks from `old` to `new`, sorted by element and then by
/// change.
#[must_use]
pub fn compare(old: &DescriptorPool, new: &DescriptorPool) -> Vec<Break> {
    let Pairs { messages, enums, methods, removed } = Pairs::new(old, new);
    let mut report = Report::default();
    for element in &removed {
        report.add(element, Change::Removed, Breaks::Both);
    }
    for (old, new) in &messages {
        compare_members(&old.into(), &new.into(), &mut report);
        compare_fields(old, new, Breaks::Wire, &mut report);
        compare_fields(old, new, Breaks::Json, &mut report);
    }
    for (old, new) in &enums {
        compare_members(&old.into(), &new.into(), &mut report);
    }
    for (old, new) in &methods {
        compare_methods(old, new, &mut report);
    }
    report.into_breaks()
}

/// Compares the numbers and names of the fields of a message, or of the values
/// of an enum.
fn compare_members(old: &Members, new: &Members, report: &mut Report) {
    for member in &old.members {
        let (element, number) = (&member.element, member.number);
        match new.with_json_name(&member.json_name) {
            Some(same) if same.number == number => {}
            // Clients still send the old number. To reserve it does not help.
            Some(_) => report.add(element, Change::Renumbered, Breaks::Wire),
            None if new.with_number(number).is_some() => {
                report.add(element, Change::Renamed, Breaks::Json);
            }
            None => {
                if !new.reserves(&(number..number + 1)) {
                    report.add(element, Change::Removed, Breaks::Wire);
                }
                if !new.reserved_names.contains(&member.name) {
                    report.add(element, Change::Removed, Breaks::Json);
                }
            }
        }
    }
    let mut ranges = old.reserved_numbers.iter();
    if !ranges.all(|range| new.reserves(range)) {
        report.add(&old.element, Change::Unreserved, Breaks::Wire);
    }
    if !old.reserved_names.is_subset(&new.reserved_names) {
        report.add(&old.element, Change::Unreserved, Breaks::Json);
    }
}

/// Compares the types and the oneofs of the fields that match in `format`.
fn compare_fields(
    old: &MessageDescriptor,
    new: &MessageDescriptor,
    format: Breaks,
    report: &mut Report,
) {
    let matches = old.fields().filter_map(|field| {
        let by_name = new.get_field_by_json_name(field.json_name());
        let same = match (format, by_name) {
            (Breaks::Json, by_name) => by_name?,
            // A renumbered field is not the one that now has its number.
            (_, Some(same)) if same.number() != field.number() => return None,
            _ => new.get_field(field.number())?,
        };
        Some((field, same))
    });
    let matches: Vec<_> = matches.collect();
    for (old, new) in &matches {
        if type_of(old, format) != type_of(new, format) {
            report.add(old.full_name(), Change::Type, format);
        }
        let moved = matches.iter().any(|(old_other, new_other)| {
            old != old_other
                && share_oneof(old, old_other) != share_oneof(new, new_other)
        });
        if moved {
            report.add(old.full_name(), Change::Oneof, format);
        }
    }
}

/// Returns whether only one of two fields can be set.
fn share_oneof(a: &FieldDescriptor, b: &FieldDescriptor) -> bool {
    let oneof = a.containing_oneof();
    oneof.is_some() && oneof == b.containing_oneof()
}

/// Compares the types, the streams and the HTTP bindings of a method.
fn compare_methods(
    old: &MethodDescriptor,
    new: &MethodDescriptor,
    report: &mut Report,
) {
    let types = |method: &MethodDescriptor| {
        let [input, output] = [method.input(), method.output()];
        (
            (input.full_name().to_owned(), method.is_client_streaming()),
            (output.full_name().to_owned(), method.is_server_streaming()),
        )
    };
    if types(old) != types(new) {
        report.add(old.full_name(), Change::Type, Breaks::Both);
    }
    if !http_bindings(old).is_subset(&http_bindings(new)) {
        report.add(old.full_name(), Change::HttpBinding, Breaks::Json);
    }
}

/// Returns the same text for all types that are compatible in `format`.
fn type_of(field: &FieldDescriptor, format: Breaks) -> String {
    let name = |kind: &Kind| match format {
        Breaks::Json => json_type(kind),
        _ => wire_type(kind),
    };
    match &field.kind() {
        Kind::Message(entry) if field.is_map() => {
            let key = entry.map_entry_key_field().kind();
            let value = entry.map_entry_value_field().kind();
            format!("map<{}, {}>", name(&key), name(&value))
        }
        kind if field.is_list() => format!("repeated {}", name(kind)),
        kind => name(kind),
    }
}

fn wire_type(kind: &Kind) -> String {
    let name = match kind {
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => "varint",
        Kind::Bool | Kind::Enum(_) => "varint",
        Kind::Sint32 | Kind::Sint64 => "zigzag varint",
        Kind::Fixed32 | Kind::Sfixed32 => "4 bytes",
        Kind::Fixed64 | Kind::Sfixed64 => "8 bytes",
        Kind::String | Kind::Bytes => "length and bytes",
        Kind::Float => "float",
        Kind::Double => "double",
        Kind::Message(message) => return format!(".{}", message.full_name()),
    };
    name.to_owned()
}

fn json_type(kind: &Kind) -> String {
    let name = match kind {
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 => "integer",
        Kind::Fixed32 | Kind::Sfixed32 => "integer",
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 => "integer in a string",
        Kind::Fixed64 | Kind::Sfixed64 => "integer in a string",
        Kind::Float | Kind::Double => "number",
        Kind::Bool => "boolean",
        Kind::String => "string",
        Kind::Bytes => "base64",
        Kind::Enum(values) => return format!(".{}", values.full_name()),
        Kind::Message(message) => return format!(".{}", message.full_name()),
    };
    name.to_owned()
}
