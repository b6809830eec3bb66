//! No loop with `?`: fields and messages are iterators that `collect` until the
//! first error, a frame is a slice pattern, and a varint is read from its last
//! byte to its first. The end of an element is found before its value is
//! computed.

use std::collections::BTreeMap;
use std::iter;

use crate::wire_format::{
    DATA, Error, Field, GrpcMessage, MAX_FIELD_NUMBER, PADDED, PREFACE, Value,
};

/// Reads a varint and moves `bytes` past it.
pub fn read_varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    let last = bytes.iter().take(10).position(|byte| *byte < 0x80);
    let Some(last) = last else {
        let incomplete = bytes.len() < 10;
        return Err(match incomplete {
            true => Error::Truncated,
            false => Error::VarintOverflow,
        });
    };
    let groups = read_bytes(bytes, last as u64 + 1)?;
    let value = groups.iter().rev().try_fold(0_u64, |value, byte| {
        Some(value.checked_mul(0x80)? + u64::from(byte & 0x7f))
    });
    value.ok_or(Error::VarintOverflow)
}

/// Reads `length` bytes and moves `bytes` past them.
pub fn read_bytes<'a>(
    bytes: &mut &'a [u8],
    length: u64,
) -> Result<&'a [u8], Error> {
    if length > bytes.len() as u64 {
        return Err(Error::Truncated);
    }
    let (read, rest) = bytes.split_at(length as usize);
    *bytes = rest;
    Ok(read)
}

/// Appends `value` as a varint in its shortest form.
pub fn write_varint(value: u64, bytes: &mut Vec<u8>) {
    let groups = iter::successors(Some(value), |value| match value >> 7 {
        0 => None,
        rest => Some(rest),
    });
    bytes.extend(groups.map(|value| {
        let more = if value >> 7 == 0 { 0 } else { 0x80 };
        (value & 0x7f) as u8 | more
    }));
}

/// Returns the varint of an `int32`.
pub fn from_int32(value: i32) -> u64 {
    // A cast from a signed type to a larger one copies the sign.
    value as u64
}

/// Returns the `int32` of a varint.
pub fn to_int32(varint: u64) -> i32 {
    (varint & 0xffff_ffff) as u32 as i32
}

/// Returns the varint of a `sint64`.
pub fn zigzag(value: i64) -> u64 {
    match value {
        0.. => value as u64 * 2,
        ..0 => !value as u64 * 2 + 1,
    }
}

/// Returns the `sint64` of a varint.
pub fn unzigzag(varint: u64) -> i64 {
    let half = (varint / 2) as i64;
    if varint.is_multiple_of(2) { half } else { !half }
}

/// Decodes the fields of a message, in their order.
pub fn decode_fields(mut bytes: &[u8]) -> Result<Vec<Field>, Error> {
    iter::from_fn(|| (!bytes.is_empty()).then(|| field(&mut bytes))).collect()
}

fn field(bytes: &mut &[u8]) -> Result<Field, Error> {
    let tag = read_varint(bytes)?;
    let number = tag >> 3;
    if number == 0 || number > MAX_FIELD_NUMBER.into() {
        return Err(Error::FieldNumber(number));
    }
    let wire_type = (tag % 8) as u8;
    let length = match wire_type {
        0 => {
            let value = Value::Varint(read_varint(bytes)?);
            return Ok(Field { number: number as u32, value });
        }
        1 => 8,
        2 => read_varint(bytes)?,
        5 => 4,
        _ => return Err(Error::WireType(wire_type)),
    };
    let bytes = read_bytes(bytes, length)?;
    let number = number as u32;
    let little_endian =
        || bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let value = match wire_type {
        1 => Value::Fixed64(little_endian()),
        5 => Value::Fixed32(little_endian() as u32),
        _ => Value::Len(bytes.into()),
    };
    Ok(Field { number, value })
}

/// Encodes the fields of a message, in their order.
pub fn encode_fields(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Field { number, value } in fields {
        let tag = u64::from(*number) << 3 | u64::from(value.wire_type());
        write_varint(tag, &mut bytes);
        match value {
            Value::Varint(value) => write_varint(*value, &mut bytes),
            Value::Fixed64(value) => bytes.extend(value.to_le_bytes()),
            Value::Len(value) => {
                write_varint(value.len() as u64, &mut bytes);
                bytes.extend(value);
            }
            Value::Fixed32(value) => bytes.extend(value.to_le_bytes()),
        }
    }
    bytes
}

/// Splits the data of one stream into gRPC messages.
pub fn grpc_messages(mut data: &[u8]) -> Result<Vec<GrpcMessage<'_>>, Error> {
    iter::from_fn(|| (!data.is_empty()).then(|| message(&mut data))).collect()
}

fn message<'a>(data: &mut &'a [u8]) -> Result<GrpcMessage<'a>, Error> {
    let &[flag, a, b, c, d, ref rest @ ..] = *data else {
        return Err(Error::Truncated);
    };
    if flag > 1 {
        return Err(Error::CompressedFlag(flag));
    }
    *data = rest;
    let payload = read_bytes(data, u32::from_be_bytes([a, b, c, d]).into())?;
    Ok(GrpcMessage { compressed: flag == 1, payload })
}

/// Returns the data of each stream, by the id of the stream.
///
/// `recording` has all bytes that one side of an HTTP/2 connection has sent.
pub fn stream_data(recording: &[u8]) -> Result<BTreeMap<u32, Vec<u8>>, Error> {
    let frames = recording.strip_prefix(PREFACE).unwrap_or(recording);
    let mut streams = BTreeMap::new();
    add_frames(frames, &mut streams)?;
    Ok(streams)
}

fn add_frames(
    mut frames: &[u8],
    streams: &mut BTreeMap<u32, Vec<u8>>,
) -> Result<(), Error> {
    while let &[a, b, c, kind, flags, d, e, f, g, ref rest @ ..] = frames {
        frames = rest;
        let length = u32::from_be_bytes([0, a, b, c]);
        let payload = read_bytes(&mut frames, length.into())?;
        let id = u32::from_be_bytes([d & 0x7f, e, f, g]);
        match (kind, id) {
            (DATA, 0) => return Err(Error::StreamZero),
            (DATA, _) => {
                streams.entry(id).or_default().extend(match flags & PADDED {
                    0 => payload,
                    _ => without_padding(payload).ok_or(Error::Padding)?,
                })
            }
            _ => {}
        }
    }
    if frames.is_empty() { Ok(()) } else { Err(Error::Truncated) }
}

fn without_padding(payload: &[u8]) -> Option<&[u8]> {
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub((*padding).into())?)
}
