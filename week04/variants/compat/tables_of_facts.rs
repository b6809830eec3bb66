//! States each contract as a table of facts, and compares the tables.
//!
//! A fact is the type of a field, or the statement that it excludes another
//! field. For each format, the facts have other keys: numbers in the binary
//! format, names in JSON. Each fact that only one of the tables has is a break.
//! The compatible types are lists of names.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use crate::contract::{
    Break, Breaks, Change, Members, Pairs, Report, http_bindings,
};

const WIRE: [&str; 5] = [
    "int32 int64 uint32 uint64 bool enum",
    "sint32 sint64",
    "fixed32 sfixed32",
    "fixed64 sfixed64",
    "string bytes",
];

const JSON: [&str; 3] = [
    "int32 uint32 sint32 fixed32 sfixed32",
    "int64 uint64 sint64 fixed64 sfixed64",
    "float double",
];

/// The type of a field, under its key and `None`. Under its key and that of
/// another field, the statement that the two exclude each other.
type Facts = BTreeMap<(String, Option<String>), String>;

/// Returns the breaks from `old` to `new`, sorted by element and then by
/// change.
#[must_use]
pub fn compare(old: &DescriptorPool, new: &DescriptorPool) -> Vec<Break> {
    let pairs = Pairs::new(old, new);
    let mut report = Report::default();
    let members = pairs.messages.iter().map(|(a, b)| (a.into(), b.into()));
    let enums = pairs.enums.iter().map(|(a, b)| (a.into(), b.into()));
    for (old, new) in members.chain(enums) {
        numbers_and_names(&old, &new, &mut report);
    }
    for (old, new) in &pairs.messages {
        for format in [Breaks::Wire, Breaks::Json] {
            fields(old, new, format, &mut report);
        }
    }
    for element in &pairs.removed {
        report.add(element, Change::Removed, Breaks::Both);
    }
    for (old, new) in &pairs.methods {
        let [before, after] = [old, new].map(|method| {
            let (input, output) = (method.input(), method.output());
            format!(
                "{} {} {} {}",
                method.is_client_streaming(),
                input.full_name(),
                method.is_server_streaming(),
                output.full_name(),
            )
        });
        if before != after {
            report.add(old.full_name(), Change::Type, Breaks::Both);
        }
        let bindings = http_bindings(new);
        if http_bindings(old).iter().any(|each| !bindings.contains(each)) {
            report.add(old.full_name(), Change::HttpBinding, Breaks::Json);
        }
    }
    report.into_breaks()
}

fn numbers_and_names(old: &Members, new: &Members, report: &mut Report) {
    let numbers: BTreeSet<_> =
        new.members.iter().map(|member| member.number).collect();
    let names: BTreeMap<_, _> = new
        .members
        .iter()
        .map(|member| (&member.json_name, member.number))
        .collect();
    for member in &old.members {
        let number = member.number;
        let is_used = numbers.contains(&number);
        let now = names.get(&member.json_name);
        let is_free = !is_used && now.is_none();
        let is_reserved = new.reserves(&(number..number + 1));
        let name_is_reserved = new.reserved_names.contains(&member.name);
        for (applies, change, breaks) in [
            (
                now.is_some_and(|now| *now != number),
                Change::Renumbered,
                Breaks::Wire,
            ),
            (now.is_none() && is_used, Change::Renamed, Breaks::Json),
            (is_free && !is_reserved, Change::Removed, Breaks::Wire),
            (is_free && !name_is_reserved, Change::Removed, Breaks::Json),
        ] {
            if applies {
                report.add(&member.element, change, breaks);
            }
        }
    }
    for range in &old.reserved_numbers {
        if !new.reserves(range) {
            report.add(&old.element, Change::Unreserved, Breaks::Wire);
        }
    }
    for name in &old.reserved_names {
        if !new.reserved_names.contains(name) {
            report.add(&old.element, Change::Unreserved, Breaks::Json);
        }
    }
}

fn fields(
    old: &MessageDescriptor,
    new: &MessageDescriptor,
    format: Breaks,
    report: &mut Report,
) {
    let key = |field: &FieldDescriptor| match format {
        Breaks::Wire => field.number().to_string(),
        _ => field.json_name().to_owned(),
    };
    let new_keys: BTreeSet<_> = new.fields().map(|field| key(&field)).collect();
    let is_renumbered = |field: &FieldDescriptor| {
        let same = new.get_field_by_json_name(field.json_name());
        same.is_some_and(|same| same.number() != field.number())
    };
    let mut elements = BTreeMap::new();
    for field in old.fields() {
        let matches = format == Breaks::Json || !is_renumbered(&field);
        if matches && new_keys.contains(&key(&field)) {
            elements.insert(key(&field), field.full_name().to_owned());
        }
    }
    let facts = |message: &MessageDescriptor| {
        let mut facts = Facts::new();
        for field in message.fields() {
            let oneof = field.containing_oneof();
            let others = oneof.iter().flat_map(|oneof| oneof.fields());
            for other in others.filter(|other| *other != field) {
                let pair = (key(&field), Some(key(&other)));
                facts.insert(pair, "excluded".to_owned());
            }
            facts.insert((key(&field), None), type_name(&field, format));
        }
        facts.retain(|(field, other), _| {
            let mut keys = [Some(field), other.as_ref()].into_iter().flatten();
            keys.all(|key| elements.contains_key(key))
        });
        facts
    };
    let (before, after) = (facts(old), facts(new));
    for fact in before.keys().chain(after.keys()) {
        if before.get(fact) == after.get(fact) {
            continue;
        }
        let (field, other) = fact;
        let change = if other.is_some() { Change::Oneof } else { Change::Type };
        report.add(&elements[field], change, format);
    }
}

fn type_name(field: &FieldDescriptor, format: Breaks) -> String {
    let group = |kind: Kind| {
        let name = match &kind {
            Kind::Enum(_) if format == Breaks::Wire => "enum".to_owned(),
            Kind::Enum(values) => format!(".{}", values.full_name()),
            Kind::Message(message) => format!(".{}", message.full_name()),
            // The names of the other types, as in a `.proto` file.
            scalar => format!("{scalar:?}"),
        };
        let groups: &[&str] =
            if format == Breaks::Wire { &WIRE } else { &JSON };
        let has_name =
            |group: &&&str| group.split(' ').any(|each| each == name);
        groups
            .iter()
            .find(has_name)
            .map_or_else(|| name.clone(), |group| (*group).to_owned())
    };
    let kind = field.kind();
    match kind.as_message().filter(|_| field.is_map()) {
        Some(entry) => {
            let key = entry.map_entry_key_field().kind();
            let value = entry.map_entry_value_field().kind();
            format!("{} -> {}", group(key), group(value))
        }
        None => format!("{:?} {}", field.is_list(), group(kind)),
    }
}
