//! Wire format: the fields, messages and streams in the bytes of a gRPC call.
//! Your turn.
//!
//! These rules are graded, and nothing else:
//!
//! - No function panics, whatever the bytes are. Memory is allocated only for
//!   bytes that are in the input, not for a length that the input claims: at
//!   most 4 KiB, and 200 bytes for each byte of the input.
//! - If the bytes end inside a varint, a field, a gRPC message, a frame or
//!   `PREFACE`, or if `read_bytes` has fewer than `length` bytes, the error is
//!   `Truncated`. If the bytes have several faults, the error of any of them is
//!   correct. An empty input has no fields, messages or streams.
//! - *Varint:* a byte holds seven bits of the value, the lowest bits first. The
//!   highest bit of a byte is set if another byte follows. `read_varint`
//!   accepts forms that are longer than necessary, up to ten bytes. An eleventh
//!   byte, or a value above `u64::MAX`, is a `VarintOverflow`. `write_varint`
//!   appends the shortest form.
//! - `read_varint` and `read_bytes` move `bytes` past the bytes that they read.
//!   After an error, `bytes` may be at any position.
//! - *int32:* the value is extended to 64 bits with its sign, and these bits
//!   are the varint. So a negative value takes ten bytes. `to_int32` ignores
//!   the upper 32 bits.
//! - *sint64:* 0, -1, 1, -2, 2 … are the varints 0, 1, 2, 3, 4 …, for all
//!   values of an `i64`.
//! - *Field:* a tag, and then the value. The tag is a varint: the lowest three
//!   bits are the wire type, and the other bits are the field number. The value
//!   of wire type 0 is a varint. Wire type 1 has eight bytes and wire type 5
//!   has four, both in little-endian order. Wire type 2 has a length, which is
//!   a varint, and then as many bytes. Any other wire type is an error
//!   `WireType`. A number that is not in `1..=MAX_FIELD_NUMBER` is an error
//!   `FieldNumber`. `WireType` carries the wire type that was read, and
//!   `FieldNumber` the field number.
//! - `decode_fields` returns all fields in their order. It joins no fields and
//!   omits none.
//! - *gRPC message:* the compressed flag (one byte, 0 or 1), the length of the
//!   payload (four bytes, big-endian), and the payload. Any other flag is an
//!   error `CompressedFlag` with this flag. The payload is returned as it is,
//!   even if it is compressed.
//! - *Frame:* the length of the payload (three bytes), the type (one byte), the
//!   flags (one byte), the stream id (four bytes), and the payload. Numbers are
//!   big-endian. The highest bit of the stream id has no meaning and is
//!   ignored. A flag of one type may mean something else in another type.
//! - `stream_data` joins the payloads of the `DATA` frames of each stream, in
//!   their order. Frames of different streams may alternate. A stream that has
//!   only empty `DATA` frames is in the map, with no bytes. A stream without a
//!   `DATA` frame is not in the map. Frames of all other types are skipped,
//!   whatever their flags and stream ids are. A `DATA` frame on stream 0 is an
//!   error `StreamZero`.
//! - A recording of what a client has sent begins with `PREFACE`, and a
//!   recording of a server does not. `stream_data` reads both.
//! - If the flag `PADDED` of a `DATA` frame is set, the first byte of its
//!   payload is the length of the padding at its end. The first byte and the
//!   padding are not data. If there is no first byte, or if fewer bytes follow
//!   it than the padding needs, the error is `Padding`. Other flags have no
//!   effect.
//!
//! Help: the module `crate::wire_format` is given. It has the types, the
//! constants, and `read_array`: read it. `encode_fields` is given, too, and
//! works when `write_varint` does. The slice methods `split_off` and
//! `strip_prefix` are useful.

use std::collections::BTreeMap;

use crate::wire_format::{Error, Field, GrpcMessage, Value};

/// Reads a varint and moves `bytes` past it.
pub fn read_varint(_bytes: &mut &[u8]) -> Result<u64, Error> {
    todo!("how many bits may the tenth byte have?")
}

/// Reads `length` bytes and moves `bytes` past them.
pub fn read_bytes<'a>(
    _bytes: &mut &'a [u8],
    _length: u64,
) -> Result<&'a [u8], Error> {
    todo!("what if `length` is u64::MAX?")
}

/// Appends `value` as a varint in its shortest form.
pub fn write_varint(_value: u64, _bytes: &mut Vec<u8>) {
    todo!("when is a byte the last one?")
}

/// Returns the varint of an `int32`.
pub fn from_int32(_value: i32) -> u64 {
    todo!("which bits does a negative value have as an i64?")
}

/// Returns the `int32` of a varint.
pub fn to_int32(_varint: u64) -> i32 {
    todo!("which bits of the varint count?")
}

/// Returns the varint of a `sint64`.
pub fn zigzag(_value: i64) -> u64 {
    todo!("which bit holds the sign?")
}

/// Returns the `sint64` of a varint.
pub fn unzigzag(_varint: u64) -> i64 {
    todo!("how do you undo `zigzag`?")
}

/// Decodes the fields of a message, in their order.
pub fn decode_fields(_bytes: &[u8]) -> Result<Vec<Field>, Error> {
    todo!("where does each field end?")
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
pub fn grpc_messages(_data: &[u8]) -> Result<Vec<GrpcMessage<'_>>, Error> {
    todo!("what comes before each payload?")
}

/// Returns the data of each stream, by the id of the stream.
///
/// `recording` has all bytes that one side of an HTTP/2 connection has sent.
pub fn stream_data(_recording: &[u8]) -> Result<BTreeMap<u32, Vec<u8>>, Error> {
    todo!("which bytes of which frames are the data of a stream?")
}
