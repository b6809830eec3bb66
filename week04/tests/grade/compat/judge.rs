//! Compares two types by what prost-reflect writes and reads.

use prost_reflect::prost::Message as _;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind,
    ReflectMessage as _, SerializeOptions, Value,
};
use serde_json::value::Serializer;
use week04::contract::Breaks::{self, Json, Wire};

use super::contracts::Contract;

/// Samples 0 to 9 are numbers, and the next four belong to other types.
const SAMPLES: usize = 14;

const NUMBERS: [i128; 10] = [
    0,
    1,
    -1,
    2,
    i32::MAX as i128,
    i32::MIN as i128,
    u32::MAX as i128,
    i64::MAX as i128,
    i64::MIN as i128,
    u64::MAX as i128,
];

/// Returns the formats in which a value of field 1 of `T` is lost or changed.
/// Values are tried that both contracts can represent. If there are none, both
/// formats are returned.
pub(super) fn judge(old: &Contract, new: &Contract) -> Vec<Breaks> {
    let (mut wire, mut json, mut has_common_value) = (true, true, false);
    for sample in 0..SAMPLES {
        let both = (sample_message(old, sample), sample_message(new, sample));
        let (Some((old, old_is_list)), Some((new, new_is_list))) = both else {
            continue;
        };
        if old_is_list != new_is_list {
            continue;
        }
        has_common_value = true;
        for (from, to) in [(&old, &new), (&new, &old)] {
            let bytes = from.encode_to_vec();
            let read = DynamicMessage::decode(to.descriptor(), &*bytes);
            wire &= read.is_ok_and(|read| {
                read.get_field_by_number(1) == to.get_field_by_number(1)
            });
        }
        let options = SerializeOptions::new().skip_default_fields(false);
        let text = |message: &DynamicMessage| {
            message.serialize_with_options(Serializer, &options).unwrap()
        };
        json &= text(&old) == text(&new);
    }
    let kept = [(Wire, wire), (Json, json)];
    let lost = kept.iter().filter(|(_, kept)| !(has_common_value && *kept));
    lost.map(|(format, _)| *format).collect()
}

/// Fills all fields of a message `M`, and reads it by the contract `to`.
/// Returns a field that both contracts have and that does not keep its value.
pub(super) fn lost_field(
    from: &Contract,
    to: &Contract,
    format: Breaks,
) -> Option<String> {
    let [from, to] =
        [from, to].map(|each| each.pool.get_message_by_name("t.M").unwrap());
    let mut fields: Vec<_> = from.fields().collect();
    for _order in 0..2 {
        // Of the fields of one oneof, the last one keeps its value.
        fields.reverse();
        let mut message = DynamicMessage::new(from.clone());
        for field in &fields {
            let text = [Kind::String, Kind::Bytes].contains(&field.kind());
            set(&mut message, field, if text { 10 } else { 1 });
        }
        let read = if format == Wire {
            DynamicMessage::decode(to.clone(), &*message.encode_to_vec()).ok()
        } else {
            let json = serde_json::to_value(&message).unwrap();
            let options = DeserializeOptions::new().deny_unknown_fields(false);
            DynamicMessage::deserialize_with_options(to.clone(), json, &options)
                .ok()
        };
        for field in fields.iter().filter(|each| message.has_field(each)) {
            let same = if format == Wire {
                to.get_field(field.number())
            } else {
                to.get_field_by_json_name(field.json_name())
            };
            let Some(same) = same else { continue };
            let read = read.as_ref().map(|read| plain(&read.get_field(&same)));
            if read != Some(plain(&message.get_field(field))) {
                return Some(field.full_name().to_owned());
            }
        }
    }
    None
}

/// Returns the same text for values that different types write in the same way.
fn plain(value: &Value) -> String {
    match value {
        Value::Bool(value) => i32::from(*value).to_string(),
        Value::I32(value) | Value::EnumNumber(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Bytes(value) => String::from_utf8_lossy(value).into_owned(),
        Value::List(values) => {
            values.iter().map(|each| plain(each) + ",").collect()
        }
        other => format!("{other:?}"),
    }
}

/// Returns a `T` with this sample, and whether its field is a list.
fn sample_message(
    contract: &Contract,
    sample: usize,
) -> Option<(DynamicMessage, bool)> {
    let message = contract.pool.get_message_by_name("t.T").unwrap();
    let field = message.get_field(1).unwrap();
    let mut message = DynamicMessage::new(message);
    set(&mut message, &field, sample)?;
    Some((message, field.is_list()))
}

/// Sets a field, or returns `None` if its type cannot represent the sample.
fn set(
    message: &mut DynamicMessage,
    field: &FieldDescriptor,
    sample: usize,
) -> Option<()> {
    let mut value = value(&field.kind(), sample)?;
    if field.is_list() {
        value = Value::List(vec![value.clone(), value]);
    }
    message.set_field(field, value);
    Some(())
}

/// Returns `None` if the type cannot represent the sample.
fn value(kind: &Kind, sample: usize) -> Option<Value> {
    let number = NUMBERS.get(sample).copied();
    let value = match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            Value::I32(number?.try_into().ok()?)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(number?.try_into().ok()?)
        }
        Kind::Uint32 | Kind::Fixed32 => Value::U32(number?.try_into().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(number?.try_into().ok()?),
        Kind::Enum(_) => Value::EnumNumber(number?.try_into().ok()?),
        Kind::Bool if number == Some(0) => Value::Bool(false),
        Kind::Bool if number == Some(1) => Value::Bool(true),
        Kind::String if sample == 10 => Value::String("a".into()),
        Kind::Bytes if sample == 10 => Value::Bytes("a".into()),
        Kind::Float if sample == 11 => Value::F32(1.5),
        Kind::Double if sample == 11 => Value::F64(1.5),
        Kind::Message(message)
            if sample == if message.name() == "M" { 12 } else { 13 } =>
        {
            let mut value = DynamicMessage::new(message.clone());
            value.set_field_by_number(1, Value::Bool(true));
            Value::Message(value)
        }
        _ => return None,
    };
    Some(value)
}
