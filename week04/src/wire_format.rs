//! The types of [`frames`](crate::frames): what the bytes of a call contain.

/// One field of a protobuf message, without its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// From 1 to [`MAX_FIELD_NUMBER`].
    pub number: u32,
    /// The value, as far as the wire type describes it.
    pub value: Value,
}

/// The value of a field. Each wire type has a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Wire type 0: an integer, a `bool` or an enum.
    Varint(u64),
    /// Wire type 1: a `fixed64`, a `sfixed64` or a `double`.
    Fixed64(u64),
    /// Wire type 2: a `string`, `bytes`, a message, or a packed list.
    Len(Vec<u8>),
    /// Wire type 5: a `fixed32`, a `sfixed32` or a `float`.
    Fixed32(u32),
}

/// One message of a gRPC stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcMessage<'a> {
    /// Whether the payload is compressed.
    pub compressed: bool,
    /// The encoded fields. They may be compressed.
    pub payload: &'a [u8],
}

/// The reason why bytes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end inside an element. More bytes may complete it.
    #[error("the bytes end inside a varint, a field, a message or a frame")]
    Truncated,
    /// A varint has more than ten bytes, or more than 64 bits.
    #[error("a varint is larger than 64 bits")]
    VarintOverflow,
    /// A field number is 0, or larger than [`MAX_FIELD_NUMBER`].
    #[error("{0} is not a field number")]
    FieldNumber(u64),
    /// A wire type is 3 or 4, which begin and end a group, or 6 or 7, which do
    /// not exist.
    #[error("wire type {0} is not supported")]
    WireType(u8),
    /// The first byte of a gRPC message is neither 0 nor 1.
    #[error("the compressed flag of a message is {0}")]
    CompressedFlag(u8),
    /// The padding of a DATA frame is longer than its payload.
    #[error("the padding of a DATA frame is longer than its payload")]
    Padding,
    /// A DATA frame is on stream 0, which is the connection itself.
    #[error("a DATA frame is on stream 0")]
    StreamZero,
}

/// The largest field number.
pub const MAX_FIELD_NUMBER: u32 = (1 << 29) - 1;

/// The bytes that a client sends before its first HTTP/2 frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The type of an HTTP/2 frame that carries data.
pub const DATA: u8 = 0;

/// The flag of a DATA frame that has padding.
pub const PADDED: u8 = 0x8;

/// Reads the first `N` bytes and moves `bytes` past them.
///
/// # Errors
///
/// Returns [`Error::Truncated`] if there are fewer than `N` bytes.
pub fn read_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Error> {
    let (array, rest) = bytes.split_first_chunk().ok_or(Error::Truncated)?;
    *bytes = rest;
    Ok(*array)
}

impl Value {
    /// Returns the number of the wire type.
    pub fn wire_type(&self) -> u8 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Len(_) => 2,
            Self::Fixed32(_) => 5,
        }
    }
}
