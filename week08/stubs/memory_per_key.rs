//! Redis memory: how many bytes a key costs. Your turn.
//!
//! These rules are graded, and nothing else.
//!
//! `INFO`:
//! - A field is a line `name:value`. The name ends at the first colon of the
//!   line, and the value is the whole rest of the line, which may be empty.
//!   Spaces are parts of names and values. A line ends with `\n` or `\r\n`,
//!   which is not a part of the value. Both may occur in one text, and the last
//!   line may have no end. A `\r` elsewhere is a part of the line.
//! - Other lines and other fields are ignored, and the fields may come in any
//!   order. A field that you need occurs at most once.
//! - If there is a `valkey_version`, the server is a Valkey of this version. A
//!   Valkey may also have a `redis_version`, the version of a compatible Redis.
//!   Otherwise the server is a Redis, and `redis_version` is its version.
//! - `mem_allocator` and `used_memory` are also needed. If a field is missing,
//!   `parse` returns `Missing` with its name; if there is no version, the name
//!   is `redis_version`. If the value of `used_memory` is not a decimal number
//!   from 0 to `u64::MAX`, `parse` returns `UsedMemory` with this value. Zeros
//!   in front are allowed, and a plus sign is not graded. If several fields are
//!   bad, the error may be about any of them.
//!
//! Measurement:
//! - `bytes_per_key` is (after - before) / keys. The difference is exact. If
//!   the difference is negative, the result is negative, too. If `keys` is 0,
//!   the result is `NoKeys`.
//!
//! Servers:
//! - `Redis70` is the model of Redis 7.0 with the allocator `jemalloc-5.3.0`,
//!   and `Valkey91` that of Valkey 9.1 with `libc`. Split the version at its
//!   dots, and compare the first two parts as text: `7.0.15` and `7.0` are a
//!   7.0, but `7.01.2` and `7.0-rc1` are not. The name of the allocator is
//!   compared as a whole. Every other server is refused: `Unsupported` contains
//!   the server.
//!
//! Allocation (graded for requests from 1 byte to 1 TiB):
//! - `Redis70`, jemalloc: a request of up to 8 bytes gets 8 bytes. A request of
//!   up to 128 bytes gets the next multiple of 16. Above 128, each doubling has
//!   four size classes: 160, 192, 224, 256, 320, 384, 448, 512, 640 and so on.
//!   The request gets the first class that is not smaller.
//! - `Valkey91`, glibc: add 8 bytes (glibc's header), round up to a multiple
//!   of 16, but to 32 at least, and subtract the 8 bytes again.
//!
//! `bytes` is the sum of these allocations. Each of them is rounded up as
//! above, separately:
//! - An embedded value has no allocation of its own. In the object, it takes 4
//!   bytes more than its length: 3 for a header and one for NUL.
//! - `Redis70`, for each key: an entry of 24 bytes; the key, of `sds_size`
//!   bytes; and the object. If the value has at most 44 bytes, the object has
//!   16 bytes plus those of the embedded value. If the value is longer, the
//!   object has 16 bytes, and the value has an allocation of its own, of
//!   `sds_size` bytes.
//! - `Redis70`, once: the table, of 8 bytes a slot. The number of slots is the
//!   smallest power of two that is at least 4 and at least the number of keys.
//! - `Valkey91`, for each key: an object. The object has 8 bytes in front; the
//!   key, which takes 1 byte more than its `sds_size`; and the embedded value,
//!   which takes 8 bytes at least. If this sum, before it is rounded up, is
//!   more than 128 bytes, the value is not embedded. Then the object has 16
//!   bytes in front (24 if `key_len` is at least 128) and the key as before,
//!   and the value has an allocation of its own, of `sds_size` bytes.
//! - `Valkey91`, once: the table, of 64 bytes a bucket. A bucket has 7 places.
//!   The number of buckets is the smallest power of two (1 counts as one) that
//!   gives more places than keys. There are also `child_buckets` child buckets:
//!   each is an allocation of 64 bytes.
//! - If `is_covered` returns false, `bytes` returns `None`, also for 0 keys.
//!   Otherwise 0 keys need 0 bytes. No call of `bytes` panics or overflows.
//!
//! Help: `str::lines`, `split_once`, `next_multiple_of`, `next_power_of_two`.
//! The last three functions of this file are given.

