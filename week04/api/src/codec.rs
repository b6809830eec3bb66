//! How gRPC reads and writes messages.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Protobuf, with small buffers. tonic allocates one for each request and one
/// for each answer, by default of 8 KiB. Most messages are much smaller, and
/// the buffers grow.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// The size of a new buffer in bytes.
const BUFFER: usize = 512;

/// The size at which a stream of messages is sent, as in tonic.
const YIELD_THRESHOLD: usize = 32 * 1024;

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::new(BufferSettings::new(BUFFER, YIELD_THRESHOLD))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(BufferSettings::new(BUFFER, YIELD_THRESHOLD))
    }
}
