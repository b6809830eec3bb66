//! Wire format: the fields, messages and streams in the bytes of a gRPC call.
//!
//! *Question.* A program has the bytes of a call, from a recording or from a
//! client that it does not trust. How does it read them without the schema,
//! without a panic, and without losing a field that it does not know?
//!
//! *Idea.* Three layers of **length-prefixed** elements. HTTP/2 frames carry
//! pieces of many streams. The data of one stream is a sequence of gRPC
//! messages. A protobuf message is a sequence of fields. The **wire type** in
//! the tag of a field says where the field ends, so a reader needs no schema to
//! keep a field that it does not know.
//!
//! *Guarantee.* No input causes a panic, or an allocation much larger than the
//! input: each length is compared with the remaining bytes before it is used.
//! [`decode_fields`] accepts the bytes that prost accepts, except for groups.
//! [`encode_fields`] returns the same bytes again, if all varints in them are
//! in the shortest form.
//!
//! *Cost.* A wire type is not a type. Without the schema, a string, a message
//! and a packed list look the same, and so do an `int64` and a `sint64`. The
//! values of wire type 2 are copied. Headers are skipped, since HPACK refers to
//! all earlier headers of the connection: the method and the status of a call
//! stay unknown.
//!
//! ```
//! use week04::frames::{decode_fields, encode_fields, unzigzag};
//! use week04::wire_format::{Error, Field, Value};
//!
//! let bytes = [0x18, 0x96, 0x01, 0x40, 0x03];
//! let fields = decode_fields(&bytes)?;
//! assert_eq!(fields[0], Field { number: 3, value: Value::Varint(150) });
//! assert_eq!(fields[1], Field { number: 8, value: Value::Varint(3) });
//! assert_eq!(unzigzag(3), -2); // if field 8 is a `sint64`
//!
//! assert_eq!(encode_fields(&fields), bytes);
//! assert_eq!(decode_fields(&bytes[..2]), Err(Error::Truncated));
//! # Ok::<(), Error>(())
//! ```

use std::collections::BTreeMap;

use crate::wire_format::{
    DATA, Error, Field, GrpcMessage, MAX_FIELD_NUMBER, PADDED, PREFACE, Value,
    read_array,
};

/// Reads a varint and moves `bytes` past it.
pub fn read_varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let [byte] = read_array(bytes)?;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if bits << shift >> shift != bits {
            break;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Error::VarintOverflow)
}

/// Reads `length` bytes and moves `bytes` past them.
pub fn read_bytes<'a>(
    bytes: &mut &'a [u8],
    length: u64,
) -> Result<&'a [u8], Error> {
    // `as usize` would cut off bits on a 32-bit machine.
    let length = usize::try_from(length).map_err(|_| Error::Truncated)?;
    bytes.split_off(..length).ok_or(Error::Truncated)
}

/// Appends `value` as a varint in its shortest form.
pub fn write_varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Returns the varint of an `int32`.
pub fn from_int32(value: i32) -> u64 {
    i64::from(value) as u64
}

/// Returns the `int32` of a varint.
pub fn to_int32(varint: u64) -> i32 {
    varint as i32
}

/// Returns the varint of a `sint64`.
pub fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// Returns the `sint64` of a varint.
pub fn unzigzag(varint: u64) -> i64 {
    (varint >> 1) as i64 ^ -((varint & 1) as i64)
}

/// Decodes the fields of a message, in their order.
pub fn decode_fields(mut bytes: &[u8]) -> Result<Vec<Field>, Error> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = read_varint(&mut bytes)?;
        let Ok(number @ 1..=MAX_FIELD_NUMBER) = u32::try_from(tag >> 3) else {
            return Err(Error::FieldNumber(tag >> 3));
        };
        let value = match (tag & 7) as u8 {
            0 => Value::Varint(read_varint(&mut bytes)?),
            1 => Value::Fixed64(u64::from_le_bytes(read_array(&mut bytes)?)),
            2 => {
                let length = read_varint(&mut bytes)?;
                Value::Len(read_bytes(&mut bytes, length)?.to_vec())
            }
            5 => Value::Fixed32(u32::from_le_bytes(read_array(&mut bytes)?)),
            other => return Err(Error::WireType(other)),
        };
        fields.push(Field { number, value });
    }
    Ok(fields)
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
    let mut messages = Vec::new();
    while !data.is_empty() {
        let compressed = match read_array(&mut data)? {
            [0] => false,
            [1] => true,
            [flag] => return Err(Error::CompressedFlag(flag)),
        };
        let length = u32::from_be_bytes(read_array(&mut data)?);
        let payload = read_bytes(&mut data, length.into())?;
        messages.push(GrpcMessage { compressed, payload });
    }
    Ok(messages)
}

/// Returns the data of each stream, by the id of the stream.
///
/// `recording` has all bytes that one side of an HTTP/2 connection has sent.
pub fn stream_data(recording: &[u8]) -> Result<BTreeMap<u32, Vec<u8>>, Error> {
    let mut streams = BTreeMap::<u32, Vec<u8>>::new();
    let mut bytes = recording.strip_prefix(PREFACE).unwrap_or(recording);
    while !bytes.is_empty() {
        let [a, b, c, kind, flags, id @ ..] = read_array::<9>(&mut bytes)?;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = read_bytes(&mut bytes, length.into())?;
        if kind != DATA {
            continue;
        }
        // The first bit is reserved.
        let id = u32::from_be_bytes(id) & (u32::MAX >> 1);
        if id == 0 {
            return Err(Error::StreamZero);
        }
        if flags & PADDED != 0 {
            let (padding, rest) =
                payload.split_first().ok_or(Error::Padding)?;
            let length = rest.len().checked_sub((*padding).into());
            payload = &rest[..length.ok_or(Error::Padding)?];
        }
        // A message may begin in one frame of the stream and end in another.
        streams.entry(id).or_default().extend_from_slice(payload);
    }
    Ok(streams)
}