use thiserror::Error;

/// The length of the longest key and of the longest value that the model
/// covers.
pub const MAX_LEN: u64 = 32_767;

/// The largest number of keys that the model covers.
pub const MAX_KEYS: u64 = 1 << 32;

/// What the model needs from the output of `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The server.
    pub server: Server,
    /// The bytes that the server has allocated (`used_memory`).
    pub used_memory: u64,
}

/// The properties of a server that determine the memory of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The program.
    pub product: Product,
    /// Its version, such as `7.0.15`.
    pub version: String,
    /// Its allocator, such as `jemalloc-5.3.0`.
    pub allocator: String,
}

/// A program that has the command `INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// The memory of a server before and after keys were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement {
    /// `used_memory` before.
    pub before: u64,
    /// `used_memory` after.
    pub after: u64,
    /// The keys that were added: the difference of `DBSIZE`.
    pub keys: u64,
}

/// Predicts the memory of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Redis 7.0 with the jemalloc 5.3.0 of the system.
    Redis70,
    /// Valkey 9.1 with the malloc of glibc.
    Valkey91,
}

/// The reason why [`Info::parse`] failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InfoError {
    /// A field is missing.
    #[error("INFO has no field {0}")]
    Missing(&'static str),
    /// `used_memory` is not a `u64`.
    #[error("used_memory is {0:?}, which is not a number of bytes")]
    UsedMemory(String),
}

/// No keys were added, so there are no bytes per key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no keys were added")]
pub struct NoKeys;

/// No model is known for this server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no model for {:?} {} with {}", .0.product, .0.version, .0.allocator)]
pub struct Unsupported(pub Server);

impl Info {
    /// Reads the output of `INFO`.
    pub fn parse(_text: &str) -> Result<Self, InfoError> {
        todo!("where does the name of a field end?")
    }
}

impl Measurement {
    /// Returns the bytes of a key, which are negative if memory was freed.
    pub fn bytes_per_key(&self) -> Result<f64, NoKeys> {
        todo!("which type holds the difference of two `u64`?")
    }
}

impl Model {
    /// Returns the model of the server.
    pub fn for_server(_server: &Server) -> Result<Self, Unsupported> {
        todo!("for which servers has it been measured?")
    }

    /// Returns the bytes that the allocator uses for a request of `bytes`.
    pub fn allocated(self, _bytes: u64) -> u64 {
        todo!("which multiple is the next size class?")
    }

    /// Returns the bytes that `keys` keys need, or `None` if the model does not
    /// cover this number or these lengths.
    pub fn bytes(
        self,
        _keys: u64,
        _key_len: u64,
        _value_len: u64,
    ) -> Option<u64> {
        todo!("which allocations does each key need, and which all together?")
    }
}

/// Returns whether the model covers this number of keys and these lengths.
#[allow(dead_code, reason = "you will use it")]
fn is_covered(keys: u64, key_len: u64, value_len: u64) -> bool {
    keys <= MAX_KEYS && (1..=MAX_LEN).contains(&key_len) && value_len <= MAX_LEN
}

/// Returns the size of a string (an sds): its header, its bytes and NUL.
pub fn sds_size(len: u64) -> u64 {
    let header = match len {
        0..32 => 1,
        32..256 => 3,
        256..65_536 => 5,
        65_536..0x1_0000_0000 => 9,
        _ => 17,
    };
    header + len + 1
}

/// Returns the expected number of Valkey's child buckets, for uniform hashes.
pub fn child_buckets(keys: u64, buckets: u64) -> u64 {
    let mean = keys as f64 / buckets as f64;
    // The probability that a bucket has `n` keys (Poisson).
    let mut probability = (-mean).exp();
    let mut children = 0.0;
    for n in 1..100_u32 {
        probability *= mean / f64::from(n);
        // A bucket holds 7 keys, or 6 and a pointer to a child.
        children += probability * f64::from(n.saturating_sub(2) / 6);
    }
    (children * buckets as f64).round() as u64
}
