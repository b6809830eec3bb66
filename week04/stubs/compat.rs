//! Compatibility of a contract change: compare two sets of descriptors. Your
//! turn.
//!
//! These rules are graded, and nothing else:
//!
//! - `compare` returns the breaks from `old` to `new`, sorted by element and
//!   then by change. Each rule adds its breaks independently of the others. If
//!   the same change of one element breaks both formats, this is one break with
//!   `Both`. `Report` sorts and combines.
//! - What the new contract adds is no break. Nor is another order of
//!   declarations, another name of a oneof, or a field that becomes `optional`
//!   or is not `optional` any more.
//! - If a message, enum, service or method has no counterpart with the same
//!   full name in the new contract, this is `Removed` and breaks `Both`. The
//!   parts of a removed element add no breaks. `Pairs` finds all this. It leaves
//!   out the entries of maps, and files in the folder `google`.
//! - For each field of a message, and each value of an enum, search its JSON
//!   name and its number in the new message or enum. What can be reserved is
//!   the name in the `.proto` file: `Member` has both names.
//!
//!   | The new message or enum has | Change | Breaks |
//!   |-----------------------------|--------|--------|
//!   | the JSON name with the same number | none | |
//!   | the JSON name with another number | `Renumbered` | `Wire` |
//!   | not the JSON name, but the number | `Renamed` | `Json` |
//!   | neither, and does not reserve the number | `Removed` | `Wire` |
//!   | neither, and does not reserve the name | `Removed` | `Json` |
//!
//! - If a number that a message or an enum has reserved is no longer reserved,
//!   this is `Unreserved` and breaks `Wire`. For a name, it breaks `Json`. The
//!   ranges of numbers may be split, joined or reordered.
//! - In JSON, a field matches the new field that has the same JSON name. In the
//!   binary format, it matches the new field that has the same number, but a
//!   field that is `Renumbered` matches none.
//! - If the types of matching fields are not compatible in a format, this is
//!   `Type` and breaks that format. These types are compatible:
//!
//!   | In the binary format | In JSON |
//!   |----------------------|---------|
//!   | `int32`, `int64`, `uint32`, `uint64`, `bool`, every enum | `int32`, `uint32`, `sint32`, `fixed32`, `sfixed32` |
//!   | `sint32`, `sint64` | `int64`, `uint64`, `sint64`, `fixed64`, `sfixed64` |
//!   | `fixed32`, `sfixed32` | `float`, `double` |
//!   | `fixed64`, `sfixed64` | |
//!   | `string`, `bytes` | |
//!
//!   Any other type is compatible only with itself. Messages are the same type
//!   if they have the same full name. In JSON, this also holds for enums.
//! - A single field, a `repeated` field and a map are never compatible. Two
//!   lists are compatible if the types of their items are. Two maps are
//!   compatible if the types of their keys are, and the types of their values.
//! - Two fields exclude each other if they are in the same oneof. If two old
//!   fields exclude each other and the new fields that they match do not, or
//!   the reverse, this is `Oneof` for each of the two old fields, and breaks
//!   the format in which they match.
//! - If the request or the response of a method has another message type, or if
//!   it becomes a stream or is no longer one, this is `Type` and breaks `Both`.
//! - If a method loses one of its HTTP bindings, this is `HttpBinding` and
//!   breaks `Json`. New bindings and another order are no break.
//!
//! The private functions are a suggestion. The first rung needs only `compare`
//! and `compare_members`: call each of the other functions when you have
//! written it. The module `crate::contract` is given: read the documentation of
//! its types.

use prost_reflect::{
    DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};

use crate::contract::{
    Break, Breaks, Change, Members, Pairs, Report, http_bindings,
};

/// Returns the breaks from `old` to `new`, sorted by element and then by
/// change.
#[must_use]
pub fn compare(_old: &DescriptorPool, _new: &DescriptorPool) -> Vec<Break> {
    todo!("which function compares each kind of pair?")
}

/// Compares the numbers and names of the fields of a message, or of the values
/// of an enum. `(&message).into()` makes `Members` of a message.
fn compare_members(_old: &Members, _new: &Members, _report: &mut Report) {
    todo!(
        "the name has another number, or is gone: what do clients still send?"
    )
}

/// Compares the types and the oneofs of the fields that match in `format`.
fn compare_fields(
    _old: &MessageDescriptor,
    _new: &MessageDescriptor,
    _format: Breaks,
    _report: &mut Report,
) {
    todo!("which new field reads what a client has written into the old one?")
}

/// Compares the types, the streams and the HTTP bindings of a method.
fn compare_methods(
    _old: &MethodDescriptor,
    _new: &MethodDescriptor,
    _report: &mut Report,
) {
    todo!("which calls of an old client does the new server still accept?")
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

fn wire_type(_kind: &Kind) -> String {
    todo!("which types does the binary format write in the same way?")
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
